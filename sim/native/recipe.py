"""The compiler's own process: `python -m sim.native.recipe FOLDER MODULE...` in a folder with a copy of the sources."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sim.native.modules import source

SETTINGS = "[mypy]\nstrict = True\nfollow_untyped_imports = False\nignore_missing_imports = True\n"


def main() -> None:
    """Compile modules into a folder that is laid out like the packages."""
    from mypyc.build import mypycify
    from setuptools import Distribution

    made, *modules = sys.argv[1:]
    settings = Path("native.ini")
    settings.write_text(SETTINGS, encoding="utf-8")
    extensions = mypycify(
        ["--config-file", str(settings), "--cache-dir", "checked", *map(source, modules)],
        opt_level="2",
        debug_level="0",
        multi_file=True,
        target_dir="c",
    )
    distribution = Distribution({"name": "native", "ext_modules": extensions})
    command = distribution.get_command_obj("build_ext")
    command.build_lib = made
    command.build_temp = "objects"
    command.parallel = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    command.ensure_finalized()
    command.run()


if __name__ == "__main__":
    main()
