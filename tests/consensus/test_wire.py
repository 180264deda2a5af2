"""The one encoding: what goes in comes out, and what comes from strangers is a message or a WireError."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any, get_args, get_origin, get_type_hints

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import consensus.bft.messages
import consensus.raft.messages
import node.protocol
from consensus import wire
from consensus.wire import WireError, decode, encode

MESSAGES = sorted(
    {
        cls
        for module in (consensus.bft.messages, consensus.raft.messages, node.protocol)
        for cls in vars(module).values()
        if dataclasses.is_dataclass(cls) and isinstance(cls, type)
    },
    key=lambda cls: cls.__name__,
)
plain: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def values(hint: Any) -> Any:
    if hint is int:
        return st.integers(0, wire.MAX_INT)
    if hint is Any:
        return plain
    if hint in (bytes, str, bool):
        return {bytes: st.binary(max_size=20), str: st.text(max_size=20), bool: st.booleans()}[hint]
    args = get_args(hint)
    if get_origin(hint) is list:
        return st.lists(values(args[0]), max_size=4)
    if get_origin(hint) is dict:
        return st.dictionaries(st.text(max_size=5), plain, max_size=3)
    if type(None) in args:
        return st.none() | values(args[0])
    raise TypeError(f"no strategy for {hint!r}")


def messages(cls: type) -> Any:
    hints = get_type_hints(cls)
    return st.builds(cls, **{field.name: values(hints[field.name]) for field in dataclasses.fields(cls)})


def test_every_message_class_is_in_the_table_once() -> None:
    ours = {kind: name for kind, name in wire.kinds().items() if kind < 100}
    assert sorted(ours.values()) == [cls.__name__ for cls in MESSAGES]
    assert len(MESSAGES) > 20


@pytest.mark.parametrize("cls", MESSAGES, ids=lambda cls: cls.__name__)
def test_a_message_comes_out_as_it_went_in(cls: type) -> None:
    @given(messages(cls))
    @settings(max_examples=15, deadline=None)
    def law(message: Any) -> None:
        assert decode(encode(message)) == message
        assert wire.kinds()[wire.kind_of(message)] == cls.__name__

    law()


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_the_compiled_decoder_says_the_same_as_the_checks_of_the_fields(data: Any) -> None:
    cls, decoder, checks, names = data.draw(
        st.sampled_from([wire._by_kind[kind] for kind in sorted(wire.kinds()) if kind < 100])
    )
    hints = get_type_hints(cls)
    fields = [data.draw(values(hints[name]) | plain) for name in names]
    message = decoder([0, *fields])
    assert (message is not None) == all(check(field) for check, field in zip(checks, fields, strict=True))
    if message is not None:
        assert [getattr(message, name) for name in names] == fields


@given(st.binary(max_size=200))
@settings(max_examples=150)
def test_garbage_is_a_wire_error(body: bytes) -> None:
    with contextlib.suppress(WireError):
        assert type(decode(body)) in MESSAGES


@given(st.lists(st.sampled_from(sorted(wire.kinds())) | plain, max_size=9))
@settings(max_examples=150, deadline=None)
def test_an_array_of_anything_is_a_message_or_a_wire_error(fields: list[Any]) -> None:
    with contextlib.suppress(WireError):
        message = decode(msgpack.packb(fields))
        assert decode(encode(message)) == message


@given(st.sampled_from(MESSAGES).flatmap(messages), st.data())
@settings(max_examples=100, deadline=None)
def test_a_damaged_message_is_another_message_or_a_wire_error(message: Any, data: Any) -> None:
    body = bytearray(encode(message))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(body), bytes(body[:place]), bytes(body) + b"\x00"):
        with contextlib.suppress(WireError):
            assert type(decode(damaged)) in MESSAGES


@pytest.mark.parametrize("depth", [10, 500, 900, 1000, 1023, 5000])
def test_deep_nesting_is_a_wire_error_and_not_a_crash(depth: int) -> None:
    with pytest.raises(WireError):
        decode(b"\x92\x3c" + b"\x91" * depth + b"\x00")
    with pytest.raises(WireError):
        decode(b"\x91" * depth + b"\x00")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not msgpack"),
        (b"\x90", "not a message"),
        (b"\xc0", "not a message"),
        (b"\x91\x7f", "unknown message kind 127"),
        (b"\x91\xc3", "unknown message kind True"),
        (msgpack.packb(["x" * 100]), "unknown message kind 'xxx"),
        (msgpack.packb([3, 1, 2]), "RequestVote has 3 fields, got 2"),
        (msgpack.packb([3, 1, -2, 3]), "RequestVote.last_index: bad value -2"),
        (msgpack.packb([3, 1, True, 3]), "RequestVote.last_index: bad value True"),
        (msgpack.packb([3, 1, 2**63, 3]), "RequestVote.last_index: bad value"),
        (msgpack.packb([4, 1, 1]), "RequestVoteReply.granted: bad value 1"),
        (msgpack.packb([5, 1, 1, 1, 1, 1, ["text"]]), "AppendEntries.entries: bad value a list"),
    ],
)
def test_what_is_wrong_is_said(body: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        decode(body)


def test_a_kind_is_given_once_and_a_field_must_have_a_check() -> None:
    @dataclasses.dataclass(slots=True)
    class Another:
        field: int

    with pytest.raises(ValueError, match="kind 3 is taken by RequestVote"):
        wire.register(3)(Another)

    @dataclasses.dataclass(slots=True)
    class Odd:
        field: complex

    with pytest.raises(TypeError, match="no wire check"):
        wire.register(19)(Odd)
    with pytest.raises(KeyError):
        encode(Another(1))


def test_types_that_are_named_once_more_are_those_of_all_fields() -> None:
    @dataclasses.dataclass(slots=True)
    class Listed:
        place: int
        items: list[bytes]

    with pytest.raises(TypeError, match="Listed has the fields place, items, not items"):
        wire.register(18, {"items": list[bytes]})(Listed)
    with pytest.raises(WireError, match=r"AppendEntries\.entries: bad value"):
        decode(msgpack.packb([5, 1, 0, 0, 0, 0, ["text"]]))
    with pytest.raises(WireError, match=r"InstallSnapshot\.members: bad value"):
        decode(msgpack.packb([7, 1, 0, 9, 1, bytes(32), [b"n1"], bytes(32), 5]))


def test_a_class_that_knows_of_a_list_only_is_checked_by_the_types_that_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for table in ("_by_kind", "_kind_of", "_fields_of"):
        monkeypatch.setattr(wire, table, dict(getattr(wire, table)))
    compiled = dataclasses.make_dataclass("compiled", [("items", list)], slots=True)
    with pytest.raises(TypeError, match="no wire check"):
        wire.register(18)(compiled)
    wire.register(18, {"items": list[bytes]})(compiled)
    assert decode(encode(compiled([b"x"]))) == compiled([b"x"])
    with pytest.raises(WireError, match=r"compiled\.items: bad value"):
        decode(msgpack.packb([18, ["text"]]))
