"""Options that run a conformance suite on a class of your own, as in `pytest tests/contract --disk module:Class`."""

from __future__ import annotations

import pytest
from contract_class import OPTIONS


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("contract", "conformance suites")
    for option, help_text in OPTIONS.items():
        group.addoption(f"--{option}", dest=f"contract_{option}", metavar="MODULE:CLASS", help=help_text)
