"""An oracle: in every state that a node ever has, all accounts of `docs.examples.bank` together hold what they held at first."""

from typing import TYPE_CHECKING

from docs.examples.bank import ACCOUNTS, EACH, TOTAL
from sim.oracles.oracle import Oracle

if TYPE_CHECKING:
    from sim.virtual.host import Host


class BankTotal(Oracle):
    name = "bank total"

    def applied(self, host: "Host", index: int, chain: bytes) -> None:
        assert host.replica is not None
        total = int(host.replica.state.query(TOTAL))
        if total != ACCOUNTS * EACH:
            self.violated(
                f"{host.name} has {total} in its accounts at index {index}, not {ACCOUNTS * EACH}", host.name
            )
