"""A block has one encoding, one name that covers every field, and descends from a genesis that binds its committee."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import msgpack
import pytest
from bft_chain import Growing, batch, committee_of, seal
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.bft.block import (
    MOST_BATCHES,
    Block,
    BlockError,
    batch_digest,
    block_digest,
    decode_block,
    genesis,
    genesis_qc,
    make_block,
)
from consensus.bft.committee import Committee
from consensus.bft.timing import Timing

FOUR = committee_of(4)
CHAIN = Growing(FOUR, Timing(mark_heights=2))
CHAIN.grow([batch("x")])
GOOD = CHAIN.grow([batch("y"), batch("z")], dark=["d"])
NAMES = [field.name for field in fields(Block) if field.name not in ("encoded", "digest")]


def remade(block: Block, **changes: Any) -> Block:
    values = {name: getattr(block, name) for name in NAMES} | changes
    return make_block(**values)


def test_a_block_survives_its_encoding() -> None:
    assert GOOD.mark
    assert decode_block(GOOD.encoded) == GOOD
    assert decode_block(GOOD.encoded).digest == GOOD.digest == block_digest(GOOD.encoded)
    assert GOOD.parent == seal(FOUR, CHAIN.blocks[1], ["a", "b", "c"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epoch", 2),
        ("round", 9),
        ("height", 9),
        ("author", "d"),
        ("justify", genesis_qc(FOUR).encode()),
        ("payload", (batch("z")[0], batch("y")[0])),
        ("index", 9),
        ("weight", 9),
        ("mark", 3),
        ("marked", (1, 1)),
        ("standing", ((9, 0),) * 4),
        ("schedule", (1, 0, 2, 3)),
    ],
)
def test_the_name_of_a_block_covers_every_field(name: str, value: Any) -> None:
    other = remade(GOOD, **{name: value})
    assert getattr(other, name) != getattr(GOOD, name)
    assert other.digest != GOOD.digest
    assert {name for name, _ in _cases()} == set(NAMES), "a new field needs a case here"


def _cases() -> list[tuple[str, Any]]:
    [mark] = [
        mark for mark in test_the_name_of_a_block_covers_every_field.pytestmark if mark.name == "parametrize"
    ]
    found: list[tuple[str, Any]] = mark.args[1]
    return found


def test_the_genesis_block_binds_cluster_epoch_and_committee() -> None:
    committees = [
        FOUR,
        committee_of(4, cluster="other"),
        committee_of(4, epoch=2),
        committee_of(5),
        Committee("c", 1, ("b", "a", "c", "d"), 1, 1),
        Committee("c", 1, ("a", "b", "c", "d"), 1, 0),
        Committee("c", 1, ("a", "b", "c", "d"), 0, 0),
    ]
    assert len({genesis(committee).digest for committee in committees}) == len(committees)
    assert genesis(FOUR).schedule == (0, 1, 2, 3)
    assert decode_block(genesis(FOUR).encoded) == genesis(FOUR)


def test_a_batch_and_a_block_of_the_same_bytes_have_other_names_and_so_have_batches_of_other_kinds() -> None:
    encoded = GOOD.encoded
    assert len({block_digest(encoded), batch_digest(1, encoded), batch_digest(2, encoded)}) == 3


def changed(place: int, value: Any) -> bytes:
    items = msgpack.unpackb(GOOD.encoded)
    items[place] = value
    packed: bytes = msgpack.packb(items)
    return packed


@pytest.mark.parametrize(
    ("place", "value", "text"),
    [
        (0, 2, "version 2; this program reads version 1"),
        (0, True, "not encoded the one way"),
        (1, True, "a number"),
        (2, -1, "a number"),
        (2, 1 << 63, "a number"),
        (3, 1.0, "a number"),
        (4, b"a", "another shape"),
        (5, b"junk", "quorum certificate|a field"),
        (5, "text", "certificate is none"),
        (6, [b"x" * 31], "digests"),
        (6, ["x" * 32], "digests"),
        (6, [b"x" * 32] * (MOST_BATCHES + 1), "digests"),
        (6, {"x": 1}, "digests"),
        (10, [1, 2, 3], "another shape"),
        (10, {}, "another shape"),
        (10, b"\x01\x02", "not encoded the one way"),
        (11, [[1, 2, 3]], "another shape"),
        (11, [1], "no block"),
        (12, None, "no block"),
        (12, [None], "a number"),
    ],
)
def test_what_is_no_block_is_refused_with_the_reason(place: int, value: Any, text: str) -> None:
    with pytest.raises(BlockError, match=text):
        decode_block(changed(place, value))


def test_one_block_has_one_encoding() -> None:
    items = msgpack.unpackb(GOOD.encoded)
    long_form = b"\xdc" + len(items).to_bytes(2, "big") + GOOD.encoded[1:]
    assert msgpack.unpackb(long_form) == items
    with pytest.raises(BlockError, match="not encoded the one way"):
        decode_block(long_form)
    for other in (GOOD.encoded + b"\0", GOOD.encoded[:-1], b"", msgpack.packb([*items, 0])):
        with pytest.raises(BlockError):
            decode_block(other)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.binary(max_size=70)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.data())
@settings(max_examples=300, derandomize=True, deadline=None)
def test_garbage_raises_the_named_error_and_what_can_be_read_is_read_as_it_was_written(
    data: st.DataObject,
) -> None:
    kind = data.draw(st.sampled_from(["bytes", "flip", "values"]))
    if kind == "bytes":
        bad = data.draw(st.binary(max_size=200))
    elif kind == "flip":
        place = data.draw(st.integers(0, len(GOOD.encoded) - 1))
        bad = GOOD.encoded[:place] + bytes([data.draw(st.integers(0, 255))]) + GOOD.encoded[place + 1 :]
    else:
        bad = changed(data.draw(st.integers(0, 12)), data.draw(values))
    try:
        found = decode_block(bad)
    except BlockError:
        return
    assert found.encoded == bad
    assert found.digest == block_digest(bad)
    assert (found == GOOD) == (bad == GOOD.encoded)


def test_blocks_are_compared_by_what_they_say() -> None:
    assert replace(GOOD, encoded=b"", digest=b"") == GOOD
    assert remade(GOOD) == GOOD
    assert remade(GOOD).encoded == GOOD.encoded
