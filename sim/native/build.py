"""Compiling: a copy of the sources, mypyc and the C compiler in a process of their own, and one rename at the end."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Final

from sim.native.constructors import spell_out
from sim.native.modules import HOME, MODULES, ROOT, key, source

PACKAGES: Final = ("consensus", "node", "sim")
LINES: Final = 40
"""Of what the compiler said, at most so many, the last ones."""


class CannotCompile(Exception):
    """Something that compiling needs is not on this machine; the text says what, and what to do."""


class CompileError(Exception):
    """The compiler did not accept the sources; the text is what it said."""


def missing() -> str:
    """What this machine lacks for compiling, in words; empty: nothing."""
    for name in ("mypyc", "setuptools"):
        if importlib.util.find_spec(name) is None:
            return f"no {name}: pip install -c constraints.txt -e '.[dev]'"
    command = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    compiler = shlex.split(str(command))[0]
    if shutil.which(compiler) is None:
        return f"no C compiler {compiler!r}; on Debian: apt-get install gcc"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        return f"no C headers of this Python ({header}); on Debian: apt-get install python3-dev"
    return ""


def build(root: Path = ROOT) -> Path:
    """Compile the present sources, unless that has been done; the folder with what was made. Older ones are removed. Raises
    CannotCompile, CompileError, OSError."""
    home = root / HOME
    if (ready := home / key(root)).is_dir():
        return ready
    lack = missing()
    if lack:
        raise CannotCompile(lack)
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="building-", dir=home) as name:
        staging = Path(name)
        sources, made = staging / "sources", staging / "made"
        # A copy: nobody can edit it while it is compiled, and the project's own build settings are not in it.
        for package in PACKAGES:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(root / package, sources / package, ignore=ignored)
        folder = home / key(sources)
        for module in MODULES:
            spell_out(sources / source(module))
        command = [sys.executable, "-m", "sim.native.recipe", str(made), *MODULES]
        env = {**os.environ, "PYTHONPATH": str(sources)}
        done = subprocess.run(command, cwd=sources, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stdout + done.stderr).splitlines()[-LINES:]
            raise CompileError("\n".join(["the sources cannot be compiled:", *said]))
        if not folder.is_dir():
            made.rename(folder)
    for old in home.iterdir():
        # A build under way is somebody else's.
        if old != folder and not old.name.startswith("building-"):
            shutil.rmtree(old, ignore_errors=True)
    return folder
