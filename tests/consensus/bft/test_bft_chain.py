"""A block's fields follow from its parent and nothing else, and turns follow from who signs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from bft_chain import Growing, batch, committee_of, seal
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.bft.block import MOST_BATCHES, Block, decode_block, genesis, make_block
from consensus.bft.chain import BLOCK_WEIGHT, extend, flaw, leader_of, passed_over
from consensus.bft.committee import Committee
from consensus.bft.timing import Timing
from consensus.core import EntryKind

TIMING = Timing(mark_heights=4, snapshot_bytes=1000, block_bytes=600, batch_bytes=900, turns=4, exile=12)
FOUR = committee_of(4)

steps = st.lists(
    st.tuples(
        st.lists(st.integers(0, 300), max_size=2),
        st.integers(0, 4),
        st.sampled_from(["", "a", "b", "c", "d"]),
    ),
    min_size=1,
    max_size=40,
)


def remade(block: Block, **changes: Any) -> Block:
    """The block with other fields, and bytes and digest to match, as a liar would make it."""
    other = replace(block, **changes)
    return make_block(
        other.epoch, other.round, other.height, other.author, other.justify, other.payload, other.index, other.weight,
        other.mark, other.marked, other.standing, other.schedule,
    )  # fmt: skip


@given(steps)
@settings(max_examples=60, derandomize=True, deadline=None)
def test_what_extend_gives_has_no_flaw_and_survives_its_encoding(
    plan: list[tuple[list[int], int, str]],
) -> None:
    parent = genesis(FOUR)
    for number, (sizes, gap, silent) in enumerate(plan):
        signers = [name for name in FOUR.members if name != silent]
        round = parent.round + 1 + gap
        author = leader_of(parent, round, FOUR)
        batches = [batch(f"{number}/{place}", size) for place, size in enumerate(sizes)]
        justify = seal(FOUR, parent, signers).encode()
        block = extend(parent, justify, round, author, batches, FOUR, TIMING)
        assert flaw(block, parent, sizes, FOUR, TIMING) == ""
        assert decode_block(block.encoded) == block
        assert decode_block(block.encoded).encoded == block.encoded
        assert block.height == parent.height + 1
        assert block.index == parent.index + len(sizes) + bool(block.mark)
        # At a mark the blocks since the last one count as well.
        blocks = BLOCK_WEIGHT * (block.height - parent.marked[0]) if block.mark else 0
        assert block.weight == (
            0 if block.mark == EntryKind.CHECKPOINT else parent.weight + sum(sizes) + blocks
        )
        assert block.marked == ((block.height, block.index) if block.mark else parent.marked)
        assert set(block.schedule) <= set(range(4))
        assert len(block.schedule) >= FOUR.honest
        parent = block


def grown() -> tuple[Block, Block, list[int]]:
    chain = Growing(FOUR, TIMING)
    for number in range(5):
        chain.grow([batch(str(number))])
    child = chain.grow([batch("x", 20), batch("y", 30)])
    return child, chain.blocks[-2], [20, 30]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"epoch": 2}, "epoch"),
        ({"height": 9}, "height"),
        ({"index": 3}, "index"),
        ({"index": 9}, "index"),
        ({"weight": 0}, "weight"),
        ({"mark": int(EntryKind.CHECKPOINT)}, "mark"),
        ({"mark": int(EntryKind.NOOP) + 1}, "mark"),
        ({"marked": (1, 1)}, "marked"),
        ({"standing": ((6, 0), (6, 0), (6, 0), (6, 6))}, "standing"),
        ({"schedule": (0,)}, "schedule"),
        ({"schedule": (0, 1, 2, 7)}, "schedule"),
    ],
)
def test_a_proposer_that_changes_a_field_that_follows_is_found_out(
    changes: dict[str, Any], named: str
) -> None:
    child, parent, sizes = grown()
    assert flaw(child, parent, sizes, FOUR, TIMING) == ""
    assert f"its {named} is" in flaw(remade(child, **changes), parent, sizes, FOUR, TIMING)


def test_a_block_whose_batches_have_other_sizes_is_flawed() -> None:
    child, parent, sizes = grown()
    assert "its weight is" in flaw(child, parent, [20, 31], FOUR, TIMING)
    with pytest.raises(ValueError, match="1 sizes of 2 batches"):
        flaw(child, parent, sizes[:1], FOUR, TIMING)


def test_a_block_on_another_parent_is_flawed() -> None:
    child, parent, sizes = grown()
    other = remade(parent, payload=(batch("z")[0],))
    assert "is not its parent's" in flaw(child, other, sizes, FOUR, TIMING)
    forged = seal(FOUR, parent, ["a", "b", "c"])
    stale = replace(forged, round=forged.round - 1).encode()
    assert "is not its parent's" in flaw(remade(child, justify=stale), parent, sizes, FOUR, TIMING)
    assert "quorum certificate" in flaw(remade(child, justify=b"junk"), parent, sizes, FOUR, TIMING)


def test_a_block_in_a_round_not_above_its_parents_is_flawed() -> None:
    child, parent, sizes = grown()
    text = flaw(remade(child, round=parent.round), parent, sizes, FOUR, TIMING)
    assert text == "round 5 is not above its parent's, 5"


def test_a_block_of_a_stranger_is_flawed() -> None:
    child, parent, sizes = grown()
    assert flaw(remade(child, author="x"), parent, sizes, FOUR, TIMING) == "its author 'x' is no member"


def test_a_block_has_no_batch_twice_and_not_too_many_bytes_but_one_batch_may_be_longer() -> None:
    def judged(*batches: tuple[bytes, int]) -> str:
        start = genesis(FOUR)
        child = extend(start, seal(FOUR, start, ()).encode(), 1, "b", batches, FOUR, TIMING)
        return flaw(child, start, [size for _, size in batches], FOUR, TIMING)

    assert judged(batch("x", 300), batch("y", 300)) == ""
    assert "601 bytes" in judged(batch("x", 300), batch("y", 301))
    assert judged(batch("x", 601)) == ""
    assert "a batch of 901 bytes" in judged(batch("x", 901))
    assert "twice" in judged(batch("x", 20), batch("x", 20))
    with pytest.raises(ValueError, match="257 batches"):
        judged(*[batch(str(number), 1) for number in range(MOST_BATCHES + 1)])


def test_an_idle_chain_is_cut_off_too_and_makes_no_other_marks() -> None:
    chain = Growing(FOUR, Timing(idle_heights=10))
    for _ in range(31):
        chain.grow()
    marks = {block.height: block.mark for block in chain.blocks if block.mark}
    assert marks == dict.fromkeys((10, 20, 30), EntryKind.CHECKPOINT)


def test_small_entries_come_to_a_checkpoint_by_the_blocks_that_they_take() -> None:
    timing = Timing(mark_heights=4, snapshot_bytes=10 * BLOCK_WEIGHT)
    chain = Growing(FOUR, timing)
    for number in range(12):
        chain.grow([batch(str(number), 1)])
    assert [block.mark for block in chain.blocks if block.mark] == [
        EntryKind.DIGEST, EntryKind.DIGEST, EntryKind.CHECKPOINT,
    ]  # fmt: skip


def test_marks_come_with_the_height_and_only_behind_new_entries() -> None:
    chain = Growing(FOUR, Timing(mark_heights=TIMING.mark_heights))
    for _ in range(20):
        chain.grow()
    assert [block.mark for block in chain.blocks] == [0] * 21
    assert chain.grow([batch("x")]).mark == EntryKind.DIGEST
    assert chain.top.index == 2
    assert chain.top.marked == (21, 2)
    for _ in range(20):
        assert chain.grow().mark == 0
    for number in range(3):
        chain.grow([batch(str(number))])
    # The one entry that came after the mark was enough: nothing else need be new at the height where it is due.
    assert [block.height for block in chain.blocks if block.mark] == [21, 42]


def test_marks_are_exactly_so_many_heights_apart_while_entries_come() -> None:
    chain = Growing(FOUR, TIMING)
    for number in range(13):
        chain.grow([batch(str(number))])
    assert [block.height for block in chain.blocks if block.mark] == [4, 8, 12]


def test_who_brings_a_block_counts_as_one_that_signs() -> None:
    parent = Growing(FOUR, TIMING).grow()
    justify = seal(FOUR, parent, ["a", "b", "d"]).encode()
    assert leader_of(parent, 2, FOUR) == "c"
    block = extend(parent, justify, 2, "c", (), FOUR, TIMING)
    assert block.standing == ((2, 0), (2, 0), (2, 0), (2, 0))
    block = extend(parent, justify, 3, "d", (), FOUR, TIMING)
    assert block.standing == ((2, 0), (2, 0), (0, 2), (2, 0)), "it was passed over, and has signed nothing"


def test_a_checkpoint_comes_with_the_bytes_and_in_place_of_the_other_mark() -> None:
    chain = Growing(FOUR, TIMING)
    weights = []
    for number in range(8):
        block = chain.grow([batch(str(number), 250)])
        weights.append((block.weight, block.mark))
    assert weights == [
        (250, 0),
        (500, 0),
        (750, 0),
        (0, EntryKind.CHECKPOINT),
        (250, 0),
        (500, 0),
        (750, 0),
        (0, 3),
    ]


@given(st.integers(1, 10), st.integers(0, 60), st.integers(0, 40), st.data())
@settings(max_examples=100, derandomize=True)
def test_passed_over_are_the_leaders_of_the_rounds_between_each_once(
    size: int, below: int, gap: int, data: st.DataObject
) -> None:
    committee = committee_of(size)
    schedule = tuple(sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1))))
    parent = remade(genesis(committee), round=below, schedule=schedule)
    round = below + 1 + gap
    between = [leader_of(parent, skipped, committee) for skipped in range(below + 1, round)]
    found = [committee.members[number] for number in passed_over(parent, round, committee)]
    assert found == list(dict.fromkeys(between))


def test_a_gap_of_any_length_costs_one_way_through_the_schedule() -> None:
    assert passed_over(genesis(FOUR), 1 << 62, FOUR) == (1, 2, 3, 0)
    assert passed_over(genesis(FOUR), 0, FOUR) == ()


@pytest.mark.parametrize("committee", [FOUR, committee_of(7), Committee("c", 1, tuple("abcdef"), 2, 1)])
def test_a_dark_member_loses_its_turn_for_as_long_as_it_is_dark_and_has_it_again_once_it_signs(
    committee: Committee,
) -> None:
    chain = Growing(committee, TIMING)
    for _ in range(9):
        chain.grow()
    assert chain.schedule() == list(committee.members)
    for _ in range(60):
        chain.grow(dark=["b"])
    lost = [height for height, leader in chain.passed if leader == "b"]
    # The turns up to the next change of the schedule behind the first lost one are all that it costs.
    assert lost
    assert max(lost) <= -(-lost[0] // TIMING.turns) * TIMING.turns
    assert "b" not in chain.schedule()
    back = chain.top.height
    while "b" not in chain.schedule():
        chain.grow()
        assert chain.top.height <= back + TIMING.turns
    for _ in range(2 * len(committee.members)):
        chain.grow()
    assert "b" in [block.author for block in chain.blocks[back:]]
    assert len([leader for _, leader in chain.passed if leader == "b"]) == len(lost)


def test_a_crashed_leader_costs_one_round_and_not_one_in_each_way_through_the_schedule() -> None:
    chain = Growing(committee_of(4), Timing())
    for _ in range(5):
        chain.grow()
    for _ in range(Timing().turns + 8):
        chain.grow(dark=["b"])
    assert [leader for _, leader in chain.passed] == ["b"]


def test_a_member_that_signs_but_fails_in_its_turn_has_none_for_as_long_as_its_exile() -> None:
    chain = Growing(FOUR, TIMING)
    for _ in range(200):
        chain.grow(mute=["c"])
    heights = [height for height, _ in chain.passed]
    first = dict.fromkeys(height // (TIMING.exile + TIMING.turns) for height in heights)
    # It costs a few rounds once in an exile, and what comes back into the schedule every time is only that.
    assert 5 <= len(first) <= 200 // TIMING.exile
    assert len(heights) <= 2 * len(first) + 2
    assert {leader for _, leader in chain.passed} == {"c"}


def test_a_member_whose_votes_never_come_has_no_turn_even_if_no_turn_of_its_was_passed_over() -> None:
    parent = genesis(FOUR)
    schedules = []
    for _ in range(40):
        # Leaders a, b, c in their turns; a brings d's block too, so that nothing is passed over.
        round = parent.round + 1
        signers = ["a", "b", "c"]
        author = leader_of(parent, round, FOUR)
        author = "a" if author == "d" else author
        parent = extend(parent, seal(FOUR, parent, signers).encode(), round, author, (), FOUR, TIMING)
        schedules.append(3 in parent.schedule)
    assert schedules.index(False) + 1 == 16, (
        "at the first change of the schedule more than an exile from its last vote"
    )
    assert not any(schedules[16:])


def test_with_fewer_than_r_plus_1_left_everybody_has_a_turn() -> None:
    chain = Growing(FOUR, TIMING)
    for _ in range(15):
        chain.grow()
    start = chain.top
    signers = ["a", "b", "c"]
    # Three turns are passed over at once: one leader would be left, and that one may be a liar.
    justify = seal(FOUR, start, signers).encode()
    author = leader_of(start, start.round + 4, FOUR)
    block = extend(start, justify, start.round + 4, author, (), FOUR, TIMING)
    assert [number for number, (_, passed) in enumerate(block.standing) if passed] == [0, 1, 2]
    assert block.schedule == (0, 1, 2, 3)
    # With two left they are enough.
    author = leader_of(start, start.round + 3, FOUR)
    block = extend(start, justify, start.round + 3, author, (), FOUR, TIMING)
    assert block.schedule == (2, 3)


def test_strangers_among_signers_change_nothing() -> None:
    start = Growing(FOUR, TIMING)
    parent = start.grow()
    plain = seal(FOUR, parent, ["a", "b", "c"])
    odd = replace(plain, votes=(*plain.votes, ("stranger", b"s" * 64)))
    one = extend(parent, plain.encode(), 2, "c", (), FOUR, TIMING)
    other = extend(parent, odd.encode(), 2, "c", (), FOUR, TIMING)
    assert one.standing == other.standing
