"""Commands are checked without any state, and the errors say what, where and what to do."""

from __future__ import annotations

import contextlib

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.machine import QueryError
from node.ranking import RankingMachine, RankingSettings, commands, queries
from node.ranking.commands import Status, decode_result

SETTINGS = RankingSettings(factors=4, negatives=2, max_users=20, max_items=20)


def pack(*fields: object) -> bytes:
    data: bytes = msgpack.packb(fields)
    return data


def test_builders_make_commands_that_check_accepts() -> None:
    machine = RankingMachine(SETTINGS)
    for command in (
        commands.observe([(1, 2), (3, 4, 5)]),
        commands.observe_columns([1], [2]),
        commands.delta("user", [1, 2], [[1, 2, 3, -4]] * 2),
        commands.delta("bias", [1], [[7]]),
        commands.publish("v1"),
        commands.publish("v1", "live"),
        commands.rollback("live", "v1"),
        commands.freeze(),
        commands.unfreeze(),
        commands.upsert_item(5, -100, "A film"),
        commands.upsert_item(5),
    ):
        assert machine.check(command) is None


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (b"", "not"),
        (b"\xc1", "not"),
        (pack(9), "kind"),
        (pack(True, [1], [1], None), "kind"),
        (pack(1, [1], [2]), "OBSERVE has 3 fields behind its kind, not 2"),
        (pack(1, [], [], None), "1 to 256 interactions, not 0"),
        (pack(1, [1] * 257, [1] * 257, None), "1 to 256 interactions, not 257"),
        (pack(1, [1, 2], [1], None), "2 users but 1 items"),
        (
            pack(1, [1, -2], [1, 1], None),
            "interaction 1: user must be an integer from 0 to 9007199254740991, not -2",
        ),
        (pack(1, [1, 2], [1, True], None), "interaction 1: item must be an integer"),
        (pack(1, [1, 2], [1, 2.0], None), "interaction 1: item must be an integer"),
        (pack(1, [1, 2], [1, 1 << 53], None), "interaction 1: item"),
        (pack(1, [1], [1], [-3]), "interaction 0: value must be an integer from 1 to 1000000, not -3"),
        (pack(1, [1], [1], [0]), "interaction 0: value"),
        (
            pack(1, [1], [1], [float("nan")]),
            "interaction 0: value must be an integer from 1 to 1000000, not nan",
        ),
        (pack(1, [1], [1], [1, 1]), "as many values"),
        (pack(2, "users", [1], [1] * 4), "there are: user, item, history, bias"),
        (pack(2, "user", [1], [1] * 3), "needs 4 integers"),
        (pack(2, "user", [1], [1, 2, 3, 1 << 31]), "number 3: delta"),
        (pack(3, "", None), "1 to 64 printable"),
        (pack(3, "live", None), "reserved"),
        (pack(4, "serving", None), "reserved"),
        (pack(3, "v", 4), "expected version"),
        (pack(7, []), "1 to 256 items"),
        (pack(7, [[1, 2]]), "item 0: must be [item, bias or nil, title or nil]"),
        (pack(7, [[1, None, None], ["x", None, None]]), "item 1: id must be an integer"),
        (pack(7, [[1, 1.5, None]]), "item 0: bias"),
        (pack(7, [[1, None, "x" * 513]]), "item 0: title"),
    ],
)
def test_a_malformed_command_is_refused_with_the_same_clear_text_by_check_and_apply(
    command: bytes, text: str
) -> None:
    machine = RankingMachine(SETTINGS)
    before = machine.digest()
    refusal = machine.check(command)
    assert refusal is not None
    assert text in refusal
    result = decode_result(machine.apply([command])[0])
    assert result.status == Status.MALFORMED
    assert result.text == refusal
    assert machine.digest() == before


_PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 300)
    | st.floats()
    | st.text(max_size=4)
    | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.binary(max_size=40) | _PLAIN.map(msgpack.packb) | st.lists(_PLAIN, max_size=5).map(msgpack.packb)
    )
)
def test_apply_never_raises_and_agrees_with_check_on_any_bytes(garbage: list[bytes]) -> None:
    machine = RankingMachine(SETTINGS)
    results = machine.apply(garbage)
    assert len(results) == len(garbage)
    for command, result in zip(garbage, results, strict=True):
        assert (machine.check(command) is not None) == (decode_result(result).status == Status.MALFORMED)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40) | st.lists(_PLAIN, max_size=8).map(msgpack.packb))
def test_a_query_of_any_bytes_is_answered_or_refused_with_a_query_error(garbage: bytes) -> None:
    machine = RankingMachine(SETTINGS)
    with contextlib.suppress(QueryError):
        assert isinstance(machine.query(garbage), bytes)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (queries.rank(1, 0), "k must be an integer from 1 to 1000, not 0"),
        (queries.rank(1, 1001), "k must be"),
        (queries.rank(-1), "user must be"),
        (queries.rank(1, candidates=[]), "candidates must be a list of 1"),
        (queries.rank(1, candidates=[1, 2, -1]), "candidate 2"),
        (queries.rank(1, candidates=[1, 2, 1]), "twice"),
        (queries.rank(1, version="v9"), "there is no version 'v9'; there are: live"),
        (queries.rank(77, strict=True), "user 77 is unknown"),
        (pack(1, 1, 1, None, 0, "live", False), "true or false"),
    ],
)
def test_a_bad_query_is_refused_with_a_text_that_names_what_is_bad(query: bytes, text: str) -> None:
    with pytest.raises(QueryError) as caught:
        RankingMachine(SETTINGS).query(query)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({"factor": 3}, "unknown ranking setting 'factor'"),
        ({"factors": 0}, "factors must be an integer from 1 to 128, not 0"),
        ({"rate": 0.05}, "rate must be an integer"),
        ({"seed": True}, "seed must be an integer"),
        ({"window": 65}, r"window \(65\) must not exceed history \(64\)"),
        ({"static": [1, 1]}, "twice"),
        ({"static": [-1]}, "no item id"),
    ],
)
def test_settings_that_make_no_sense_are_named(table: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        RankingSettings.from_table(table)


def test_settings_survive_a_round_trip_through_a_table() -> None:
    chosen = RankingSettings(factors=8, static=(3, 1))
    assert RankingSettings.from_table(chosen.to_table()) == chosen
