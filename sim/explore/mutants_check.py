"""Mutants of the harness itself: does a harness that has lost an ability notice?

What is changed is the world, its faults, its oracles, its judge; what must go red are the harness's own checks:

`bite`    On the unmutated core, the fault that `label` names (none: any fault; `run: ...`: what the run came to) must have
          bitten in a seed, and with the mutant it never does: such a campaign is void. An outcome alone would stay green.
`caught`  The witness, a mutant of the core that the sound harness catches, is not caught any more: the mutation table goes red.
`by`      The same for one oracle alone, `label`: it must have been the first to object to the witness, and never objects any
          more. Other oracles may still catch the witness; an oracle that objects to nothing shows in the table.

Both harnesses run the same seeds. A seed counts as a detection if the sound harness had something to show there and the mutant
nothing; the mutant is caught only if that holds for every seed that has something to show, of which there must be at least
`ENOUGH`.
"""

from __future__ import annotations

from typing import Any, Final

from sim.explore.mutants import Mutant, focus_of, pick
from sim.explore.mutants_run import Finding, Terms, seeds, times
from sim.explore.mutants_worker import counts

ENOUGH: Final = 3
"""Seeds that must have something to show."""
MOST: Final = 60
"""Seeds that are tried for that."""


def shows(mutant: Mutant, witness: Mutant | None, row: dict[str, Any]) -> bool:
    """Whether a seed has something to show: a bite, a detection, an objection of the oracle."""
    if mutant.check == "bite":
        return any(
            count and mutant.label in name and name.startswith("run: ") == mutant.label.startswith("run: ")
            for name, count in row["details"].items()
        )
    assert witness is not None
    if not counts(row, witness.purpose):
        return False
    return mutant.check == "caught" or bool(row["oracle"].startswith(mutant.label))


def run_harness_mutant(mutant: Mutant, terms: Terms) -> Finding:
    """Run the sound harness and the mutant on the same seeds, and compare."""
    finding = Finding(mutant)
    witness = pick([mutant.witness])[0] if mutant.witness else None
    names = [witness.name] if witness else []
    focus = witness.focus if witness else mutant.focus
    most = min(MOST, terms.seeds) * times(focus_of(mutant.protocol, focus))
    sound: list[bool] = []
    for row in seeds(mutant.protocol, names, focus, terms.first, most, budget=terms.budget / 2):
        sound.append(shows(mutant, witness, row))
        if sum(sound) >= ENOUGH and len(sound) >= 10:
            break
    blind = [
        shows(mutant, witness, row)
        for row in seeds(mutant.protocol, [mutant.name, *names], focus, terms.first, len(sound))
    ]
    finding.seeds = len(blind)
    lost = [place for place, seen in enumerate(sound) if seen and not blind[place]]
    finding.detections = len(lost)
    if lost:
        finding.first, finding.first_after = terms.first + lost[0], lost[0] + 1
    finding.caught = sum(sound) >= ENOUGH and not any(blind)
    what = {
        "bite": f"{mutant.label or 'some fault'} bites",
        "caught": f"{mutant.witness} is caught",
        "by": f"{mutant.label} objects to {mutant.witness}",
    }[mutant.check]
    finding.words = f"{what}: on {sum(sound)} of {len(sound)} seeds, with the mutant on {sum(blind)}"
    if finding.caught:
        finding.by[
            {"bite": "void: nothing bit", "caught": "mutation table", "by": "mutation table: oracle"}[
                mutant.check
            ]
        ] += len(lost)
    return finding
