"""How often a node that lies has done so, in a file beside its configuration."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Final

LIES_FILE: Final = "lies.json"


class Lies:
    """How often a node said something else than an honest one, by the kind of message that it should have said."""

    def __init__(self, path: Path, strategy: str, seed: int) -> None:
        """Goes on from what `path` says."""
        self._path = path
        self._about = {"strategy": strategy, "seed": seed}
        self._counts: Counter[str] = Counter(read_lies(path))
        self._written = -1

    def add(self, kind: str, count: int) -> None:
        """Count lies."""
        self._counts[kind] += count

    def write(self) -> None:
        """Write the file, if there is something new."""
        total = self._counts.total()
        if total != self._written:
            self._written = total
            fresh = self._path.with_name(self._path.name + ".new")
            fresh.write_text(
                json.dumps({**self._about, "lies": dict(sorted(self._counts.items()))}) + "\n",
                encoding="utf-8",
            )
            os.replace(fresh, self._path)


def read_lies(path: Path) -> dict[str, int]:
    """What `path` counts; nothing if it is not there, or no such file."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        found = json.loads(path.read_text(encoding="utf-8"))["lies"]
        return {str(kind): int(count) for kind, count in found.items()}
    return {}
