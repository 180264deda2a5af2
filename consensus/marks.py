"""Sometimes-marks: the rare branches say that they were taken, so that a campaign can tell which safeguards it never needed.

A mark changes nothing and is read by harnesses only; `sim.marks` lists all of them with their places. It costs a tenth of a
microsecond, and stands in branches that few messages take: never on the path of every heartbeat. Its name is a literal, a short
sentence in lower case, and stands in one place only.
"""

from __future__ import annotations

from typing import Final

_reached: Final[dict[str, int]] = {}


def sometimes(name: str) -> None:
    """This branch was taken."""
    _reached[name] = _reached.get(name, 0) + 1


def reached() -> dict[str, int]:
    """How often each mark was reached in this process since `clear`; those never reached are not in it."""
    return dict(_reached)


def clear() -> None:
    """Count from nothing."""
    _reached.clear()
