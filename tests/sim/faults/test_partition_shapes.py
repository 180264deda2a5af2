"""What each shape of a partition promises by its name."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.faults import shapes
from sim.faults.shapes import Setting, ShapeError, grudge

SIZES = [3, 4, 5, 7]
UNDIRECTED = [name for name in shapes.names() if name != "grudge"]


def setting(count: int, leader: int | None = None) -> Setting:
    nodes = [f"n{number}" for number in range(1, count + 1)]
    domains = {node: "ABC"[place % 3] for place, node in enumerate(nodes)}
    return Setting(nodes, None if leader is None else nodes[leader], domains)


def hears(where: Setting, pairs: list[tuple[str, str]]) -> Callable[[str, str], bool]:
    """hears(a, b): whether a hears what b says."""
    cut = set(pairs)
    return lambda a, b: a == b or (b, a) not in cut


def sides(where: Setting, pairs: list[tuple[str, str]]) -> list[list[str]]:
    """Nodes that can reach each other, perhaps over others."""
    cut = set(pairs)
    found: list[list[str]] = []
    left = list(where.nodes)
    while left:
        side = [left.pop(0)]
        for node in side:
            near = [other for other in left if (node, other) not in cut or (other, node) not in cut]
            side += near
            left = [other for other in left if other not in near]
        found.append(sorted(side))
    return sorted(found, key=len)


drawn = st.tuples(st.sampled_from(SIZES), st.integers(0, 10**6), st.none() | st.integers(0, 2))
laws = settings(max_examples=40, derandomize=True, deadline=None)


@given(drawn, st.sampled_from(shapes.names()), st.sampled_from(["", ":out", ":in"]))
@laws
def test_a_grudge_names_each_link_once_in_the_order_of_the_nodes_and_is_a_function_of_the_draw(
    drew: tuple[int, int, int | None], name: str, direction: str
) -> None:
    where = setting(drew[0], drew[2])
    pairs = grudge(name + direction, where, Random(drew[1]))
    assert pairs, "it cuts nothing"
    assert pairs == grudge(name + direction, where, Random(drew[1]))
    order = {node: place for place, node in enumerate(where.nodes)}
    assert pairs == sorted(set(pairs), key=lambda pair: (order[pair[0]], order[pair[1]]))
    assert all(a != b and a in order and b in order for a, b in pairs)


@given(drawn, st.sampled_from(UNDIRECTED))
@laws
def test_the_two_directions_of_a_shape_are_each_others_mirror_and_together_the_shape(
    drew: tuple[int, int, int | None], name: str
) -> None:
    where = setting(drew[0], drew[2])
    both = set(grudge(name, where, Random(drew[1])))
    out = set(grudge(f"{name}:out", where, Random(drew[1])))
    into = set(grudge(f"{name}:in", where, Random(drew[1])))
    assert out | into == both
    assert not out & into
    assert {(b, a) for a, b in out} == into


@given(drawn, st.sampled_from(shapes.names()))
@laws
def test_where_a_shape_says_so_somebody_talks_with_a_majority_in_an_odd_cluster(
    drew: tuple[int, int, int | None], name: str
) -> None:
    shape, _ = shapes.parse(name)
    if not shape.quorum or drew[0] % 2 == 0:
        return
    where = setting(drew[0], drew[2])
    heard = hears(where, grudge(name, where, Random(drew[1])))
    reach = [sum(heard(a, b) and heard(b, a) for b in where.nodes) for a in where.nodes]
    assert max(reach) > drew[0] // 2


def test_the_shapes_that_promise_no_majority_do_leave_none_at_times() -> None:
    for name in shapes.names():
        if shapes.parse(name)[0].quorum or name == "power-domain":
            continue
        worst = 9
        for seed in range(60):
            where = setting(3)
            heard = hears(where, grudge(name, where, Random(seed)))
            worst = min(
                worst, max(sum(heard(a, b) and heard(b, a) for b in where.nodes) for a in where.nodes)
            )
        assert worst == 1, name
    one_place = Setting(["n1", "n2", "n3"], None, {"n1": "A", "n2": "A", "n3": "B"})
    assert sides(one_place, grudge("power-domain", one_place, Random(1))) == [["n3"], ["n1", "n2"]]


@pytest.mark.parametrize("count", SIZES)
def test_in_a_majorities_ring_everybody_sees_a_majority_and_no_two_the_same(count: int) -> None:
    for seed in range(20):
        where = setting(count)
        heard = hears(where, grudge("majorities-ring", where, Random(seed)))
        seen = {a: tuple(b for b in where.nodes if heard(a, b) and heard(b, a)) for a in where.nodes}
        assert all(len(those) > count // 2 for those in seen.values())
        assert count < 4 or len(set(seen.values())) == count, seen
        assert any(len(those) < count for those in seen.values())


@pytest.mark.parametrize("name", ["bridge", "leader-bridge"])
@pytest.mark.parametrize("count", SIZES)
def test_over_a_bridge_exactly_one_node_sees_everybody(name: str, count: int) -> None:
    for seed in range(20):
        where = setting(count, leader=seed % count if name == "leader-bridge" else None)
        pairs = grudge(name, where, Random(seed))
        heard = hears(where, pairs)
        middle = [a for a in where.nodes if all(heard(a, b) and heard(b, a) for b in where.nodes)]
        assert len(middle) == 1
        rest = Setting([node for node in where.nodes if node not in middle])
        halves = sides(rest, [pair for pair in pairs if not set(pair) & set(middle)])
        assert len(halves) == 2
        if name == "bridge":
            assert len(halves[1]) - len(halves[0]) <= 1
        else:
            assert where.leader in halves[0] or len(halves[0]) == len(halves[1])


@pytest.mark.parametrize("count", SIZES)
def test_the_named_node_is_the_one_that_is_cut_off(count: int) -> None:
    for seed in range(15):
        where = setting(count, leader=1)
        assert sides(where, grudge("leader", where, Random(seed)))[0] == ["n2"]
        alone = sides(where, grudge("follower", where, Random(seed)))[0]
        assert len(alone) == 1
        assert alone != ["n2"] or count == 2
        assert len(sides(where, grudge("one", where, Random(seed)))[0]) == 1
        (a, b), (c, d) = grudge("leader-link", where, Random(seed))
        assert (a, b) == (d, c)
        assert "n2" in (a, b)
        (a, b), (c, d) = grudge("single-link", where, Random(seed))
        assert (a, b) == (d, c)


@pytest.mark.parametrize("count", SIZES)
def test_sides_have_the_sizes_that_their_names_say(count: int) -> None:
    for seed in range(15):
        where = setting(count, leader=2)
        for name in ("halves", "random-halves"):
            assert [len(side) for side in sides(where, grudge(name, where, Random(seed)))] == sorted(
                [count // 2, count - count // 2]
            )
        few, many = sides(where, grudge("minority-third", where, Random(seed)))
        assert len(few) <= -(-count // 3)
        assert len(few) < count / 2
        apart, two_thirds = sides(where, grudge("majority-third", where, Random(seed)))
        assert "n3" in apart
        assert len(two_thirds) > count / 2
        assert len(sides(where, grudge("many-sides", where, Random(seed)))) >= 3
        assert len(grudge("everyone", where, Random(seed))) == count * (count - 1)
        assert len(few) + len(many) == count


def test_one_way_means_that_the_separated_side_is_not_heard_or_hears_nothing() -> None:
    where = setting(5, leader=0)
    assert grudge("leader:out", where, Random(1)) == [("n1", other) for other in where.nodes[1:]]
    assert grudge("leader:in", where, Random(1)) == [(other, "n1") for other in where.nodes[1:]]


def test_a_power_domain_is_cut_off_as_a_whole() -> None:
    where = setting(7)
    for seed in range(20):
        apart = sides(where, grudge("power-domain", where, Random(seed)))
        domains = [[node for node in where.nodes if where.domains[node] == domain] for domain in "ABC"]
        assert any(side in domains for side in apart)


def test_all_halves_come_up() -> None:
    where = setting(4)
    drawn_halves = {
        tuple(map(tuple, sides(where, grudge("random-halves", where, Random(seed))))) for seed in range(99)
    }
    assert len({min(pair) for pair in drawn_halves}) >= len(list(combinations(where.nodes, 2))) // 2


def test_a_cluster_of_one_has_nothing_to_cut() -> None:
    assert [grudge(name, setting(1), Random(1)) for name in shapes.names()] == [[]] * len(shapes.names())


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("brigde", "did you mean 'bridge'"),
        ("halves:up", "'out' or 'in'"),
        ("", "no partition shape ''"),
        ("x:out", "Known: one"),
    ],
)
def test_an_unknown_shape_or_direction_is_refused_with_what_there_is(spec: str, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        grudge(spec, setting(3), Random(1))


@pytest.mark.parametrize(
    ("spec", "count", "most"),
    [
        ("", 4, 4), ("one", 4, 3), ("single-link", 4, 3), ("single-link:out", 4, 3), ("halves", 4, 2), ("bridge", 7, 4),
        ("everyone", 5, 1), ("minority-third", 7, 4), ("power-domain", 4, 3),
    ],
)  # fmt: skip
def test_a_circle_is_as_many_as_all_hear_one_another_in_both_directions(
    spec: str, count: int, most: int
) -> None:
    nodes = [f"n{number}" for number in range(1, count + 1)]
    setting = Setting(nodes, None, {})
    assert shapes.least_circle(spec, setting, nodes) == most


def test_a_circle_counts_only_those_that_it_is_asked_about() -> None:
    setting = Setting(["n1", "n2", "n3", "n4"])
    assert shapes.least_circle("", setting, ["n1", "n3", "n4"]) == 3
    assert shapes.least_circle("one", setting, ["n1", "n3", "n4"]) == 2
