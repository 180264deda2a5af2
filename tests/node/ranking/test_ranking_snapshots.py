"""A snapshot that makes no sense is refused and leaves the old state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from node.ranking import RankingMachine, RankingSettings, commands, queries

SMALL = RankingSettings(factors=4, negatives=2, history=4, window=4, max_users=50, max_items=50)


def filled() -> RankingMachine:
    machine = RankingMachine(SMALL)
    machine.apply(
        [commands.observe([(user, 3 * user % 7) for user in range(20)]), commands.upsert_item(1, 5, "Ünï")]
    )
    machine.apply([commands.publish("a"), commands.observe([(1, 2), (30, 31)]), commands.freeze()])
    return machine


def changed(edit: Callable[[dict[str, Any]], object]) -> list[bytes]:
    chunks = filled().snapshot()
    manifest = msgpack.unpackb(chunks[0])
    edit(manifest)
    return [msgpack.packb(manifest), *chunks[1:]]


def test_chunks_are_bounded_and_later_commands_do_not_reach_them() -> None:
    machine = RankingMachine(RankingSettings(factors=32, max_items=10_000))
    for start in range(0, 9216, 256):
        machine.apply([commands.upsert_items([(item, None, None) for item in range(start, start + 256)])])
    machine.apply([commands.observe([(1, 1), (1, 2)])])
    chunks = machine.snapshot()
    assert len(chunks) > 2
    assert all(len(chunk) <= 1 << 20 for chunk in chunks)
    copies = [bytes(chunk) for chunk in chunks]
    digest = machine.digest()
    machine.apply([commands.observe([(1, 3), (2, 2)])] * 5)
    assert chunks == copies
    machine.restore(chunks)
    assert machine.digest() == digest


def test_an_empty_machine_survives_a_snapshot() -> None:
    machine = RankingMachine(SMALL)
    other = filled()
    other.restore(machine.snapshot())
    assert other.digest() == machine.digest()


def test_titles_versions_and_flags_come_back() -> None:
    machine = RankingMachine(SMALL)
    machine.restore(filled().snapshot())
    assert machine.title(1) == "Ünï"
    stats = queries.decode_stats(machine.query(queries.stats()))
    assert (stats["frozen"], stats["serving"], stats["versions"]) == (True, "a", ["a"])


@pytest.mark.parametrize(
    ("chunks", "text"),
    [
        ([], "no chunks"),
        ([b"\xc1"], "not msgpack"),
        ([msgpack.packb([1])], "format"),
        (changed(lambda m: m.update(format=2)), "format 2"),
        (changed(lambda m: m["settings"].update(factors=8)), "factors = 8; this machine has 4"),
        (changed(lambda m: m.pop("serving")), "makes no sense"),
        (changed(lambda m: m.update(serving="z")), "serves a version 'z'"),
        (changed(lambda m: m.update(frozen=False)), "does not match the digest"),
        (changed(lambda m: m["arrays"].pop()), "behind its last array"),
        (changed(lambda m: m["arrays"][0].__setitem__(2, [1 << 40])), "ends inside array 'user_ids'"),
        (changed(lambda m: m["arrays"][0].__setitem__(1, "|O")), "type '|O'"),
        (changed(lambda m: m.update(versions=[])), "does not begin with its live tables"),
        (filled().snapshot()[:1], "ends inside"),
    ],
)
def test_a_snapshot_that_makes_no_sense_is_refused_and_the_old_state_stays(
    chunks: list[bytes], text: str
) -> None:
    machine = RankingMachine(SMALL)
    machine.apply([commands.observe([(4, 4)])])
    before = machine.digest()
    with pytest.raises(ValueError, match=r".") as caught:
        machine.restore(chunks)
    assert text in str(caught.value)
    assert machine.digest() == before
    machine.apply([commands.observe([(4, 5)])])


def test_every_flipped_byte_of_the_body_is_noticed() -> None:
    chunks = filled().snapshot()
    machine = RankingMachine(SMALL)
    for place in range(0, len(chunks[1]), 97):
        body = bytearray(chunks[1])
        body[place] ^= 0x41
        with pytest.raises(ValueError, match=r"ranking snapshot|codec"):
            machine.restore([chunks[0], bytes(body)])
