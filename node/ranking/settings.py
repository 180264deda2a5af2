"""What makes two ranking machines comparable: sizes and the learning rule, all integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

ONE: Final = 1 << 16
"""1.0 in Q16."""
LARGEST_ID: Final = (1 << 53) - 1
"""Largest id of a user or an item: what JSON and a double still hold exactly."""

_BOUNDS: Final[dict[str, tuple[int, int]]] = {
    "factors": (1, 128),
    "history": (1, 1024),
    "window": (1, 256),
    "negatives": (0, 64),
    "rate": (0, ONE),
    "history_rate": (0, ONE),
    "bias_rate": (0, ONE),
    "decay": (0, 1 << 24),
    "spread": (0, ONE),
    "seed": (0, (1 << 31) - 2),
    "max_users": (1, 1 << 24),
    "max_items": (1, 1 << 24),
    "max_versions": (2, 64),
}


@dataclass(slots=True, frozen=True)
class RankingSettings:
    """Settings of a ranking machine; every replica must have the same ones. Raises ValueError on a value out of bounds.

    Rates are Q16: 65536 is 1.0.
    """

    factors: int = 16
    """Length of a row of the tables."""
    history: int = 64
    """How many of a user's last items are remembered, and so known as seen."""
    window: int = 16
    """How many of the remembered items the model reads as the user's history; at most `history`."""
    negatives: int = 24
    """Sampled items that stand against each observed one."""
    rate: int = 3277
    """Step of gradient descent for users and items."""
    history_rate: int = 3277
    """Step for the items of a history."""
    bias_rate: int = 1600
    """Step for the biases of items."""
    decay: int = 0
    """Shrinkage per touch of a row, in units of 2**-32 of its value."""
    spread: int = 6554
    """New rows of the item table are drawn from [-spread, spread)."""
    seed: int = 1
    """Of the first values of rows and of the sampled items."""
    max_users: int = 1_000_000
    max_items: int = 200_000
    max_versions: int = 4
    """Published versions kept; the oldest that serves nothing is dropped."""
    static: tuple[int, ...] = ()
    """Items in the order to show while nothing has been observed; empty: the order in which they became known."""

    def __post_init__(self) -> None:
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(
                    f"ranking setting {name} must be an integer from {low} to {high}, not {value!r}"
                )
        if self.window > self.history:
            raise ValueError(
                f"ranking setting window ({self.window}) must not exceed history ({self.history})"
            )
        if type(self.static) is not tuple or len(self.static) > 10_000:
            raise ValueError("ranking setting static must be a tuple of at most 10000 item ids")
        for item in self.static:
            if type(item) is not int or not 0 <= item <= LARGEST_ID:
                raise ValueError(
                    f"ranking setting static holds {item!r}, which is no item id (0 to 2**53 - 1)"
                )
        if len(set(self.static)) != len(self.static):
            raise ValueError("ranking setting static names an item twice")

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> RankingSettings:
        """From a configuration table. Raises ValueError naming an unknown key or a bad value."""
        known = [field.name for field in fields(cls)]
        for key in table:
            if key not in known:
                raise ValueError(f"unknown ranking setting {key!r}; there are: {', '.join(known)}")
        values = dict(table)
        if isinstance(values.get("static"), list):
            values["static"] = tuple(values["static"])
        return cls(**values)

    def to_table(self) -> dict[str, Any]:
        """As plain values, in the order of the fields; `from_table` reads it back."""
        table = asdict(self)
        table["static"] = list(self.static)
        return table
