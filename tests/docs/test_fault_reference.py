"""The reference of faults, held against the catalogue: nothing is missing, nothing is made up."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random

import pytest

from sim.faults import shapes
from sim.faults.catalogue import KINDS
from sim.faults.fault import decode
from sim.strategies.draws import terrain

PAGE = (Path(__file__).parents[2] / "docs/reference/faults.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| `")
]


def names(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_every_kind_has_a_row_with_its_title_and_whether_it_damages_and_there_is_no_other() -> None:
    rows = [(row[0].strip("`"), row[1], row[3] == "yes") for row in ROWS if len(row) == 4]
    assert rows == [(kind.name, kind.title, kind.damages) for kind in KINDS.values()]


@pytest.mark.parametrize("name", KINDS)
def test_every_parameter_that_is_drawn_stands_in_its_row_and_no_other(name: str) -> None:
    (row,) = [row for row in ROWS if len(row) == 4 and row[0] == f"`{name}`"]
    keys = {key for seed in range(300) for key in KINDS[name].draw(Random(seed), terrain())}
    said = set(names(row[2])) - {"power", "kill"}
    assert said == keys, f"docs/reference/faults.md, row of {name!r}"


def test_every_variant_is_listed() -> None:
    block = PAGE.split("Variants,")[1].split("## ")[0]
    listed = {}
    for item in re.findall(r"^- (.*?)(?=^- |\Z)", block, re.M | re.S):
        first, *rest = names(item)
        listed[first] = tuple(rest)
    wanted = {name: kind.variants for name, kind in KINDS.items() if kind.variants and name != "partition"}
    assert listed == wanted
    assert KINDS["partition"].variants == tuple(shapes.names())


def test_every_shape_has_a_row_with_its_title_and_whether_a_majority_stays() -> None:
    rows = [(row[0].strip("`"), row[1], row[2] == "yes") for row in ROWS if len(row) == 3]
    titles = shapes.titles()
    assert rows == [(name, titles[name], shapes.parse(name)[0].quorum) for name in shapes.names()]


def test_the_example_is_a_fault() -> None:
    (block,) = re.findall(r"```json\n(.*?)```", PAGE, re.S)
    (fault,) = decode([json.loads(block)])
    shapes.parse(fault.params["shape"])
