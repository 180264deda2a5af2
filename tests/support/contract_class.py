"""Which class a conformance suite is run on: the built-in ones, or the one that the command line names."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

OPTIONS = {
    "disk": "a class that meets node.disk.Disk; see tests/contract/test_disk_contract.py for how it is made",
    "machine": "a class that meets node.machine.Machine, made without arguments",
    "protocol": "a class that meets consensus.core.Core",
}


def chosen(config: pytest.Config, option: str) -> Any | None:
    """What `--option module:Class` names; None if it was not given. Raises pytest.UsageError."""
    # Not `getoption`: in a run that begins above tests/contract the options are not there.
    spec = getattr(config.option, f"contract_{option}", None)
    return None if spec is None else load(spec, option)


def load(spec: str, option: str) -> Any:
    """The object that `module:Class` names. Raises pytest.UsageError, which says what is wrong with it."""
    module_name, colon, name = spec.partition(":")
    if not colon or not module_name or not name:
        raise pytest.UsageError(
            f"--{option} {spec!r}: expected module:Class, as in sim.virtual.disk:MemoryDisk"
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise pytest.UsageError(f"--{option} {spec!r}: cannot import {module_name}: {error}") from None
    try:
        return getattr(module, name)
    except AttributeError:
        raise pytest.UsageError(f"--{option} {spec!r}: {module_name} has no {name}") from None
