"""Hypothesis strategies over the virtual world, to write properties of one's own. Needs Hypothesis, which the extra `dev` has.

faults, schedules, plans   what to draw; all of them shrink towards fewer, earlier, shorter and simpler faults
run                        one plan's run, with a verdict that says how to replay it
WorldMachine               a state machine whose steps are cuts, partitions, commands, time
"""

from sim.strategies.draws import faults, plans, run, schedules
from sim.strategies.steps import WorldMachine

__all__ = ["WorldMachine", "faults", "plans", "run", "schedules"]
