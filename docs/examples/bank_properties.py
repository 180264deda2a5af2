"""Properties of one's own, by Hypothesis: `pytest docs/examples/bank_properties.py`. What fails is shrunk to a small schedule or
to a few steps before it is shown."""

from dataclasses import replace

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from docs.examples.bank import ACCOUNTS, EACH, TOTAL
from sim.strategies import WorldMachine, plans, run
from sim.virtual.plan import Plan

BANK = Plan(
    0,
    machine="docs.examples.bank:Bank",
    oracles=("docs.examples.bank_total:BankTotal",),
    nodes=3,
    clients=3,
    operations=30,
)
usual = settings(
    max_examples=30,
    stateful_step_count=20,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),  # the one that explains runs the world hundreds of times more
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@usual
@given(plans(BANK, kinds=["outage", "trap", "partition", "wipe"]))
def test_no_money_is_made_or_lost_whatever_the_schedule(plan: Plan) -> None:
    result = run(plan)
    assert result.acknowledged


class Teller(WorldMachine):
    """Steps instead of schedules, with one more: look at one node's books."""

    plan = replace(BANK, operations=0)
    kinds = ("outage", "trap", "partition", "kill")

    @rule(node=st.integers(0, 2))
    def audit(self, node: int) -> None:
        replica = self.node(node).replica
        if replica is not None:
            assert replica.state.query(TOTAL) == b"%d" % (ACCOUNTS * EACH)


TestTeller = Teller.TestCase
TestTeller.settings = usual
