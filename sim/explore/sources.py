"""Which code a process runs, as one short value: results of two processes belong together only if it is the same."""

from __future__ import annotations

import hashlib
import importlib.util
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("consensus", "node", "sim")


class OtherSources(Exception):
    """A worker runs other code than the process that asks it."""


def _of_packages() -> str:
    digest = hashlib.sha256(platform.python_version().encode())
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


LOADED: Final = _of_packages()
"""When this module was imported: a file that changes later changes nothing in this process."""


def fingerprint(modules: Sequence[str] = ()) -> str:
    """Of Python, the project's packages and further modules (by name; those that cannot be found count as absent)."""
    digest = hashlib.sha256(LOADED.encode())
    for name in modules:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            spec = None
        origin = Path(spec.origin) if spec is not None and spec.origin is not None else None
        source = origin.read_bytes() if origin is not None and origin.is_file() else b""
        digest.update(name.encode() + b"\0" + source + b"\0")
    return digest.hexdigest()[:16]
