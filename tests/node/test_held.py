"""Where nodes that did not agree are to meet. (What a node holds: test_queries.py.)"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.held import Meeting


@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from("abcdefg"), st.integers(1, 500)), min_size=1, max_size=30),
    st.lists(st.integers(0, 1 << 62), max_size=10),
)
def test_no_less_than_so_many_decide_where_nodes_meet(
    need: int, said: list[tuple[str, int]], lies: list[int]
) -> None:
    """Liars, one fewer than are needed, move the meeting neither behind all honest nodes nor out of their reach."""
    meeting = Meeting(need)
    for place, (node, index) in enumerate(said):
        meeting.heard(node, index)
        for liar, lie in enumerate(lies[place : place + need - 1]):
            meeting.heard(f"liar {liar}", lie)
    honest = sorted(dict(said).values())
    heard = len(honest) + len(
        {liar for place in range(len(said)) for liar, _ in enumerate(lies[place : place + need - 1])}
    )
    entries = [meeting.entry() for _ in range(9)]
    if heard < need:
        assert entries == [0] * 9
    else:
        ahead = [1, 2, 4, 8, 16, 32, 64, 64, 64]
        assert all(entry <= honest[-1] + more for entry, more in zip(entries, ahead, strict=True))
        if len(honest) >= need:
            assert all(entry > honest[-need] for entry in entries)
