"""Batches: bounded whatever a liar sends, fair to all members, and nothing that a block needs is refused."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import pytest
from bft_chain import committee_of
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.bft import payload as module
from consensus.bft.block import batch_digest
from consensus.bft.payload import MOST_AGAIN, OVERHEAD, Payloads

FOUR = committee_of(4)
ROOM = 10 * (OVERHEAD + 100)
LIMIT = 1000


def payloads(node: str = "a", bound: int = ROOM) -> Payloads:
    return Payloads(FOUR, node, bound)


def bytes_of(name: str, size: int = 100) -> bytes:
    return name.encode().ljust(size, b".")


def put(held: Payloads, author: str, name: str, size: int = 100, *, asked: bool = False) -> bytes | None:
    return held.add(author, 1, bytes_of(name, size), 0, asked=asked)


def digest_of(name: str, size: int = 100) -> bytes:
    return batch_digest(1, bytes_of(name, size))


def test_a_batch_is_taken_once_and_waits_until_it_is_ordered() -> None:
    held = payloads()
    assert held.pick(LIMIT, 9, ()) == []
    assert held.missing([digest_of("x")]) == [digest_of("x")]
    digest = put(held, "b", "x")
    assert digest == digest_of("x")
    assert put(held, "b", "x") is None
    assert held.pick(LIMIT, 9, ()) == [(digest_of("x"), 100)]
    assert held.known(digest)
    assert held.get(digest) == ("b", 1, bytes_of("x"))
    assert held.size(digest) == 100
    assert held.missing([digest]) == []
    assert held.charged("b") == 100 + OVERHEAD
    held.ordered([digest], 7, 0)
    assert not held.waiting
    assert held.charged("b") == 0
    assert held.pick(LIMIT, 9, ()) == []
    assert held.get(digest) is not None, "others may still ask for it"


def test_the_digest_covers_the_kind() -> None:
    held = payloads()
    assert held.add("b", 1, b"x", 0) != held.add("b", 2, b"x", 0)
    assert [kind for _, _, kind, _ in held.held()] == [1, 2]


def test_a_late_copy_of_what_was_ordered_is_not_taken_for_new_though_its_bytes_are_gone() -> None:
    held = payloads()
    digest = put(held, "b", "x")
    assert digest is not None
    held.ordered([digest], 7, 0)
    held.forget(6)
    assert held.get(digest) is not None
    held.forget(7)
    assert held.get(digest) is None
    with pytest.raises(KeyError):
        held.size(digest)
    assert held.known(digest)
    assert put(held, "b", "x") is None
    assert put(held, "c", "x") is None
    assert not held.waiting


def test_what_a_block_needs_is_taken_though_it_was_ordered_and_forgotten_before() -> None:
    held = payloads()
    digest = put(held, "b", "x")
    assert digest is not None
    held.ordered([digest], 7, 0)
    held.forget(7)
    assert held.missing([digest]) == [digest]
    assert put(held, "b", "x", asked=True) == digest
    held.ordered([digest], 9, 0)
    held.forget(8)
    assert held.get(digest) is not None
    held.forget(9)
    assert held.get(digest) is None


def test_a_batch_ordered_twice_is_held_as_long_as_the_later_place_needs_it() -> None:
    held = payloads()
    one, other = put(held, "b", "x"), put(held, "b", "y")
    assert one is not None
    assert other is not None
    held.ordered([one], 3, 0)
    held.ordered([other, one], 5, 0)
    held.forget(4)
    assert held.get(one) is not None
    held.forget(5)
    assert held.get(one) is None
    assert held.get(other) is None


def test_what_was_ordered_twice_keeps_nothing_else() -> None:
    held = payloads()
    one, other = put(held, "b", "x"), put(held, "b", "y")
    assert one is not None
    assert other is not None
    held.ordered([one], 3, 0)
    held.ordered([other], 4, 0)
    held.ordered([one], 6, 0)
    held.forget(4)
    assert held.get(one) is not None
    assert held.get(other) is None


def test_the_memory_of_what_was_ordered_is_bounded_and_loses_the_oldest_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_REMEMBERED", 3)
    held = payloads()
    for number in range(5):
        digest = put(held, "b", str(number))
        assert digest is not None
        held.ordered([digest], number + 1, 0)
        held.forget(number + 1)
    assert [held.known(digest_of(str(number))) for number in range(5)] == [False, False, True, True, True]


def test_a_liar_that_floods_fills_its_own_queue_only() -> None:
    held = payloads()
    taken = [put(held, "d", f"junk{number}") for number in range(100)]
    assert sum(digest is not None for digest in taken) == 10
    assert held.charged("d") <= ROOM
    assert held.full("d", 0)
    assert put(held, "b", "x") is not None
    assert held.charged("b") == 100 + OVERHEAD


def test_empty_batches_fill_a_queue_too() -> None:
    held = payloads(bound=100 * OVERHEAD)
    taken = [held.add("d", number, b"", 0) for number in range(256)]
    assert sum(digest is not None for digest in taken) == 100


def test_a_batch_longer_than_the_bound_fits_an_empty_queue_alone() -> None:
    held = payloads()
    assert not held.full("b", 2 * ROOM)
    assert put(held, "b", "x", 2 * ROOM) is not None
    assert held.full("b", 1)
    assert put(held, "b", "y", 1) is None
    assert held.pick(LIMIT, 9, ()) == [(digest_of("x", 2 * ROOM), 2 * ROOM)]


def test_a_stranger_has_no_queue() -> None:
    held = payloads()
    assert held.full("x", 1)
    assert put(held, "x", "x") is None
    assert put(held, "x", "x", asked=True) is None
    assert not held.waiting


def test_what_a_block_needs_is_taken_though_its_author_has_too_many_waiting() -> None:
    # A liar sends everybody other batches, until its queue is full everywhere, and each with another content.
    held = payloads()
    for number in range(20):
        put(held, "d", f"mine{number}")
    before = held.charged("d")
    assert put(held, "d", "theirs") is None
    digest = put(held, "d", "theirs", asked=True)
    assert digest is not None
    assert held.missing([digest]) == []
    assert held.charged("d") == before
    assert digest in [found for found, *_ in held.held()], "a vote says that it is held, so it is recorded"


def test_a_lent_batch_is_charged_to_nobody_proposed_by_nobody_and_goes_with_its_block() -> None:
    held = payloads()
    lent, kept = put(held, "b", "x", asked=True), put(held, "b", "y", asked=True)
    assert lent is not None
    assert kept is not None
    assert held.charged("b") == 0
    assert not held.waiting
    assert held.pick(LIMIT, 9, ()) == []
    held.keep_lent({kept})
    assert held.get(lent) is None
    assert held.get(kept) is not None
    assert not held.known(lent), "when its author sends it, it is new"
    held.ordered([kept], 4, 0)
    held.keep_lent(())
    assert held.get(kept) is not None, "ordered ones stay until they are forgotten"


def test_a_lent_batch_that_a_member_sends_itself_waits_in_its_queue() -> None:
    held = payloads()
    digest = put(held, "d", "x", asked=True)
    assert digest is not None
    assert put(held, "b", "x") is None, "it is recorded already"
    assert held.waiting
    assert held.charged("b") == 100 + OVERHEAD
    assert held.pick(LIMIT, 9, ()) == [(digest, 100)]
    held.keep_lent(())
    assert held.get(digest) is not None


def test_a_liar_that_repeats_anothers_batch_cannot_hide_it_behind_its_own() -> None:
    held = payloads()
    for number in range(8):
        put(held, "d", f"junk{number}")
    assert put(held, "d", "x") is not None
    assert put(held, "b", "x") is None
    assert held.charged("b") == 100 + OVERHEAD
    assert held.pick(200, 2, ())[0] == (digest_of("x"), 100)
    held.ordered([digest_of("x")], 1, 0)
    assert held.charged("b") == 0
    assert held.charged("d") == 8 * (100 + OVERHEAD)


def test_a_batch_in_two_queues_is_picked_once_and_counted_once() -> None:
    held = payloads()
    for author in "bcd":
        put(held, author, "x")
    put(held, "d", "y")
    assert held.pick(200, 9, ()) == [(digest_of("x"), 100), (digest_of("y"), 100)]


def test_repeating_what_is_here_does_not_carry_a_member_past_its_bound() -> None:
    held = payloads()
    for number in range(10):
        put(held, "b", f"b{number}")
        put(held, "d", f"d{number}")
    for number in range(10):
        put(held, "d", f"b{number}")
    assert held.charged("d") == ROOM


def test_a_liar_that_repeats_anothers_batches_first_does_not_win_it_turns() -> None:
    # Or c's would come first each time, because the log's account would say that d was served, and b would starve.
    held = payloads()
    for number in range(6):
        put(held, "d", f"c{number}")
        put(held, "c", f"c{number}")
        put(held, "b", f"b{number}")
    order = ""
    for index in range(1, 9):
        [(digest, _)] = held.pick(LIMIT, 1, ())
        found = held.get(digest)
        assert found is not None
        order += chr(found[2][0])
        held.ordered([digest], index, 0)
    assert order.count("b") >= 3


def test_members_take_turns_and_in_each_queue_the_oldest_goes_first() -> None:
    held = payloads()
    for number in range(5):
        put(held, "d", f"d{number}")
    put(held, "b", "b0")
    put(held, "c", "c0")
    names = [found[2].rstrip(b".") for digest, _ in held.pick(LIMIT, 5, ()) if (found := held.get(digest))]
    assert names == [b"b0", b"c0", b"d0", b"d1", b"d2"]


def test_a_pick_leaves_out_what_blocks_below_have() -> None:
    held = payloads()
    for number in range(4):
        put(held, "b", f"b{number}")
    used = {digest_of("b0"), digest_of("b2")}
    assert held.pick(LIMIT, 9, used) == [(digest_of("b1"), 100), (digest_of("b3"), 100)]
    assert held.pick(LIMIT, 9, {digest_of(f"b{number}") for number in range(4)}) == []
    assert held.waiting, "they are in no committed block yet"


def test_a_long_batch_that_does_not_fit_is_not_overtaken_by_its_authors_next_and_has_the_next_block() -> None:
    held = payloads(bound=10 * LIMIT)
    put(held, "b", "b0", 300)
    put(held, "c", "long", 900)
    put(held, "c", "short", 10)
    put(held, "d", "d0", 300)
    first = held.pick(LIMIT, 9, ())
    assert first == [(digest_of("b0", 300), 300), (digest_of("d0", 300), 300)]
    assert held.pick(LIMIT, 9, [digest for digest, _ in first])[0] == (digest_of("long", 900), 900)
    held.ordered([digest for digest, _ in first], 2, 0)
    put(held, "b", "b1", 300)
    assert held.pick(LIMIT, 9, ())[0] == (digest_of("long", 900), 900)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcd"), st.integers(0, 700), st.sampled_from(["add", "ask", "pick", "forget"])
        ),
        max_size=80,
    )
)
@settings(max_examples=100, derandomize=True)
def test_bounds_and_accounts_hold_whatever_comes(steps: list[tuple[str, int, str]]) -> None:
    held = payloads()
    queues: dict[str, list[tuple[bytes, int]]] = {name: [] for name in "abcd"}
    index = 0
    for number, (author, size, what) in enumerate(steps):
        if what == "add":
            digest = put(held, author, str(number), size)
            if digest is not None:
                queues[author].append((digest, max(size, len(str(number)))))
        elif what == "ask":
            put(held, author, str(number), size, asked=True)
        elif what == "pick":
            picked = held.pick(LIMIT, size % 5, ())
            assert len(picked) <= size % 5
            assert len(picked) == 1 or sum(length for _, length in picked) <= LIMIT
            if size % 5 and any(queues.values()):
                assert picked, "something waits and there is room"
            for digest, length in picked:
                # Each is the oldest of some queue.
                [queue] = [queue for queue in queues.values() if queue and queue[0] == (digest, length)]
                queue.pop(0)
            index += len(picked)
            held.ordered([digest for digest, _ in picked], index, 0)
        else:
            held.forget(index - 1)
        for name, queue in queues.items():
            assert held.charged(name) == sum(length + OVERHEAD for _, length in queue)
            assert held.charged(name) <= ROOM or len(queue) == 1
        assert held.waiting == any(queues.values())


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4)), min_size=1, max_size=30),
    st.integers(0, 3),
    st.integers(1, 3),
)
@settings(max_examples=100, derandomize=True)
def test_the_head_of_a_queue_is_included_within_n_rounds_led_by_honest_nodes(
    arrivals: list[tuple[str, int]], lag: int, most: int
) -> None:
    # Three honest replicas lead in turn and hold the same; blocks are committed `lag` blocks later. d floods all of them.
    replicas = [Payloads(FOUR, name, 1 << 20) for name in "abc"]
    queues: dict[str, list[bytes]] = {name: [] for name in "abcd"}
    waited: dict[bytes, int] = {}
    pipeline: deque[list[bytes]] = deque()
    index = 0

    def arrive(author: str, name: str) -> None:
        queues[author].append(digest_of(name))
        for replica in replicas:
            put(replica, author, name)

    for number in range(80):
        for junk in range(3):
            arrive("d", f"junk{number}/{junk}")
        if number < len(arrivals):
            author, count = arrivals[number]
            for each in range(count):
                arrive(author, f"{number}/{each}")
        heads = [queue[0] for queue in queues.values() if queue]
        used = {digest for block in pipeline for digest in block}
        block = [digest for digest, _ in replicas[number % 3].pick(1 << 20, most, used)]
        for digest in heads:
            if digest not in block:
                waited[digest] = waited.get(digest, 0) + 1
                assert waited[digest] < len(FOUR.members)
        for queue in queues.values():
            queue[:] = [digest for digest in queue if digest not in block]
        pipeline.append(block)
        if len(pipeline) > lag:
            done = pipeline.popleft()
            index += len(done)
            for replica in replicas:
                replica.ordered(done, index, 0)
    assert [name for name, queue in queues.items() if queue] in ([], ["d"])


def test_own_batches_are_sent_again_after_longer_and_longer_waits() -> None:
    held = payloads("a")
    held.add("a", 1, b"own", 1000)
    held.add("b", 1, b"other", 1000)
    assert held.stale_own(1099, 100) == []
    assert held.stale_own(1100, 100) == [("a", 1, b"own")]
    assert held.stale_own(1299, 100) == []
    assert held.stale_own(1300, 100) == [("a", 1, b"own")]
    times = [now for now in range(1300, 60_000) if held.stale_own(now, 100)]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps[:3] == [800, 1600, 3200]
    assert set(gaps[3:]) == {3200}, "it never stops, and the wait has a bound"
    held.ordered([batch_digest(1, b"own")], 1, 0)
    assert held.stale_own(1 << 40, 100) == []


def test_not_everything_is_sent_again_at_once() -> None:
    held = payloads("a", bound=16 * MOST_AGAIN)
    for number in range(5):
        put(held, "a", str(number), MOST_AGAIN // 2)
    put(held, "a", "long", 2 * MOST_AGAIN)
    sent = [[payload[:1] for _, _, payload in held.stale_own(100, 100)] for _ in range(5)]
    assert sent == [[b"0", b"1"], [b"2", b"3"], [b"4"], [b"l"], []]


def test_what_a_journal_brings_back_waits_again_and_beyond_the_bound_it_is_lent() -> None:
    held = payloads()
    digests = [held.restore("b", 1, bytes_of(str(number)), 50) for number in range(12)]
    assert held.missing(digests) == [], "a voted block may need any of them"
    assert held.charged("b") == ROOM
    held.keep_lent({digests[11]})
    assert held.missing(digests) == [digests[10]]
    assert held.restore("b", 1, bytes_of("0"), 50) == digests[0]
    stranger = held.restore("x", 1, b"from an older committee", 50)
    assert held.missing([stranger]) == []
    own = held.restore("a", 1, b"own", 50)
    assert held.stale_own(150, 100) == [("a", 1, b"own")]
    assert own in [digest for digest, _ in held.pick(LIMIT, 99, ())]
