"""Mutants: the project's own source with one safeguard taken out, each a difference that is kept with the tests.

The catalogue `tests/mutants/PROTOCOL/*.toml` has tables `[[mutant]]`: `name`, `removes` (the safeguard, in words), `bug` (the
real one that it stands for, or the rule's source), and either `file`, `old`, `new` or a list `edit` of such tables. `old`
must stand in the file exactly once. `purpose` says what the safeguard is for: `safety`, or `liveness`, and only then a
stuck run counts as caught. `mark` names the sometimes-mark in its branch. `focus` names a table in `focus.toml` that
narrows what is drawn, for a mutant that needs rare circumstances, or says by which other instrument than the campaign of
`explore` it is run (`instrument`: twins, byzzfuzz). A mutant of the harness (family `harness`, in
`tests/mutants/harness/PROTOCOL`) says in `check` what must go red by it; see `sim.explore.mutants_check`.

This module imports nothing that a mutant may change: see `sim.explore.mutants_import`.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
CATALOGUE: Final = ROOT / "tests" / "mutants"
PROTOCOLS: Final = ("raft", "bft")
SAFETY, LIVENESS = "safety", "liveness"
CORE, HARNESS = "core", "harness"
EXPLORE, TWINS, BYZZFUZZ = "explore", "twins", "byzzfuzz"
INSTRUMENTS: Final = (EXPLORE, TWINS, BYZZFUZZ)
_FOCUS: Final = (
    "title",
    "instrument",
    "shape",
    "nodes",
    "times",
    "kinds",
    "without",
    "faults",
    "plan",
    "settings",
    "timing",
    "weather",
    "load",
)
_KEYS: Final = (
    "name",
    "removes",
    "bug",
    "purpose",
    "mark",
    "file",
    "old",
    "new",
    "edit",
    "focus",
    "witness",
    "check",
    "label",
)


class MutantError(ValueError):
    """A mutant that does not exist or cannot be made; the text says which, why, and what to do."""


@dataclass(slots=True, frozen=True)
class Edit:
    """One place in one file (a path from the root of the tree)."""

    file: str
    old: str
    new: str


@dataclass(slots=True, frozen=True)
class Mutant:
    """One safeguard less."""

    name: str
    family: str
    """`core`: a safeguard of the protocol, the journal, the replica; `harness`: an ability of the harness itself."""
    protocol: str
    """Whose campaign it belongs to."""
    removes: str
    bug: str
    edits: tuple[Edit, ...]
    purpose: str = SAFETY
    """What the safeguard is for: `safety`, or `liveness`."""
    mark: str = ""
    """The sometimes-mark that stands in the safeguard's branch, if there is one."""
    focus: str = ""
    """Name of the focus in which it is run; empty for the general campaign."""
    witness: str = ""
    """Of a harness mutant: the core mutant that is no longer caught with it."""
    check: str = ""
    """Of a harness mutant: `bite`, `caught` or `by`."""
    label: str = ""
    """Of a harness mutant: what must bite, or the oracle that must object."""

    @property
    def files(self) -> list[str]:
        """The files that it changes."""
        return list(dict.fromkeys(edit.file for edit in self.edits))


def load(protocol: str = "raft") -> dict[str, Mutant]:
    """The mutants of a protocol's campaign by name, those of the harness last. Raises MutantError."""
    if protocol not in PROTOCOLS:
        raise MutantError(f"no mutants of protocol {protocol!r}; there are some of {', '.join(PROTOCOLS)}")
    found: dict[str, Mutant] = {}
    known = focuses(protocol)
    for folder, family in ((CATALOGUE / protocol, CORE), (CATALOGUE / HARNESS / protocol, HARNESS)):
        for path in sorted(folder.glob("[0-9]*.toml")):
            for mutant in _read(path, family, protocol):
                if mutant.name in found:
                    raise MutantError(f"{path.name}: there are two mutants {mutant.name!r}")
                found[mutant.name] = mutant
    for mutant in found.values():
        if mutant.focus and mutant.focus not in known:
            raise MutantError(
                f"{mutant.name}: there is no focus {mutant.focus!r}; there are {', '.join(known)}"
            )
        if mutant.witness and mutant.witness not in found:
            raise MutantError(f"{mutant.name}: its witness {mutant.witness!r} does not exist")
    return found


def pick(names: Sequence[str], protocol: str = "") -> list[Mutant]:
    """The mutants of these names, of one protocol's campaign or (not given) of any. Raises MutantError."""
    known = {
        name: mutant for one in ([protocol] if protocol else PROTOCOLS) for name, mutant in load(one).items()
    }
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            asked = f"mutants --protocol {protocol} --list" if protocol else "mutants --list"
            hint = f"; did you mean {near[0]!r}?" if near else f"; `partition.py {asked}` names them"
            raise MutantError(f"no mutant {name!r}{hint}")
    return [known[name] for name in names]


def focuses(protocol: str = "raft") -> dict[str, dict[str, Any]]:
    """Name -> how plans are narrowed (`sim.explore.mutants_worker.plan_of`). Raises MutantError."""
    path = CATALOGUE / protocol / "focus.toml"
    try:
        found: dict[str, dict[str, Any]] = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise MutantError(f"{path.name}: {error}") from None
    for name, focus in found.items():
        stray = sorted(set(focus) - set(_FOCUS))
        if stray:
            raise MutantError(f"{path.name}: {name}: unknown key {stray[0]!r}; known: {', '.join(_FOCUS)}")
        if instrument_of(focus) not in INSTRUMENTS:
            raise MutantError(
                f"{path.name}: {name}: no instrument {instrument_of(focus)!r}; there are {', '.join(INSTRUMENTS)}"
            )
    return found


def focus_of(protocol: str, name: str) -> dict[str, Any]:
    """A focus by its name; empty for that of an empty name, the general campaign. Raises MutantError."""
    return focuses(protocol)[name] if name else {}


def instrument_of(focus: dict[str, Any]) -> str:
    """What runs the plans of a focus: `explore`, `twins` or `byzzfuzz`."""
    return str(focus.get("instrument", EXPLORE))


def _read(path: Path, family: str, protocol: str) -> list[Mutant]:
    try:
        rows = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise MutantError(f"{path.name}: {error}") from None
    if set(rows) != {"mutant"}:
        raise MutantError(f"{path.name}: expected tables [[mutant]] and nothing else")
    return [
        _one(row, f"{path.name}: {row.get('name', 'a mutant without a name')}", family, protocol)
        for row in rows["mutant"]
    ]


def _one(row: dict[str, Any], where: str, family: str, protocol: str) -> Mutant:
    unknown = sorted(set(row) - set(_KEYS))
    if unknown:
        raise MutantError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(_KEYS)}")
    missing = [key for key in ("name", "removes", "bug") if not row.get(key)]
    if missing:
        raise MutantError(f"{where}: {missing[0]} is missing")
    places = row.get("edit") or [{key: row.get(key, "") for key in ("file", "old", "new")}]
    edits = tuple(
        Edit(place["file"], place["old"].strip("\n"), place.get("new", "").strip("\n")) for place in places
    )
    if not all(edit.file and edit.old for edit in edits):
        raise MutantError(f"{where}: an edit needs file, old and new")
    kind, focus = row.get("purpose", SAFETY), row.get("focus", "")
    if kind not in (SAFETY, LIVENESS):
        raise MutantError(f"{where}: purpose is safety or liveness, not {kind!r}")
    check = row.get("check", "")
    if family == HARNESS and (
        check not in ("bite", "caught", "by") or (check != "bite" and not row.get("witness"))
    ):
        raise MutantError(
            f"{where}: a mutant of the harness needs check: bite (with label), or caught or by with a witness"
        )
    return Mutant(
        row["name"], family, protocol, row["removes"], row["bug"], edits, kind,
        row.get("mark", ""), focus, row.get("witness", ""), check, row.get("label", ""),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- differences


def mutate(mutants: Sequence[Mutant]) -> dict[str, str]:
    """File -> its text with all of these mutants made. Raises MutantError if one no longer fits."""
    texts: dict[str, str] = {}
    for mutant in mutants:
        for edit in mutant.edits:
            text = texts.get(edit.file)
            if text is None:
                path = ROOT / edit.file
                if not path.is_file():
                    raise MutantError(f"{mutant.name}: there is no file {edit.file}")
                text = path.read_text()
            count = text.count(edit.old)
            if count != 1:
                raise MutantError(
                    f"{mutant.name}: the text that it replaces stands {count} times in {edit.file}, not once; the safeguard was "
                    f"rewritten: bring tests/mutants up to date. It looks for:\n{edit.old}"
                )
            texts[edit.file] = text.replace(edit.old, edit.new)
    return texts


def show(mutant: Mutant) -> str:
    """The difference as a unified diff."""
    parts: list[str] = []
    for file, text in mutate([mutant]).items():
        before = (ROOT / file).read_text().splitlines(keepends=True)
        parts += difflib.unified_diff(before, text.splitlines(keepends=True), f"a/{file}", f"b/{file}")
    return "".join(parts)
