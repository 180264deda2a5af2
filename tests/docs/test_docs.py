"""The documents, held against the tree: what they link to is there, what they tell to type exists."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shlex
from functools import cache
from pathlib import Path

import click
import pytest

from sim.check.verdict import Requirements
from sim.scenario import ClusterShape, FaultPlan, Liar, PowerCut, Ranking, Scenario, Workload, Writing
from sim.scenario_bounds import TABLES, TOP

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
PARTS = {
    "[cluster]": ClusterShape,
    "[workload]": Workload,
    "[writes]": Writing,
    "[rank]": Ranking,
    "[[cuts]]": PowerCut,
    "[[liars]]": Liar,
    "[[faults]]": FaultPlan,
    "[require]": Requirements,
}


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The headings' anchors, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(text: str) -> list[list[str]]:
    """Command lines of shell blocks that run something in scripts/, without the interpreter."""
    lines: list[list[str]] = []
    for kind, body in FENCE.findall(text):
        for line in body.replace("\\\n", " ").splitlines():
            # In a transcript the commands are the lines behind a prompt.
            typed = line.removeprefix("$ ") if kind in ("", "console") and line.startswith("$ ") else line
            if kind == "shell" or typed != line:
                words = shlex.split(typed.split(";")[0].split(" | ")[0], comments=True)
                if len(words) > 1 and words[0].endswith("python") and words[1].startswith("scripts/"):
                    lines.append(words[1:])
    return lines


@cache
def command_of(script: str) -> click.Command:
    spec = importlib.util.spec_from_file_location(f"docs_{Path(script).stem}", ROOT / script)
    assert spec is not None, script
    assert spec.loader is not None, script
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    group = module.cli if hasattr(module, "cli") else module.main
    assert isinstance(group, click.Command)
    return group


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(file), (
                f"{page.name} links to {target}; there are {sorted(anchors(file))}"
            )


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_line_names_a_command_and_options_that_exist(page: Path) -> None:
    for script, *arguments in commands(page.read_text(encoding="utf-8")):
        group = command_of(script)
        context = click.Context(group)
        assert arguments, f"{page.name}: {script} alone does nothing"
        if not isinstance(group, click.Group):
            group.make_context(script, arguments).close()
            continue
        command = group.get_command(context, arguments[0])
        assert command is not None, f"{page.name}: {script} {arguments[0]}"
        # The parser refuses what is unknown and checks values; nothing is run.
        command.make_context(arguments[0], arguments[1:], parent=context).close()


def test_the_pages_hold_command_lines_at_all() -> None:
    assert len([line for page in PAGES for line in commands(page.read_text(encoding="utf-8"))]) > 15


def scenario_sections() -> dict[str, str]:
    text = (ROOT / "docs/how-to/write-a-scenario.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, re.M | re.S))


def test_the_scenario_page_lists_exactly_the_keys_that_a_scenario_takes() -> None:
    sections = scenario_sections()
    tables = {name.strip("[]") for name in PARTS}
    top = {field.name for field in dataclasses.fields(Scenario)} - tables
    expected = {"Top level": top} | {
        name: {field.name for field in dataclasses.fields(kind)} for name, kind in PARTS.items()
    }
    assert {
        name: set(re.findall(r"^\| `(\w+)` \|", body, re.M)) for name, body in sections.items()
    } == expected


def test_the_scenario_page_tells_the_defaults_of_numbers_and_switches() -> None:
    sections = scenario_sections()
    for name, kind in {"Top level": Scenario, **PARTS}.items():
        told = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", sections[name], re.M))
        for field in dataclasses.fields(kind):
            if type(field.default) is bool:
                assert told[field.name] == str(field.default).lower(), field.name
            elif type(field.default) in (int, float):
                assert float(told[field.name]) == field.default, field.name


def test_the_scenario_page_tells_the_bounds_of_every_number() -> None:
    sections = scenario_sections()
    assert set(TABLES) == {name.strip("[]") for name in PARTS}
    for name, kind in {"Top level": Scenario, **PARTS}.items():
        bounds = TOP if kind is Scenario else TABLES[name.strip("[]")]
        numbers = {
            field.name for field in dataclasses.fields(kind) if field.type in ("int", "float", "int | None")
        }
        assert set(bounds) == numbers, f"{name}: a number without bounds"
        told = re.findall(r"^\| `(\w+)` \| [^|]* \| (\S+) to (\S+) \|", sections[name], re.M)
        assert {key: (float(low), float(high)) for key, low, high in told} == bounds, name


def test_the_first_commands_of_the_readme_are_targets_of_the_makefile() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    blocks = [body.strip() for kind, body in FENCE.findall(readme) if kind == "shell"]
    assert blocks[0] == "make drill"
    assert "make test" in blocks
    for target in re.findall(
        r"`?make ([a-z-]+)`?\b", "\n".join([*blocks, *re.findall(r"`make [a-z-]+`", readme)])
    ):
        assert re.search(rf"^{target}:", makefile, re.M), target
