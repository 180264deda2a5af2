"""What every machine promises (`node.machine.Machine`); the same suite for each of them.

For a machine of your own: `pytest tests/contract/test_machine_contract.py --machine module:Class`, with a class that the virtual
world can use: its `workload(client, rng)` gives the commands and queries that are tried here, good ones and damaged ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import msgpack
import pytest
from contract_class import chosen
from hypothesis import given, settings
from hypothesis import strategies as st

from node.kv import KvMachine, append, cas, get, put
from node.kv import machine as kv
from node.machine import Machine, QueryError
from node.ranking import RankingMachine, RankingSettings, commands, queries
from node.ranking.commands import Status, decode_result
from sim.virtual import subjects

_pairs = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 60)), min_size=1, max_size=6)


@dataclass
class Kind:
    """A machine under the contract: how to make one, good commands, queries, and how it says that a command is malformed."""

    make: Callable[[], Machine]
    commands: st.SearchStrategy[bytes]
    queries: list[bytes]
    malformed: Callable[[bytes], str | None] | None
    """None: nobody here can read this machine's results."""


def _kv_malformed(result: bytes) -> str | None:
    fields = msgpack.unpackb(result)
    return fields[1] if fields[0] == kv.BAD else None


def _ranking_malformed(result: bytes) -> str | None:
    said = decode_result(result)
    return said.text if said.status == Status.MALFORMED else None


_key, _value = st.sampled_from([b"a", b"b", b"c"]), st.binary(max_size=8)
KINDS = {
    "kv": Kind(
        KvMachine,
        st.one_of(
            st.builds(put, _key, _value),
            st.builds(append, _key, _value),
            st.builds(cas, _key, st.none() | _value, _value),
        ),
        [get(b"a"), get(b"b"), get(b"c")],
        _kv_malformed,
    ),
    "ranking": Kind(
        lambda: RankingMachine(
            RankingSettings(factors=4, negatives=2, history=5, window=4, max_users=15, max_items=40)
        ),
        st.one_of(
            _pairs.map(commands.observe),
            _pairs.map(commands.observe),
            st.sampled_from(["v1", "v2", "v3"]).map(commands.publish),
            st.sampled_from(["live", "v1", "v2"]).map(commands.rollback),
            st.sampled_from([commands.freeze(), commands.unfreeze()]),
            st.tuples(st.integers(0, 60), st.integers(-99, 99)).map(
                lambda drawn: commands.upsert_item(drawn[0], drawn[1], f"title {drawn[1]}")
            ),
            st.tuples(st.integers(0, 20), st.integers(-(1 << 31), (1 << 31) - 1)).map(
                lambda drawn: commands.delta("user", [drawn[0]], [[drawn[1]] * 4])
            ),
        ),
        [queries.stats(), *(queries.rank(user, 10) for user in (0, 1, 5, 19))],
        _ranking_malformed,
    ),
}


def own(spec: str) -> Kind:
    """The machine that the command line names."""
    subject = subjects.machine(spec)

    def command(drawn: tuple[int, str]) -> bytes:
        client = subject.workload("c1", Random(drawn[0]))
        if drawn[1]:
            client.sizes(drawn[1])
        return client.command(1, drawn[0] % 1000)

    seeds = st.tuples(st.integers(0, 10_000), st.sampled_from(["", "", "", "huge", "empty"]))
    asked = [subject.workload("c1", Random(seed)).query() for seed in range(6)]
    return Kind(subject.make, seeds.map(command), list(dict.fromkeys(asked)), None)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "name" in metafunc.fixturenames:
        chosen(metafunc.config, "machine")  # says what is wrong with the option
        spec = getattr(metafunc.config.option, "contract_machine", None)
        if spec is not None:
            KINDS["chosen"] = own(spec)
        metafunc.parametrize("name", sorted(KINDS) if spec is None else ["chosen"])


_scalar = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
)
_tree = st.recursive(_scalar, lambda inner: st.lists(inner, max_size=4), max_leaves=8)
_garbage = st.one_of(
    st.binary(max_size=30),
    _tree.map(msgpack.packb),
    # Nearly a command: the right kind and number of fields, nonsense in them.
    st.tuples(st.integers(0, 9), st.lists(_tree, max_size=4)).map(
        lambda drawn: msgpack.packb([drawn[0], *drawn[1]])
    ),
    st.sampled_from(
        [b"\x91" * 2000, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
    ),
)


def mixed(data: st.DataObject, kind: Kind, most: int = 20) -> list[bytes]:
    """Commands, good ones and garbage, sometimes a good one cut short or with a bit turned over."""
    found = []
    for command in data.draw(
        st.lists(kind.commands | kind.commands | kind.commands | _garbage, max_size=most)
    ):
        damage = data.draw(st.integers(0, 11))
        if damage == 0 and command:
            command = command[: data.draw(st.integers(0, len(command) - 1))]
        elif damage == 1 and command:
            place = data.draw(st.integers(0, len(command) - 1))
            command = (
                command[:place]
                + bytes([command[place] ^ 1 << data.draw(st.integers(0, 7))])
                + command[place + 1 :]
            )
        found.append(command)
    return found


def view(machine: Machine, kind: Kind) -> list[Any]:
    """Everything that can be seen of a machine from outside."""
    return [machine.digest(), machine.snapshot(), [answer(machine, query) for query in kind.queries]]


def answer(machine: Machine, query: bytes) -> bytes | str:
    """The answer, or the words of the refusal."""
    try:
        return machine.query(query)
    except QueryError as error:
        return str(error)


@settings(max_examples=35, deadline=None)
@given(data=st.data())
def test_how_commands_are_grouped_into_calls_and_when_a_digest_is_asked_for_make_no_difference(
    name: str, data: st.DataObject
) -> None:
    kind = KINDS[name]
    history = mixed(data, kind)
    together, apart = kind.make(), kind.make()
    results = together.apply(history)
    singly: list[bytes] = []
    while len(singly) < len(history):
        stop = data.draw(st.integers(len(singly) + 1, len(history)))
        singly += apart.apply(history[len(singly) : stop])
        looks = data.draw(st.integers(0, 3))
        if looks == 1:
            apart.digest()
        elif looks == 2:
            apart.snapshot()
        elif looks == 3:
            view(apart, kind)
    assert singly == results
    assert view(apart, kind) == view(together, kind)


@settings(max_examples=35, deadline=None)
@given(data=st.data())
def test_no_bytes_make_apply_raise_and_check_says_beforehand_what_is_malformed(
    name: str, data: st.DataObject
) -> None:
    kind = KINDS[name]
    machine = kind.make()
    machine.apply(data.draw(st.lists(kind.commands, max_size=5)))
    for command in mixed(data, kind, 12):
        problem = machine.check(command)
        before = machine.digest()
        (result,) = machine.apply([command])
        assert type(result) is bytes
        assert kind.make().check(command) == problem, "check looks at the command alone"
        if kind.malformed is not None:
            assert kind.malformed(result) == problem
        if problem is not None:
            assert problem, "a problem without words"
            assert machine.digest() == before
            assert kind.make().apply([command]) == [result], "what is malformed does not depend on the state"


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_restored_snapshot_is_the_state_and_goes_on_as_it_would_have(
    name: str, data: st.DataObject
) -> None:
    kind = KINDS[name]
    machine, other = kind.make(), kind.make()
    machine.apply(mixed(data, kind))
    chunks = machine.snapshot()
    seen = view(machine, kind)
    other.apply(data.draw(st.lists(kind.commands, max_size=5)))
    other.digest()
    other.restore(chunks)
    assert view(other, kind) == seen
    then = mixed(data, kind, 8)
    assert other.apply(then) == machine.apply(then)
    assert view(other, kind) == view(machine, kind)
    assert all(len(chunk) <= 1 << 20 for chunk in chunks)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_later_commands_do_not_reach_into_a_snapshot_taken_before(name: str, data: st.DataObject) -> None:
    kind = KINDS[name]
    machine, other = kind.make(), kind.make()
    machine.apply(data.draw(st.lists(kind.commands, max_size=8)))
    chunks, digest = machine.snapshot(), machine.digest()
    copies = [bytes(bytearray(chunk)) for chunk in chunks]
    machine.apply(data.draw(st.lists(kind.commands, min_size=1, max_size=8)))
    assert chunks == copies
    other.restore(chunks)
    assert other.digest() == digest


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_digest_names_the_state_equal_exactly_if_the_snapshots_are(
    name: str, data: st.DataObject
) -> None:
    kind = KINDS[name]
    one, other = kind.make(), kind.make()
    history = data.draw(st.lists(kind.commands, max_size=6))
    one.apply(history)
    other.apply(history)
    one.apply(data.draw(st.lists(kind.commands, max_size=2)))
    other.apply(data.draw(st.lists(kind.commands, max_size=2)))
    assert (one.digest() == other.digest()) == (one.snapshot() == other.snapshot())
    assert len(one.digest()) == 32


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_query_changes_nothing_and_nonsense_is_refused_with_a_query_error(
    name: str, data: st.DataObject
) -> None:
    kind = KINDS[name]
    machine = kind.make()
    machine.apply(data.draw(st.lists(kind.commands, max_size=5)))
    before = machine.digest(), machine.snapshot()
    for query in [*kind.queries, *data.draw(st.lists(_garbage, max_size=5))]:
        first = answer(machine, query)
        assert type(first) is bytes or first, "a refusal without words"
        assert answer(machine, query) == first
    assert (machine.digest(), machine.snapshot()) == before


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_is_no_snapshot_is_refused_with_a_value_error_and_the_old_state_stays(
    name: str, data: st.DataObject
) -> None:
    kind = KINDS[name]
    machine, source = kind.make(), kind.make()
    machine.apply(data.draw(st.lists(kind.commands, max_size=4)))
    source.apply(data.draw(st.lists(kind.commands, max_size=6)))
    chunks = source.snapshot()
    place = data.draw(st.integers(0, len(chunks) - 1))
    cut = data.draw(st.integers(0, max(0, len(chunks[place]) - 1)))
    chunks[place] = data.draw(
        st.sampled_from([chunks[place][:cut], b"\xc1" + chunks[place], b"", b"\x93\x01\x02\x03"])
    )
    before = view(machine, kind)
    refusal = ""
    try:
        machine.restore(chunks)
    except ValueError as error:
        refusal = str(error) or "no words"
    if refusal:
        assert view(machine, kind) == before
        assert refusal != "no words"
    else:  # a shorter snapshot that makes sense by itself: then it is a state like any other
        assert machine.snapshot() is not None
        other = kind.make()
        other.restore(machine.snapshot())
        assert other.digest() == machine.digest()


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_commands_that_clients_make_are_well_formed_and_some_of_them_change_the_state(
    name: str, data: st.DataObject
) -> None:
    kind = KINDS[name]
    machine = kind.make()
    history = data.draw(st.lists(kind.commands, min_size=30, max_size=30))
    assert [machine.check(command) for command in history] == [None] * len(history)
    machine.apply(history)
    assert machine.digest() != kind.make().digest()


def test_an_empty_call_does_nothing(name: str) -> None:
    kind = KINDS[name]
    machine = kind.make()
    before = view(machine, kind)
    assert machine.apply([]) == []
    assert view(machine, kind) == before
