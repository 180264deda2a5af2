"""Numbers of a command line. `float` reads `nan` and `inf` too, and a comparison with a limit then says what nobody meant."""

from __future__ import annotations

import math
from typing import Any

import click


class Finite(click.FloatRange):
    """A `click.FloatRange` that takes finite numbers only."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number
