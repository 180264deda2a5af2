"""The key-value machine against a dictionary."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.kv import KvMachine, append, cas, get, put
from node.kv.machine import BAD, CHUNK, FULL, MAX_KEY, MAX_VALUE, MISMATCH, OK
from node.machine import QueryError

_key = st.sampled_from([b"", b"a", b"b", b"\x00\xff"])
_value = st.binary(max_size=5)
_operation = st.one_of(
    st.tuples(st.just("put"), _key, _value),
    st.tuples(st.just("append"), _key, _value),
    st.tuples(st.just("cas"), _key, st.none() | _value, _value),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_operation, max_size=40))
def test_it_does_what_a_dictionary_does(operations: list) -> None:
    machine, model = KvMachine(), {}
    for operation in operations:
        kind, key = operation[:2]
        if kind == "put":
            command, expected = put(key, operation[2]), [OK]
            model[key] = operation[2]
        elif kind == "append":
            command = append(key, operation[2])
            model[key] = model.get(key, b"") + operation[2]
            expected = [OK, len(model[key])]
        else:
            _, _, wanted, value = operation
            command = cas(key, wanted, value)
            if model.get(key) == wanted:
                model[key] = value
                expected = [OK]
            else:
                expected = [MISMATCH, model.get(key)]
        (result,) = machine.apply([command])
        assert msgpack.unpackb(result) == expected
    for key in (b"", b"a", b"b", b"\x00\xff", b"never"):
        assert msgpack.unpackb(machine.query(get(key))) == [model.get(key)]


def test_a_missing_key_and_an_empty_value_are_two_things() -> None:
    machine = KvMachine()
    assert msgpack.unpackb(machine.apply([cas(b"a", b"", b"x")])[0]) == [MISMATCH, None]
    machine.apply([put(b"a", b"")])
    assert msgpack.unpackb(machine.query(get(b"a"))) == [b""]
    assert msgpack.unpackb(machine.apply([cas(b"a", None, b"x")])[0]) == [MISMATCH, b""]
    empty = KvMachine()
    assert empty.digest() != machine.digest()


def test_a_value_that_would_grow_too_long_is_left_as_it_was() -> None:
    machine = KvMachine()
    machine.apply([put(b"a", bytes(MAX_VALUE - 1)), append(b"a", b"x")])
    before = machine.digest()
    code, reason = msgpack.unpackb(machine.apply([append(b"a", b"y")])[0])
    assert (code, machine.digest()) == (FULL, before)
    assert str(MAX_VALUE) in reason


@pytest.mark.parametrize(
    ("command", "word"),
    [
        (b"", "array"),
        (b"\xc1", "array"),
        (msgpack.packb([]), "array"),
        (msgpack.packb([True, b"a", b"b"]), "array"),
        (msgpack.packb([9, b"a", b"b"]), "unknown command kind 9"),
        (msgpack.packb([1, b"a"]), "2 arguments, got 1"),
        (msgpack.packb([1, "a", b"b"]), "key"),
        (msgpack.packb([1, b"a", 7]), "value"),
        (msgpack.packb([3, b"a", 7, b"b"]), "expected value"),
        (put(bytes(MAX_KEY + 1), b""), "at most 1024"),
        (put(b"a", bytes(MAX_VALUE + 1)), "at most 1048576"),
        (b"\x91" * 5000, "array"),
    ],
)
def test_what_is_no_command_is_refused_before_and_in_the_log_in_the_same_words(
    command: bytes, word: str
) -> None:
    machine = KvMachine()
    problem = machine.check(command)
    assert problem is not None
    assert word in problem
    before = machine.digest()
    assert msgpack.unpackb(machine.apply([command])[0]) == [BAD, problem]
    assert machine.digest() == before


@pytest.mark.parametrize(
    "query", [b"", b"\xc1", msgpack.packb([4]), msgpack.packb([4, "a"]), put(b"a", b"b")]
)
def test_what_is_no_query_is_refused(query: bytes) -> None:
    with pytest.raises(QueryError, match="a query is"):
        KvMachine().query(query)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=3), st.binary(max_size=9)), max_size=30), st.randoms())
def test_equal_contents_have_equal_digests_whatever_the_way_there(rows: list, rng) -> None:
    final = dict(rows)
    straight, crooked = KvMachine(), KvMachine()
    straight.apply([put(key, value) for key, value in final.items()])
    rng.shuffle(rows)
    crooked.apply([put(key, value) for key, value in rows])
    crooked.digest()
    crooked.apply([put(key, value) for key, value in final.items()])
    assert straight.digest() == crooked.digest()
    assert straight.snapshot() == crooked.snapshot()
    crooked.apply([put(b"another key", b"")])
    assert straight.digest() != crooked.digest()


def test_long_values_travel_in_chunks_of_bounded_size() -> None:
    machine = KvMachine()
    machine.apply([put(b"%d" % n + bytes(MAX_KEY - 1), bytes([n]) * MAX_VALUE) for n in range(3)])
    machine.apply([put(b"s%d" % n, b"") for n in range(3000)])
    chunks = machine.snapshot()
    assert len(chunks) > 3
    assert max(map(len, chunks)) <= CHUNK
    other = KvMachine()
    other.restore(chunks)
    assert other.digest() == machine.digest()
    assert other.snapshot() == chunks


@pytest.mark.parametrize(
    "chunk", [b"", b"\xc1", b"\x01", msgpack.packb([[b"a"]]), msgpack.packb([[b"a", "b"]])]
)
def test_what_is_no_snapshot_is_refused_and_leaves_the_old_state(chunk: bytes) -> None:
    machine = KvMachine()
    machine.apply([put(b"a", b"1")])
    before = machine.snapshot()
    with pytest.raises(ValueError, match="no snapshot"):
        machine.restore([chunk])
    assert machine.snapshot() == before
