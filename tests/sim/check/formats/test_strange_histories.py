"""Histories that were once misread: refused, taken for something else, or passed over without a word."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgpack
import pytest

from node.kv import machine as kv
from sim.check.formats import FormatError, load
from sim.check.formats.edn import Keyword
from sim.check.general import CAS, READ, WRITE, Outcome, check_history
from sim.check.general.picture import words as told


def log(*lines: str) -> bytes:
    """A log whose last line is whole."""
    return "".join(f"INFO  jepsen.util - {line}\n" for line in lines).encode()


def rows(*events: tuple[Any, ...]) -> bytes:
    """JSON lines of (process, type, f, value) or (process, type, f, value, key)."""
    names = ("process", "type", "f", "value", "key")
    return "".join(json.dumps(dict(zip(names, event, strict=False))) + "\n" for event in events).encode()


def outcome(data: bytes, model: str = "cas-register") -> Outcome:
    return check_history(load(data, model, "h").ops).outcome


def refused(data: bytes, model: str = "cas-register", form: str | None = None) -> str:
    with pytest.raises(FormatError) as caught:
        load(data, model, "h", form)
    return str(caught.value)


@pytest.mark.parametrize("found", ["", None])
def test_an_append_of_nothing_is_left_out_of_a_key_value_history(found: str | None) -> None:
    data = rows(
        (0, "invoke", "append", "", "k"),
        (0, "ok", "append", "", "k"),
        (0, "invoke", "get", None, "k"),
        (0, "ok", "get", found, "k"),
    )
    loaded = load(data, "kv")
    assert [op.kind for op in loaded.ops] == [READ]
    assert loaded.empty_appends == 1
    assert check_history(loaded.ops).outcome is Outcome.LINEARIZABLE
    assert outcome(data.replace(b'"append", "value": ""', b'"append", "value": "x"'), "kv") is Outcome.NOT


def test_every_process_but_the_nemesis_is_a_client() -> None:
    data = log(
        ":nemesis :info :start nil",
        ":nemesis :info [:kill 3] nil",
        "c0 :invoke :write 1",
        "c0 :ok :write 1",
        "-2 :invoke :read nil",
        "-2 :ok :read 1",
        ":c1 :invoke :read nil",
        ":c1 :ok :read 9",
    )
    loaded = load(data, "cas-register")
    assert [op.process for op in loaded.ops] == ["c0", -2, Keyword("c1")]
    assert loaded.passed_over == 2
    assert check_history(loaded.ops).outcome is Outcome.NOT


def test_a_keyword_is_a_client_too_in_edn() -> None:
    data = b"""{:process :c1, :type :invoke, :f :read, :value nil} {:process :c1, :type :ok, :f :read, :value 9}
{:process :nemesis, :type :info, :f :start, :value nil} {:process "nemesis", :type :info, :f :stop, :value nil}"""
    loaded = load(data, "cas-register")
    assert [op.process for op in loaded.ops] == [Keyword("c1")]
    assert loaded.passed_over == 2
    assert check_history(loaded.ops).outcome is Outcome.NOT


def test_lines_of_the_log_that_are_no_event_are_counted() -> None:
    data = b"WARN  jepsen.core - starting :up\n\n" + log("retrying :in :seconds 5", "1 node is down")
    loaded = load(data + log("0 :invoke :read nil", "0 :ok :read nil"), "cas-register")
    assert (len(loaded.ops), loaded.other_lines) == (1, 3)


@pytest.mark.parametrize("depth", [150, 600, 5_000, 200_000])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("field", ["value", "error"])
def test_deep_json_is_refused_with_its_line(depth: int, opening: str, field: str) -> None:
    closing = "]" if opening == "[" else "}"
    event = '{"process": 0, "type": "invoke", "f": "write", "%s": %s1%s}'
    deep = event % (field, opening * depth, closing * depth)
    first = '{"process": 1, "type": "invoke", "f": "read"}'
    assert "h:2: no JSON: nested deeper than 100" in refused(f"{first}\n{deep}\n".encode())
    assert "h:3: no JSON: nested deeper than 100" in refused(f"[\n{first},\n{deep}]".encode())


@pytest.mark.parametrize("what", ["#a ", "#_ ", "^ "])
def test_deep_edn_is_refused_with_its_line(what: str) -> None:
    assert refused(f"[{{:process 0}}\n{what * 5_000}]".encode()).startswith("h:1: the field 'type'")
    assert refused(f"[\n{what * 5_000} 1]".encode()) == "h:2: nested deeper than 100"
    assert "h:1: nested deeper than 100" in refused(log(f"0 :invoke :write {what * 5_000} 1"))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([kv.PUT, [1], b"v"], "must be bytes"),
        ([kv.PUT, {b"a": 2}, b"v"], "must be bytes"),
        ([kv.PUT, b"k", {b"a": 1}], "must be bytes"),
        ([kv.CAS, b"k", [1], b"v"], "must be bytes"),
        ([[1], b"k", b"v"], "no command of the key-value machine: kind"),
    ],
)
def test_a_command_of_this_project_that_is_none_is_told_with_its_line(command: Any, words: str) -> None:
    assert words in refused(own(command, [kv.OK]), "kv")
    assert refused(own(command, [kv.OK]), "kv").startswith("h:1: ")


def test_an_answer_that_no_machine_gives_is_a_read_that_nothing_explains() -> None:
    for command, result in (
        ([kv.CAS, b"k", b"a", b"b"], [kv.MISMATCH, {b"a": 2}]),
        ([kv.APPEND, b"k", b"a"], [kv.OK, [1]]),
    ):
        assert outcome(own(command, result), "kv") is Outcome.NOT
    assert outcome(own([kv.GET, b"k"], [[1]], "query"), "kv") is Outcome.NOT
    assert refused(own([kv.GET, [1]], [None], "query"), "kv").startswith("h:1: no query")


def own(command: Any, result: Any, op: str = "write") -> bytes:
    """A line of this project's own history."""

    def packed(value: Any) -> str:
        return base64.b64encode(msgpack.packb(value)).decode()

    row: dict[str, Any] = {"op": op, "client": "c", "invoke": 1, "return": 2, "outcome": "ok", "index": 1}
    row["result"] = packed(result)
    if op == "write":
        row |= {"session": 1, "seq": 1, "place": 0, "command": packed(command)}
    else:
        row |= {"consistency": "linearizable", "source": "model", "tier": "fresh", "query": packed(command)}
    return json.dumps(row).encode() + b"\n"


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0c", "\x1c"])
def test_a_line_ends_nowhere_but_at_a_line_feed_or_carriage_return(character: str) -> None:
    value = f"a{character}b"
    events = [{"process": 0, "type": kind, "f": "write", "value": value} for kind in ("invoke", "ok")]
    if character >= " ":  # JSON has control characters as escapes only
        text = "\r\n".join(json.dumps(event, ensure_ascii=False) for event in events)
        assert [op.value for op in load(text.encode(), "cas-register").ops] == [value]
    lines = log(f'0 :invoke :write "{value}"', f'0 :ok :write "{value}"')
    for ending in (b"\n", b"\r\n", b"\r"):
        loaded = load(lines.replace(b"\n", ending), "cas-register")
        assert [(op.value, op.line) for op in loaded.ops] == [(value, 1)]


def test_a_json_array_may_begin_on_a_line_of_its_own_and_tells_lines() -> None:
    events = [{"process": 0, "type": kind, "f": "write", "value": [1, "]"]} for kind in ("invoke", "ok")]
    loaded = load(json.dumps(events, indent=1).encode(), "cas-register")
    assert [(op.value, op.line) for op in loaded.ops] == [((1, "]"), 2)]
    for data, words in (
        (b'[\n{"process": 0}\n', "h:3: no JSON: the array is not closed"),
        (b'[{"process": 0},\n{"process": }]', "h:2: no JSON: Expecting value"),
        (b'[{"process": 0}]\n1', "h:1: no JSON: something stands behind the array"),
        (b'[{"process": 0},\n7]', "h:2: expected an object, got 7"),
    ):
        assert words in refused(data)
    assert "holds no operation" in refused(b"[]", form="jsonl")


def test_keys_that_differ_in_type_are_two() -> None:
    data = rows(
        (0, "invoke", "write", 5, 1),
        (0, "ok", "write", 5, 1),
        (0, "invoke", "read", None, True),
        (0, "ok", "read", None, True),
    )
    assert outcome(data) is Outcome.LINEARIZABLE
    assert outcome(data.replace(b"true", b"1")) is Outcome.NOT


def write_then_read(one: str, other: str) -> Outcome:
    """Of values in EDN."""
    return outcome(
        log(f"0 :invoke :write {one}", f"0 :ok :write {one}", "0 :invoke :read nil", f"0 :ok :read {other}")
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("[1]", "[true]"),
        ("[[1.0]]", "[[1]]"),
        ("1.00000000000000000001M", "1.0M"),
        ("1e999", "1e998"),
        ("1e-999", "0.0"),
        ("1.0M", "1.0"),
        ("#{1}", "[1]"),
    ],
)
def test_values_that_differ_are_two(one: str, other: str) -> None:
    assert write_then_read(one, other) is Outcome.NOT
    assert write_then_read(one, one) is Outcome.LINEARIZABLE


@pytest.mark.parametrize(
    ("one", "other"),
    [("##NaN", "##NaN"), ("[##NaN]", "[##NaN]"), ("1/2", "1/2"), ("#{1 2}", "#{2 1}"), ("12N", "12")],
)
def test_values_that_are_alike_are_one(one: str, other: str) -> None:
    assert write_then_read(one, other) is Outcome.LINEARIZABLE


def test_large_exponents_are_two_values_in_json_too() -> None:
    events = [
        (0, "invoke", "write", 0),
        (0, "ok", "write", 0),
        (0, "invoke", "read", None),
        (0, "ok", "read", 1),
    ]
    data = rows(*events)
    assert (
        outcome(data.replace(b'"value": 0', b'"value": 1e999').replace(b'"value": 1}', b'"value": 1e998}'))
        is Outcome.NOT
    )


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("0 :invoke :read nil", "0 :ok :read 1 2"), "h:2: one value is expected, got '1 2'"),
        (("0 :invoke :write 1 2",), "h:1: one value is expected"),
        (
            ("0 :invoke :write 1", "0 :ok :write 7"),
            "h:2: process 0 completes write with 7, but invoked it with 1 on line 1",
        ),
        (("0 :invoke :cas [1 2]", "0 :ok :cas [1 3]"), "h:2: process 0 completes cas with (1, 3)"),
        (
            ("0 :invoke :read [7 nil]", "0 :ok :read [8 nil]"),
            "h:2: process 0 completes read of key 8, but invoked it of key 7",
        ),
        (("0 :invoke :read nil", "0 :ok :read"), "h:2: an answer of :ok to read has no value"),
        (("0 :invoke :read nil", "0 :ok"), "h:2: expected PROCESS :TYPE :FUNCTION VALUE"),
        (("c0 :invoke :read nil", "c0 :ok"), "h:2: expected PROCESS :TYPE :FUNCTION VALUE"),
        (("c0 :invoke :read nil", "c0 :okay :read 1"), "h:2: unknown type :okay"),
        (("-1 :maybe :read 1",), "h:1: unknown type :maybe"),
    ],
)
def test_what_does_not_fit_is_told_with_its_line(lines: tuple[str, ...], words: str) -> None:
    assert words in refused(log(*lines))


@pytest.mark.parametrize("answer", ["1", "nil", ""])
def test_an_answer_to_a_write_repeats_the_value_or_has_none(answer: str) -> None:
    loaded = load(log("0 :invoke :write 1", f"0 :ok :write {answer}"), "cas-register")
    assert [(op.kind, op.value) for op in loaded.ops] == [(WRITE, 1)]


def test_an_error_behind_the_value_of_what_failed_is_no_matter() -> None:
    data = log(
        "0 :invoke :cas [1 2]",
        '0 :info :cas [1 2] java.net.SocketException: "what',
        "1 :invoke :write 1",
        "1 :fail :write 1 [:unavailable #object[x]]",
    )
    loaded = load(data, "cas-register")
    assert [(op.kind, op.value) for op in loaded.ops] == [(CAS, 2)]
    assert loaded.failed == 1


@pytest.mark.parametrize(
    "end",
    [
        *("INFO  jepsen.u", "INFO  jepsen.util", "INFO  jepsen.util ", "INFO  jepsen.util -"),
        *(
            "INFO  jepsen.util - 7",
            "INFO  jepsen.util - c0",
            "INFO  jepsen.util - c9 :",
            "INFO  jepsen.util - c9 :inv",
        ),
    ],
)
def test_a_last_line_that_was_cut_before_its_event_is_told(end: str) -> None:
    whole = log("c0 :invoke :read nil", "c0 :ok :read nil")
    assert "h:3: expected PROCESS :TYPE :FUNCTION VALUE" in refused(whole + end.encode())
    assert "the last line is cut off" in refused(whole + end.encode())


@pytest.mark.parametrize(
    "end", ["INFO  jepsen.core - done", "INFO  jepsen.util - done", "INFO  jepsen.util - ran :for 5", ""]
)
def test_a_last_line_that_is_a_remark_of_the_log_is_passed_over(end: str) -> None:
    whole = log("c0 :invoke :read nil", "c0 :ok :read nil")
    assert len(load(whole + end.encode(), "cas-register").ops) == 1


def test_a_key_value_history_has_keys() -> None:
    data = rows((0, "invoke", "put", 5), (0, "ok", "put", 5))
    assert refused(data, "kv").startswith("h:1: put has no key; in the model kv every operation has one")


LONG = "9" * 5_000


def test_a_number_that_cannot_be_read_is_told_with_its_line() -> None:
    for data in (
        log(f"0 :invoke :write {LONG}"),
        log(f"{LONG} :invoke :write 1"),
        f"{{:process 0, :type :invoke, :f :write, :value {LONG}}}".encode(),
        f'{{"process": 0, "type": "invoke", "f": "write", "value": {LONG}}}'.encode(),
    ):
        assert refused(data).startswith("h:1: ")
        assert "an integer has more than 4,300 digits" in refused(data)
    for number in ("1e99999999999999999999", "1e99999999999999999999M"):
        assert "h:1: the exponent of" in refused(log(f"0 :invoke :write {number}"))


def test_digits_of_other_scripts_make_names() -> None:
    data = log("² :invoke :write 1", "² :ok :write 1", "٣ :invoke :read nil", "٣ :ok :read ²")
    assert [op.process for op in load(data, "cas-register").ops] == ["²", "٣"]


def test_a_value_that_nothing_can_be_appended_to_is_told_with_its_line() -> None:
    data = rows(
        (0, "invoke", "put", 5, "k"),
        (0, "ok", "put", 5, "k"),
        (0, "invoke", "append", "x", "k"),
        (0, "ok", "append", "x", "k"),
    )
    with pytest.raises(ValueError, match="line 1: a key with appended str values also holds 5 of type int"):
        check_history(load(data, "kv").ops)


def test_a_key_that_is_a_map_is_told_with_its_line() -> None:
    assert refused(rows((0, "invoke", "read", [{"a": 1}, None]))).startswith("h:1: {'a': 1} cannot be a key")


def test_what_a_mutex_was_asked_is_told_by_its_name() -> None:
    lines = ("0 :invoke :acquire nil", "0 :ok :acquire nil", "1 :invoke :acquire nil", "1 :ok :acquire nil")
    loaded = load(log(*lines), "mutex")
    (cell,) = check_history(loaded.ops).cells
    assert told(loaded.ops, cell)[0] == "cannot be explained: process 1: acquire (line 3)"
