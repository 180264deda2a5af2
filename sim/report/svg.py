"""Small parts of a chart as SVG text: scales, axes, paths. Colours are CSS classes, so that one drawing has two themes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(slots=True)
class Scale:
    """Maps [low, high] to [start, stop] in pixels, linearly or by the logarithm."""

    low: float
    high: float
    start: float
    stop: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Pixels of a value, kept within the range."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (self.stop - self.start) * ((value - low) / (high - low) if high > low else 0.0)


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most about `most` round values from low to high (steps of 1, 2 or 5 times a power of ten)."""
    span = max(high - low, 1e-12)
    rough = span / max(most, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def decades(low: float, high: float) -> list[float]:
    """Powers of ten from low to high."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [10.0**power for power in range(first, last + 1)]


def number(value: float) -> str:
    """A coordinate, as short as a tenth of a pixel allows."""
    return f"{value:.1f}".removesuffix(".0")


def compact(value: float) -> str:
    """A count for an axis: 1500 -> 1.5k."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{suffix}"
    return f"{value:.4g}"


def duration(us: float) -> str:
    """A duration in the unit that suits it."""
    if us >= 1e6:
        return f"{us / 1e6:.3g} s"
    if us >= 1000:
        return f"{us / 1000:.3g} ms"
    return f"{us:.0f} µs"


def text(x: float, y: float, content: str, classes: str = "", anchor: str = "start") -> str:
    """A line of text."""
    named = f' class="{classes}"' if classes else ""
    placed = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{number(x)}" y="{number(y)}"{named}{placed}>{escape(content)}</text>'


def rect(
    x: float, y: float, width: float, height: float, classes: str, title: str = "", radius: float = 0
) -> str:
    """A rectangle; `title` shows when it is pointed at."""
    body = f"<title>{escape(title)}</title>" if title else ""
    rounded = f' rx="{number(radius)}"' if radius else ""
    return (
        f'<rect x="{number(x)}" y="{number(y)}" width="{number(max(width, 0.5))}" height="{number(height)}"{rounded} '
        f'class="{classes}">{body}</rect>'
    )


def line(x1: float, y1: float, x2: float, y2: float, classes: str) -> str:
    """A straight line."""
    return (
        f'<line x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}" class="{classes}"/>'
    )


def path(
    points: Sequence[tuple[float, float]], classes: str, title: str = "", close_at: float | None = None
) -> str:
    """A line through points; with `close_at` an area down to that height."""
    if not points:
        return ""
    steps = "L".join(f"{number(x)} {number(y)}" for x, y in points)
    if close_at is not None:
        steps = (
            f"{number(points[0][0])} {number(close_at)}L{steps}L{number(points[-1][0])} {number(close_at)}Z"
        )
    body = f"<title>{escape(title)}</title>" if title else ""
    return f'<path d="M{steps}" class="{classes}">{body}</path>'


def dots(points: Iterable[tuple[float, float]], classes: str, title: str = "") -> str:
    """Dots as one path (its round line ends are the dots): thousands of them stay small. Points that fall on one
    another within half a pixel are drawn once."""
    seen = dict.fromkeys((round(x * 2) / 2, round(y * 2) / 2) for x, y in points)
    if not seen:
        return ""
    steps = "".join(f"M{number(x)} {number(y)}h0" for x, y in seen)
    body = f"<title>{escape(title)}</title>" if title else ""
    return f'<path d="{steps}" class="{classes}">{body}</path>'


def crosses(points: Iterable[tuple[float, float, str]], classes: str, size: float = 3.5) -> str:
    """A cross a point, each with its own title."""
    return "".join(
        f'<path d="M{number(x - size)} {number(y - size)}l{number(2 * size)} {number(2 * size)}'
        f'm0 {number(-2 * size)}l{number(-2 * size)} {number(2 * size)}" class="{classes}">'
        f"<title>{escape(title)}</title></path>"
        for x, y, title in points
    )
