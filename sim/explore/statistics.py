"""Intervals for rates that are counted from few events."""

from __future__ import annotations

from math import sqrt
from typing import Final

Z95: Final = 1.959963984540054
"""The 97.5 % point of the normal distribution."""


def wilson(hits: int, trials: int, z: float = Z95) -> tuple[float, float]:
    """The Wilson score interval of a proportion (Wilson, JASA 22, 1927): sound for few hits, for none, for nothing but hits.

    No trials: (0, 1). Raises ValueError unless 0 <= hits <= trials."""
    if not 0 <= hits <= trials:
        raise ValueError(f"{hits} hits in {trials} trials")
    if not trials:
        return 0.0, 1.0
    share = hits / trials
    scale = 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / scale
    half = z / scale * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return (0.0 if hits == 0 else max(0.0, middle - half)), (
        1.0 if hits == trials else min(1.0, middle + half)
    )
