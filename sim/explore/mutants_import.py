"""Making mutants: an import hook that compiles changed text in place of a module's own. No file is touched.

A process is a mutant for its whole life: `activate` comes before the first import of anything that a mutant may change, and a
fresh process without it is the control. `python -m sim.explore.mutants_import NAME[,NAME] SCRIPT ARGUMENTS...` runs a script as a
mutant.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import runpy
import sys
from collections.abc import Sequence
from types import CodeType, ModuleType
from typing import Any

from sim.explore.mutants import ROOT, Mutant, MutantError, mutate, pick


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module from changed text; byte code is neither read nor written."""

    def __init__(self, name: str, path: str, text: str) -> None:
        super().__init__(name, path)
        self._text = text

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._text, self.path, "exec", dont_inherit=True)


class Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that mutants change, and no others."""

    changes_sources = True
    """Compiled modules would hide the change: `sim.native.use` leaves them aside."""

    def __init__(self, mutants: Sequence[Mutant]) -> None:
        """Raises MutantError if a mutant no longer fits the source."""
        self._texts = {_module(file): (str(ROOT / file), text) for file, text in mutate(mutants).items()}

    @property
    def modules(self) -> list[str]:
        """The modules that are changed."""
        return list(self._texts)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        found = self._texts.get(fullname)
        if found is None:
            return None
        where, text = found
        loader: Any = _Loader(fullname, where, text)
        return importlib.util.spec_from_file_location(fullname, where, loader=loader)


def _module(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def activate(*names: str) -> Finder | None:
    """Make this process these mutants; no names: nothing happens. Raises MutantError if one does not exist or no longer fits, or
    if a module that it changes has been imported already."""
    if not names:
        return None
    finder = Finder(pick(names))
    for module in finder.modules:
        if module in sys.modules:
            raise MutantError(
                f"{module} was imported before {', '.join(names)} could change it; a mutant needs a fresh process: "
                "python -m sim.explore.mutants_import NAME SCRIPT ARGUMENTS..."
            )
    sys.meta_path.insert(0, finder)
    return finder


def deactivate(finder: Finder | None) -> None:
    """Take the hook away (for tests; modules that were imported meanwhile stay changed)."""
    if finder is not None and finder in sys.meta_path:
        sys.meta_path.remove(finder)


def main() -> None:
    """Run a script as a mutant."""
    if len(sys.argv) < 3:
        sys.exit("usage: python -m sim.explore.mutants_import NAME[,NAME...] SCRIPT [ARGUMENTS...]")
    names, script = sys.argv[1].split(","), sys.argv[2]
    try:
        activate(*names)
    except MutantError as error:
        sys.exit(f"error: {error}")
    sys.argv = sys.argv[2:]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
