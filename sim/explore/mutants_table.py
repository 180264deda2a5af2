"""The mutation table: as text, as Markdown for the docs, as plain data."""

from __future__ import annotations

from typing import Any

from sim.explore.mutants import CORE, HARNESS, focuses
from sim.explore.mutants_run import Control, Finding, Table


def line(what: Finding | Control) -> str:
    """What came of one mutant, or of the control on one focus, in a line."""
    if isinstance(what, Control):
        state = "green" if not what.red else f"RED: {what.red[0]}"
        return f"control, {what.focus or 'general'}: {what.seeds} seeds, {state}"
    low, high = what.interval
    verdict = "caught" if what.caught else "NOT CAUGHT"
    text = f"{what.mutant.name:34} {verdict:10} {what.detections:4} of {what.seeds:4} seeds"
    if what.mutant.family == HARNESS:
        return f"{text}  {what.words}"
    text += f"  {what.per_1000:6.0f} per 1,000 [{low:.0f}, {high:.0f}]"
    if what.first_after is not None:
        text += f"  first after {what.first_after}"
    return f"{text}  {_by(what)}{_remarks(what)}"


def _by(finding: Finding) -> str:
    return ", ".join(f"{name} ({count})" for name, count in finding.by.most_common())


def _remarks(finding: Finding) -> str:
    words = []
    if finding.crashes:
        words.append(f"{finding.crashes} crashed only")
    if finding.stuck:
        words.append(f"{finding.stuck} stuck")
    words += [f"{count} {name}" for name, count in finding.odd.items()]
    late = "; its time was up" if finding.truncated and finding.mutant.family == CORE else ""
    return late + (f"  (not counted: {', '.join(words)})" if words else "")


def text(table: Table) -> list[str]:
    """For a terminal."""
    lines = [line(finding) for finding in table.findings]
    lines += [f"  replay: {finding.replay}" for finding in table.findings if finding.replay][:3]
    lines += [line(control) for control in table.controls]
    return lines + summary(table)


def summary(table: Table) -> list[str]:
    """The last lines."""
    caught = sum(finding.caught for finding in table.findings)
    seeds = sum(finding.seeds for finding in table.findings)
    red = sum(len(control.red) for control in table.controls)
    lines = [
        f"{caught} of {len(table.findings)} mutants caught on {seeds:,} seeds; control: "
        f"{sum(control.seeds for control in table.controls):,} seeds, {red or 'none'} red; {table.seconds:.0f} s"
    ]
    missed = [finding.mutant.name for finding in table.findings if not finding.caught]
    if missed:
        lines.append(f"NOT CAUGHT: {', '.join(missed)}")
    return lines


def as_json(table: Table) -> dict[str, Any]:
    """As plain data."""
    return {
        "mutants": [finding.as_json() for finding in table.findings],
        "control": [
            {"focus": control.focus, "seeds": control.seeds, "red": control.red} for control in table.controls
        ],
        "oracles": objections(table),
        "seconds": round(table.seconds, 1),
        "all_caught": all(finding.caught for finding in table.findings),
        "green": table.green,
    }


def objections(table: Table) -> dict[str, int]:
    """Oracle or checker -> how many mutants of the core it was the first to object to, at least once."""
    found: dict[str, int] = {}
    for finding in table.findings:
        if finding.mutant.family == CORE:
            for name in finding.by:
                found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def markdown(table: Table) -> list[str]:
    """For docs/reference/mutants.md."""
    lines = [
        "| mutant | what is removed | stands for | caught by (first to object) | first seed | per 1,000 seeds [95 %] | focus |",
        "|---|---|---|---|---|---|---|",
    ]
    for finding in table.findings:
        mutant = finding.mutant
        if mutant.family != CORE:
            continue
        low, high = finding.interval
        by = _by(finding) + _remarks(finding) if finding.caught else "**not caught**"
        first = "" if finding.first_after is None else str(finding.first_after)
        rate = f"{finding.per_1000:.0f} [{low:.0f}, {high:.0f}] of {finding.seeds}"
        lines.append(
            f"| `{mutant.name}` | {mutant.removes} | {mutant.bug} | {by} | {first} | {rate} | {mutant.focus or 'general'} |"
        )
    lines += ["", "| mutant of the harness | ability that it loses | what goes red |", "|---|---|---|"]
    for finding in table.findings:
        if finding.mutant.family == HARNESS:
            words = finding.words if finding.caught else f"**not caught**: {finding.words}"
            lines.append(f"| `{finding.mutant.name}` | {finding.mutant.removes} | {words} |")
    lines += ["", "| focus | what it is | control |", "|---|---|---|"]
    known = focuses(table.protocol)
    for control in sorted(table.controls, key=lambda item: item.focus):
        state = f"{control.seeds} seeds, {'green' if not control.red else f'{len(control.red)} red'}"
        title = (
            known[control.focus]["title"] if control.focus else "the general campaign, as `explore` draws it"
        )
        lines.append(f"| {control.focus or 'general'} | {title} | {state} |")
    lines += ["", "| oracle or checker | mutants to which it was the first to object |", "|---|---|"]
    lines += [f"| {name} | {count} |" for name, count in objections(table).items()]
    return [*lines, "", *summary(table)]
