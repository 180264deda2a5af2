"""The same commands give the same bits: however grouped, compiled or not, interrupted by a snapshot or not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.ranking import RankingMachine, RankingSettings, commands, learn, queries

SMALL = RankingSettings(factors=4, negatives=3, history=6, window=4, rate=6554, max_users=40, max_items=300)

_pair = st.tuples(st.integers(0, 30), st.integers(0, 200))
_command = st.one_of(
    st.lists(_pair, min_size=1, max_size=12).map(commands.observe),
    st.lists(_pair, min_size=1, max_size=12).map(commands.observe),
    st.tuples(_pair, st.integers(1, 9)).map(lambda p: commands.observe([(*p[0], p[1])])),
    st.sampled_from(["a", "b", "c", "d", "e", "f"]).map(commands.publish),
    st.sampled_from(["live", "a", "b", "c"]).map(commands.rollback),
    st.sampled_from([commands.freeze(), commands.unfreeze(), commands.unfreeze(), b"\xc1garbage"]),
    st.tuples(st.integers(0, 200), st.integers(-9999, 9999)).map(
        lambda p: commands.upsert_item(p[0], p[1], f"t{p[1]}")
    ),
    st.tuples(st.integers(0, 30), st.integers(-(1 << 31), (1 << 31) - 1)).map(
        lambda p: commands.delta("user", [p[0]], [[p[1]] * 4])
    ),
)
_history = st.lists(_command, max_size=30)


def answers(machine: RankingMachine) -> list[bytes]:
    return [
        machine.query(queries.rank(user, 20, version=version))
        for user in (0, 1, 7, 99)
        for version in ("serving", "live")
    ]


@settings(max_examples=60, deadline=None)
@given(_history, st.data())
def test_grouping_of_commands_and_asking_for_digests_change_no_bit(
    history: list[bytes], data: st.DataObject
) -> None:
    one = RankingMachine(SMALL)
    together = one.apply(history)
    other = RankingMachine(SMALL)
    apart = []
    start = 0
    while start < len(history):
        stop = data.draw(st.integers(start + 1, len(history)))
        apart += other.apply(history[start:stop])
        start = stop
        if data.draw(st.booleans()):
            other.digest()
    assert apart == together
    assert other.digest() == one.digest()
    assert answers(other) == answers(one)


@settings(max_examples=40, deadline=None)
@given(st.lists(_pair, min_size=1, max_size=80), st.lists(st.integers(1, 20), min_size=80, max_size=80))
def test_grouping_of_interactions_into_commands_changes_no_bit(
    pairs: list[tuple[int, int]], sizes: list[int]
) -> None:
    one = RankingMachine(SMALL)
    one.apply([commands.observe(pairs)])
    other = RankingMachine(SMALL)
    start = 0
    for size in sizes:
        if pairs[start : start + size]:
            other.apply([commands.observe(pairs[start : start + size])])
        start += size
    assert other.digest() == one.digest()
    assert answers(other) == answers(one)


@settings(max_examples=40, deadline=None)
@given(_history, _history)
def test_restoring_a_snapshot_and_going_on_is_the_same_as_never_stopping(
    first: list[bytes], then: list[bytes]
) -> None:
    steady = RankingMachine(SMALL)
    steady.apply(first)
    chunks = steady.snapshot()
    resumed = RankingMachine(SMALL)
    resumed.apply([commands.observe([(3, 3)])])
    resumed.restore(chunks)
    assert resumed.digest() == steady.digest()
    assert answers(resumed) == answers(steady)
    assert resumed.apply(then) == steady.apply(then)
    assert resumed.digest() == steady.digest()
    assert answers(resumed) == answers(steady)


def test_a_digest_kept_block_by_block_equals_one_made_from_scratch_when_tables_have_grown() -> None:
    chosen = RankingSettings(factors=4, negatives=8)
    kept = RankingMachine(chosen)
    for step in range(60):
        kept.apply(
            [commands.observe([((step * 37 + i) % 900, (step * 61 + i * i) % 1500) for i in range(50)])]
        )
        kept.digest()
    fresh = RankingMachine(chosen)
    fresh.restore(kept.snapshot())
    assert fresh.digest() == kept.digest()


@pytest.mark.parametrize("negatives", [0, 1])
def test_every_row_block_that_a_single_command_touches_is_hashed_again(negatives: int) -> None:
    # Items of one history lie in different blocks of 64 rows, and so few rows change at a time that a forgotten one shows.
    kept = RankingMachine(RankingSettings(factors=4, negatives=negatives, rate=65536, history_rate=65536))
    kept.apply(
        [commands.upsert_items([(item, None, None) for item in range(s, s + 256)]) for s in (0, 256, 512)]
    )
    kept.apply([commands.observe([(user, 0)]) for user in range(200)])
    fresh = RankingMachine(kept.settings)
    for step in range(24):
        command = [
            commands.observe([(step * 67 % 200, step * 131 % 768)]),
            commands.observe([(7, step * 131 % 768)]),
            commands.delta(("user", "item", "history")[step % 3], [step * 67 % 200], [[step] * 4]),
            commands.upsert_item(step * 131 % 768, step, f"title {step}"),
        ][step % 4]
        kept.digest()
        kept.apply([command])
        fresh.restore(kept.snapshot())
        assert fresh.digest() == kept.digest()


@settings(max_examples=60, deadline=None)
@given(_history, _command)
def test_the_digest_changes_exactly_when_the_snapshot_does(history: list[bytes], command: bytes) -> None:
    machine = RankingMachine(SMALL)
    machine.apply(history)
    digest, chunks = machine.digest(), machine.snapshot()
    machine.apply([command])
    assert (machine.digest() == digest) == (machine.snapshot() == chunks)


# ---------------------------------------------------------------------------------------- compiled and uncompiled


def script(extreme: bool) -> list[bytes]:
    """Some hundred commands; with `extreme`, every parameter is driven against its bound again and again."""
    rng = Random(5)
    made = [commands.upsert_items([(item, None, None) for item in range(30)])]
    for _ in range(25):
        pairs = [(rng.randrange(8), rng.randrange(60)) for _ in range(5)]
        made.append(commands.observe(pairs))
        if extreme:
            for table, rows in (
                ("user", [user for user, _ in pairs]),
                ("item", range(30)),
                ("history", range(30)),
            ):
                steps = [[rng.choice([-(1 << 31), (1 << 31) - 1])] * 6 for _ in rows]
                made.append(commands.delta(table, list(rows), steps))
    return [*made, commands.publish("v"), commands.observe([(1, 1), (2, 2)])]


def fingerprint(extreme: bool) -> list[str]:
    """Digest and answers after `script`."""
    rate = 65536 if extreme else 3277
    chosen = RankingSettings(
        factors=6,
        negatives=5,
        history=9,
        window=7,
        rate=rate,
        history_rate=rate,
        bias_rate=rate,
        decay=1 << 24,
    )
    machine = RankingMachine(chosen)
    machine.apply(script(extreme))
    answers = [
        machine.query(queries.rank(user, 40, version=v)).hex() for user in range(8) for v in ("v", "live")
    ]
    return [machine.digest().hex(), *answers]


@pytest.mark.parametrize("extreme", [False, True])
def test_the_uncompiled_loops_give_the_same_bits_and_never_overflow(extreme: bool) -> None:
    root = Path(__file__).resolve().parents[3]
    # Warnings are errors there: numpy warns of an integer that left int64, which compiled loops would pass over.
    code = (
        f"import json, runpy; m = runpy.run_path({str(Path(__file__))!r}); from node.ranking import learn;"
        f"assert not hasattr(learn.observe, 'py_func'); print(json.dumps(m['fingerprint']({extreme})))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", code],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == fingerprint(extreme)


def test_the_compiled_loop_equals_its_own_python_form_on_the_same_arrays() -> None:
    rng = np.random.default_rng(3)
    rule = np.array([3277, 1600, 1600, 1 << 20, 6, 9, 5], np.int64)

    def arrays() -> list[object]:
        source = np.random.default_rng(4)
        tables = [source.integers(-20000, 20000, (rows, 5)).astype(np.int32) for rows in (6, 20, 20)]
        small = [
            np.zeros(20, np.int32),
            np.zeros((6, 8), np.int32),
            np.zeros(6, np.int64),
            np.zeros(20, np.int64),
        ]
        return [
            *tables,
            *small,
            np.zeros(1, np.uint8),
            np.zeros(1, np.uint8),
            rule,
            np.array([0, 0, 0, 4], np.int64),
        ]

    users = rng.integers(0, 6, 40)
    items = rng.integers(0, 20, 40)
    values = np.ones(40, np.int64)
    compiled, plain = arrays(), arrays()
    learn.observe(users, items, values, 1, *compiled)
    learn.observe.py_func(users, items, values, 1, *plain)  # type: ignore[attr-defined]
    for one, other in zip(compiled, plain, strict=True):
        assert np.array_equal(one, other)  # type: ignore[arg-type]
    assert compiled[-1].tolist()[1:] == [40, 40, 20]  # type: ignore[attr-defined]


def test_these_commands_gave_this_digest_on_the_day_the_format_was_fixed() -> None:
    # A change of this value is a change of what replicas must agree on: it needs a new snapshot format, not a new number here.
    assert fingerprint(False)[0] == "382ad768b57387ec05b19007466dd6cadcfae33b590c2bbaafdde447b630aaf7"


def test_the_sigmoid_table_is_the_rounded_function_and_symmetric() -> None:
    cells = (np.arange(2048) - 1024 + 0.5) / 128
    assert np.abs(learn.SIGMOID - 65536 / (1 + np.exp(-cells))).max() < 0.5001
    assert (learn.SIGMOID + learn.SIGMOID[::-1] == learn.ONE).all()


def test_the_counter_based_generator_spreads_evenly_and_repeats_itself() -> None:
    draws = [learn.mix(counter, 1) for counter in range(20_000)]
    assert draws[:50] == [learn.mix(counter, 1) for counter in range(50)]
    assert draws[:50] != [learn.mix(counter, 2) for counter in range(50)]
    counts = np.bincount(np.array([(draw * 50) >> 32 for draw in draws]), minlength=50)
    assert counts.min() > 300
    assert counts.max() < 500
