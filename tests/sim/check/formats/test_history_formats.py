from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.bench import check as bench
from sim.bench.check import make_history
from sim.check.formats import FORMATS, FormatError, Loaded, convert, load
from sim.check.general import APPEND, CAS, READ, WRITE, Op, Outcome, check_history
from sim.check.general.simulate import KV, Shape, simulate
from sim.check.history import HistoryWriter


def edn(value: object) -> str:
    if value is None:
        return "nil"
    if isinstance(value, (list, tuple)):
        return f"[{' '.join(map(edn, value))}]"
    return json.dumps(value)


def written(ops: list[Op], form: str, kv: bool) -> bytes:
    """A history as its harness would have written it: events in their order."""
    names = {READ: "get" if kv else "read", WRITE: "put" if kv else "write", CAS: "cas", APPEND: "append"}
    events: list[tuple[int, int, str, Op]] = []
    for op in ops:
        events.append((op.invoke, 0, "invoke", op))
        events.append(
            (op.returned if op.returned is not None else 10**12, 1, "ok" if op.returned else "info", op)
        )
    lines = []
    for _, _, kind, op in sorted(events, key=lambda event: event[:2]):
        value = [op.expected, op.value] if op.kind == CAS else op.value
        value = None if op.kind == READ and kind == "invoke" else value
        if form == "jepsen-log":
            shown = ":timed-out" if kind == "info" else edn(value)
            lines.append(f"INFO  jepsen.util - {op.process}\t:{kind}\t:{names[op.kind]}\t{shown}")
        elif form == "edn":
            key = f", :key {edn(str(op.key))}" if kv else ""
            lines.append(
                f"{{:process {op.process}, :type :{kind}, :f :{names[op.kind]}{key}, :value {edn(value)}}}"
            )
        else:
            row = {"process": op.process, "type": kind, "f": names[op.kind], "value": value}
            lines.append(json.dumps(row | ({"key": op.key} if kv else {})))
    return ("\n".join(lines) + "\n").encode()


@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(FORMATS), st.booleans(), st.booleans())
def test_what_is_written_in_each_format_is_read_back_and_recognised(
    seed: int, form: str, kv: bool, told: bool
) -> None:
    kv = kv and form != "jepsen-log"
    ops = simulate(Shape(4, 40, keys=3 if kv else 1, timeouts=0.1, mix=KV if kv else None), seed)
    loaded = load(written(ops, form, kv), "kv" if kv else "cas-register", "file", form if told else None)
    assert loaded.format == form
    assert len(loaded.ops) == len(ops)
    for op, other in zip(ops, loaded.ops, strict=True):
        assert (op.kind, op.process, op.value, op.expected) == (
            other.kind,
            other.process,
            other.value,
            other.expected,
        )
        assert (op.returned is None) == (other.returned is None)
    assert check_history(loaded.ops).outcome is Outcome.LINEARIZABLE


def log(*lines: str) -> bytes:
    return "\n".join(f"INFO  jepsen.util - {line}" for line in lines).encode()


def register(data: bytes, form: str | None = None) -> Loaded:
    return load(data, "cas-register", "h.log", form)


def test_a_jepsen_log_takes_tabs_or_spaces_and_passes_over_what_is_not_an_operation() -> None:
    data = b"""WARN  jepsen.core - starting up
INFO  jepsen.util - :nemesis\t:info\t:start\tnil

INFO  jepsen.util - 0   :invoke :write  3
INFO  jepsen.util - 1\t:invoke\t:read\tnil
INFO  jepsen.util - 0   :ok     :write  3
INFO  jepsen.util - 1\t:ok\t:read\t3
INFO  jepsen.util - 2 :invoke :cas [3 4]
INFO  jepsen.util - 2 :fail :cas [3 4]
INFO  jepsen.util - 3 :invoke :cas [3 5]
INFO  jepsen.util - 3 :info :cas :timed-out
INFO  jepsen.util - 4 :invoke :read nil
INFO  jepsen.util - 4 :fail :read :timed-out
"""
    loaded = register(data)
    assert [(op.kind, op.expected, op.value, op.line) for op in loaded.ops] == [
        (WRITE, None, 3, 4),
        (READ, None, 3, 5),
        (CAS, 3, 5, 10),
    ]
    assert loaded.ops[2].returned is None
    assert (loaded.failed, loaded.unanswered, loaded.passed_over) == (2, 1, 1)


@pytest.mark.parametrize("around", ["[{}]", "({})", "{}", "; words\n[{}\n]"])
def test_edn_comes_as_one_collection_or_map_by_map(around: str) -> None:
    maps = """{:process 0, :type :invoke, :f :write, :value 1} ; a comment
 #jepsen.history.Op{:process :nemesis, :type :info, :f :start, :value #{1 2}, :time 12}
 {:process 0 :type :ok :f :write :value 1 :error [:none {:a "b"}]}"""
    loaded = load(around.replace("{}", maps).encode(), "cas-register")
    assert [(op.kind, op.value) for op in loaded.ops] == [(WRITE, 1)]
    assert loaded.format == "edn"


def test_independent_keys_in_pairs_are_taken_apart() -> None:
    lines = [
        "0 :invoke :read [7 nil]",
        "0 :ok :read [7 nil]",
        "0 :invoke :cas [8 [1 2]]",
        "0 :info :cas [8 [1 2]]",
    ]
    loaded = register(log(*lines))
    assert [(op.key, op.kind, op.expected, op.value) for op in loaded.ops] == [
        (7, READ, None, None),
        (8, CAS, 1, 2),
    ]


def test_an_empty_text_and_nil_are_one_value_of_a_key() -> None:
    lines = [
        {"process": 0, "type": "invoke", "f": "get", "key": "a", "value": None},
        {"process": 0, "type": "ok", "f": "get", "key": "a", "value": ""},
    ]
    loaded = load("\n".join(map(json.dumps, lines)).encode(), "kv")
    assert check_history(loaded.ops).outcome is Outcome.LINEARIZABLE


def test_a_mutex_is_held_by_one() -> None:
    held = ["0 :invoke :acquire nil", "0 :ok :acquire nil", "1 :invoke :acquire nil", "1 :ok :acquire nil"]
    assert check_history(load(log(*held), "mutex").ops).outcome is Outcome.NOT
    freed = [*held[:2], "0 :invoke :release nil", "0 :ok :release nil", *held[2:]]
    assert check_history(load(log(*freed), "mutex").ops).outcome is Outcome.LINEARIZABLE


def test_a_history_of_the_nemesis_alone_is_readable_and_empty() -> None:
    loaded = register(b"[{:process :nemesis, :type :info, :f :kill, :value nil}]")
    assert loaded.ops == []
    assert loaded.passed_over == 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            log("0 :invoke :read nil", "0 :invoke :read nil"),
            r"h.log:2: process 0 invokes read while its read of line 1",
        ),
        (
            log("0 :invoke :read nil", "1 :ok :read 2"),
            r"h.log:2: process 1 completes read \(ok\), which it never invoked",
        ),
        (
            log("0 :invoke :read nil", "0 :ok :write 2"),
            r"h.log:2: process 0 completes write, but invoked read on line 1",
        ),
        (
            log("0 :invoke :enqueue 1"),
            r"h.log:1: unknown function 'enqueue'; the model cas-register has read, write, cas",
        ),
        (log("0 :invoke :append 1"), r"append belongs to --model kv"),
        (log("0 :invoke :cas 1", "0 :ok :cas 1"), r"h.log:1: the value of a cas is \[expected new\], not 1"),
        (log("0 :maybe :read nil"), r"h.log:1: unknown type :maybe; known are :invoke, :ok, :fail, :info"),
        (log("0 :invoke"), r"h.log:1: expected PROCESS :TYPE :FUNCTION VALUE"),
        (log("0 :invoke :write [1"), r"h.log:1: '\[' is never closed"),
        (b"", "is empty"),
        (b"hello there\n", "cannot tell its format; give --format"),
        (b"INFO jepsen.util - all is well\n", "holds no operation"),
        (b"\xff\xfe\x00", "h.log:1: not UTF-8 text"),
        (
            b"[{:process 0, :type :invoke, :f :read, :value nil}\n",
            r"h.log:1: '\[' at the beginning is never closed.*cut off",
        ),
        (b"{:process 0, :type :invoke}", "h.log:1: the field 'f' is missing"),
        (
            b"{:process 0 :type :invoke :f :write :value {:a 1}} {:process 0 :type :ok :f :write :value {:a 1}}",
            "cannot be",
        ),
        (b"[1 2]", "expected a map"),
        (b'{"process": 0, "type": "invoke"\n', "h.log:1: no JSON"),
        (b'{"process": 1.5, "type": "invoke", "f": "read"}', "process must be a number or a name"),
    ],
)
def test_what_is_malformed_is_told_with_its_line_and_what_to_do(data: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        register(data)


def test_a_text_appended_to_a_number_is_refused() -> None:
    lines = ["0 :invoke :append 3", "0 :ok :append 3"]
    with pytest.raises(FormatError, match="only strings can be appended"):
        load(log(*lines), "kv")


def test_this_projects_own_history_is_read_and_agrees_with_the_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "SPREAD_US", 300)
    made = make_history(300, 3, sessions=4, keys=5)
    path = tmp_path / "history.jsonl"
    with HistoryWriter(path) as writer:
        for operation in made.operations:
            writer.add(operation)
    loaded = load(path.read_bytes(), "kv", str(path))
    ops = sorted(convert(made.operations), key=lambda op: op.invoke)
    assert [(op.kind, op.key, op.value, op.length) for op in loaded.ops] == [
        (op.kind, op.key, op.value, op.length) for op in ops
    ]
    assert check_history(loaded.ops).outcome is Outcome.LINEARIZABLE
    with pytest.raises(FormatError, match="--model kv"):
        load(path.read_bytes(), "cas-register")


def test_an_answer_that_the_machine_never_gives_is_not_explained() -> None:
    made = make_history(200, 1)
    write = next(operation for operation in made.operations if operation.op == "write")
    write.result = b"\x92\x00\x01" if write.result == b"\x91\x00" else b"\x91\x00"
    assert check_history(convert([write])).outcome is Outcome.NOT


def test_conversion_leaves_out_what_proves_nothing_and_refuses_other_machines() -> None:
    made = make_history(200, 1)
    query = next(operation for operation in made.operations if operation.op == "query")
    write = next(operation for operation in made.operations if operation.op == "write")
    query.consistency = "any"
    assert convert([query]) == []
    write.outcome = "refused"
    assert convert([write]) == []
    write.outcome, write.command = "ok", b"\x93\x09\x01\x01"
    with pytest.raises(ValueError, match="no command of the key-value machine"):
        convert([write])
