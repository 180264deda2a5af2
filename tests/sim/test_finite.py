"""No option is given a number with which a wait never ends."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from sim.finite import Finite

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "NaN"])
def test_what_is_no_finite_number_is_refused_with_words(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Finite(0, 1e9).convert(text, None, None)
    with pytest.raises(click.BadParameter, match=r"finite number|range"):
        Finite(min=0, min_open=True).convert(text, None, None)


def test_limits_hold_as_before() -> None:
    assert Finite(0, 5).convert("2.5", None, None) == 2.5
    with pytest.raises(click.BadParameter, match="range"):
        Finite(0, 5).convert("6", None, None)


def test_every_option_that_takes_a_number_with_a_point_is_of_this_kind() -> None:
    for folder in ("scripts", "sim", "node"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if path.name != "finite.py":
                assert "click.FloatRange(" not in text, path
                assert "type=float" not in text, path
