"""What is compiled runs as what is interpreted: traces, marks, notes, verdicts, crashes; and it can be stopped and moved about.

Each test that needs the native build makes it, once for the present sources (a minute or two), where there is a compiler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sim.native.build import CannotCompile, build, missing
from sim.native.modules import ROOT

FIRST, COUNT = 100, 30

PROGRAM = f"""
import json, sys
if sys.argv[1] == "native":
    from sim.native import use
    assert use() == "native", use()
import dataclasses, pickle
import consensus.marks, sim.virtual.world
from sim.explore.request import Request, play
compiled = not consensus.marks.__file__.endswith(".py")
assert compiled == (not sim.virtual.world.__file__.endswith(".py")) == (sys.argv[1] == "native")

def told(result):
    assert pickle.loads(pickle.dumps(result)) == result
    row = dataclasses.asdict(result)
    del row["real_s"]
    # How far the general checker comes is a matter of real time.
    row["notes"] = {{name: n for name, n in row["notes"].items() if not name.startswith("general checker")}}
    if result.outcome == "crash":  # compiled code finds a wrong type sooner, and in other words
        row["text"] = row["text"].partition(":")[0]
    return row

request = Request()
rows = [told(play(request, request.plan(seed))[0]) for seed in range({FIRST}, {FIRST} + {COUNT})]
stuck = dataclasses.replace(request.plan(1), patience=1)
rows.append(told(play(request, stuck)[0]))
crash = dataclasses.replace(request.plan(2), timing={{"heartbeat": "soon"}})
rows.append(told(play(request, crash)[0]))
print(json.dumps(rows))
"""

STOPPED = """
import functools, signal
from sim.native import use
assert use() == "native", use()
from sim.explore.time_limit import Hung, limited
from sim.virtual.timeline import Timeline

timeline = Timeline()
# An action that sets itself again, now, and enters no interpreted function.
again = functools.partial(timeline.at)
again.__setstate__((timeline.at, (0, again), {}, {}))
timeline.at(0, again)
try:
    with limited(0.3):
        timeline.run(1)
except Hung:
    print("given up", timeline.now, timeline.events > 10_000)
"""

MESSAGES = """
import sys
if sys.argv[1] == "native":
    from sim.native import use
    assert use() == "native", use()
import copy, msgpack, pickle
import consensus.bft.messages, consensus.raft.messages, node.protocol
from consensus.wire import WireError, _by_kind, decode, encode, kinds

VALUES = [0, -1, 2**63, True, 1.5, None, b"", "", [], [0], [b""], [""], [None], {}, {"a": 1}]

def takes(kind, place, fields, value):
    try:
        message = decode(msgpack.packb([kind, *fields[:place], value, *fields[place + 1:]]))
    except (WireError, OverflowError) as error:
        return str(error)
    assert msgpack.unpackb(encode(message))[place + 1] == value
    assert pickle.loads(pickle.dumps(message)) == message == copy.copy(message)
    return repr(message)

for kind, name in kinds().items():
    cls, _, checks, names = _by_kind[kind]
    fields = [next(value for value in VALUES if check(value)) for check in checks]
    print(kind, name, names, repr(decode(msgpack.packb([kind, *fields]))))
    for place in range(len(fields)):
        for value in VALUES:
            print(place, repr(value), takes(kind, place, fields, value))
"""

SPAWNED = """
import sys
sys.path[:0] = [{root!r}]
from sim.native import active, use

if __name__ == "__main__":
    assert use() == "native", use()
    from sim.explore import engine
    from sim.explore.request import Request
    from sim.explore.worker import run_batch

    for method in ("spawn", "fork"):
        with engine.processes(1, Request(), method) as running:
            assert running.executor.submit(active).result(), method
            batch = running.executor.submit(run_batch, Request(), range(3)).result()
            print([result.trace_hash for result in batch.results])
"""


@pytest.fixture(scope="module", autouse=True)
def built() -> Path:
    try:
        return build()
    except CannotCompile as error:
        pytest.skip(f"nothing can be compiled here: {error}")


def python(*arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_compiled_and_interpreted_worlds_come_to_the_same_in_every_respect() -> None:
    native: list[dict[str, Any]] = json.loads(python("-c", PROGRAM, "native"))
    interpreted: list[dict[str, Any]] = json.loads(python("-c", PROGRAM, "interpreted"))
    for one, other in zip(native, interpreted, strict=True):
        assert one == other, one["plan"]["seed"]
    assert {row["outcome"] for row in native[:COUNT]} == {"ok"}
    assert [row["outcome"] for row in native[COUNT:]] == ["liveness", "crash"]
    assert len({row["trace_hash"] for row in native[:COUNT]}) == COUNT
    assert sum(len(row["marks"]) for row in native) > 10 * COUNT
    assert any(row["notes"] for row in native)


def test_compiled_messages_take_and_refuse_the_same_values_on_the_wire() -> None:
    native = python("-c", MESSAGES, "native").splitlines()
    assert native == python("-c", MESSAGES, "interpreted").splitlines()
    assert sum("bad value" in line for line in native) > len(native) / 2
    assert sum(line.startswith("5 AppendEntries") for line in native) == 1


def test_a_compiled_loop_that_never_ends_is_given_up() -> None:
    assert python("-c", STOPPED).split() == ["given", "up", "0", "True"]


def test_spawned_and_forked_workers_run_compiled_modules_too(tmp_path: Path) -> None:
    program = tmp_path / "spawned_main.py"
    program.write_text(SPAWNED.format(root=str(ROOT)), encoding="utf-8")
    spawned, forked = python(str(program)).splitlines()
    assert spawned == forked
    assert len(spawned) > 3 * 32


def test_explore_says_which_modules_it_runs_and_comes_to_the_same_with_either() -> None:
    found = []
    for more in ([], ["--interpreted"]):
        script = str(ROOT / "scripts" / "partition.py")
        out = python(script, "explore", "--seeds", "4", "--jobs", "1", "--nodes", "3", "--json", *more)
        found.append(json.loads(out))
    assert [run["native"] for run in found] == [True, False]
    assert found[0]["hashes_digest"] == found[1]["hashes_digest"]
    assert found[0]["marks"] == found[1]["marks"]


def test_a_second_build_of_the_same_sources_is_no_work(built: Path) -> None:
    assert build() == built
    assert missing() == ""


def test_without_a_compiler_the_words_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    assert missing().startswith("no C compiler 'no-such-compiler'")
    with pytest.raises(CannotCompile, match="no-such-compiler"):
        build(tmp_path)
