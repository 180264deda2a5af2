"""The import hook that serves compiled modules, in a process that asks for them before it imports any."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from sim.native.modules import HOME, MODULES, ROOT, key

NATIVE: Final = "native"
"""What `use` answers when compiled modules are served; anything else begins with `interpreted: ` and says why."""


class NativeFinder(importlib.abc.MetaPathFinder):
    """Finds the compiled modules of one folder, and no others."""

    def __init__(self, folder: Path) -> None:
        suffix = str(sysconfig.get_config_var("EXT_SUFFIX"))
        self._files = {
            path.relative_to(folder).as_posix().removesuffix(suffix).replace("/", "."): str(path)
            for path in folder.rglob(f"*{suffix}")
        }

    @property
    def complete(self) -> bool:
        """Whether every module of the list is there."""
        return all(module in self._files for module in MODULES)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        found = self._files.get(fullname)
        if found is None:
            return None
        loader: Any = importlib.machinery.ExtensionFileLoader(fullname, found)
        return importlib.util.spec_from_file_location(fullname, found, loader=loader)


def active() -> bool:
    """Whether this process takes its modules from what was compiled."""
    return any(isinstance(finder, NativeFinder) for finder in sys.meta_path)


def use(root: Path = ROOT) -> str:
    """From now on import the compiled modules, if there are some of the present sources. The answer is `native`, or
    `interpreted: ` and why; a second call changes nothing."""
    if active():
        return NATIVE
    if any(getattr(finder, "changes_sources", False) for finder in sys.meta_path):
        return "interpreted: this process runs changed sources"
    early = next((module for module in MODULES if module in sys.modules), None)
    if early is not None:
        return f"interpreted: {early} was imported before sim.native.use()"
    home = root / HOME
    folder = home / key(root)
    if not folder.is_dir():
        if home.is_dir() and any(home.iterdir()):
            return "interpreted: sources are newer than the native build; `make native` builds it again"
        return "interpreted: there is no native build; `make native` makes one"
    finder = NativeFinder(folder)
    if not finder.complete:
        return f"interpreted: the native build in {folder} is incomplete; remove it, then `make native`"
    sys.meta_path.insert(0, finder)
    return NATIVE
