"""The measurement of apply measures what it says."""

from __future__ import annotations

import pytest

from sim.bench.apply import measure_apply, run


def test_the_figures_fit_together_and_the_digest_does_not_depend_on_the_grouping() -> None:
    one = measure_apply(2000, 4)
    other = measure_apply(2000, 64, group=3)
    assert one.digest == other.digest
    assert one.digest != measure_apply(2000, 4, seed=2).digest
    assert one.interactions_per_second == pytest.approx(2000 / one.seconds)
    assert one.commands_per_second == pytest.approx(500 / one.seconds)
    assert one.interactions_per_second > 10_000
    assert one.items == 9066


def test_a_run_names_the_machine_and_the_versions() -> None:
    figures = run(500, (50,))
    assert {"cpu", "system", "python", "numpy", "numba"} <= set(figures["environment"])
    assert [row["batch"] for row in figures["apply"]] == [50]


def test_sizes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="batch 1 to 256"):
        measure_apply(100, 257)
