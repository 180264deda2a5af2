"""A machine: accounts that pay each other. However often it is asked, money is neither made nor lost."""

from collections.abc import Sequence
from hashlib import sha256
from random import Random

import msgpack

from node.machine import QueryError

ACCOUNTS = 12
EACH = 100  # in every account at first
TOTAL = msgpack.packb("total")  # the query that adds everything up


class Bank:
    """Command: msgpack [from, to, amount]; result: what `from` has left, or why it paid nothing. Query: an account or "total"."""

    def __init__(self) -> None:
        self.accounts = [EACH] * ACCOUNTS

    def _parse(self, command: bytes) -> tuple[int, int, int] | str:
        try:
            source, dest, amount = msgpack.unpackb(command)
        except (ValueError, TypeError, msgpack.UnpackException):
            return "a command is the msgpack array [from, to, amount]"
        if not all(type(value) is int for value in (source, dest, amount)):
            return "from, to and amount are integers"
        if not (0 <= source < ACCOUNTS and 0 <= dest < ACCOUNTS and source != dest):
            return f"from and to are two accounts, 0 to {ACCOUNTS - 1}"
        return (source, dest, amount) if 0 < amount < 1 << 32 else "an amount is above 0 and below 2^32"

    def check(self, command: bytes) -> str | None:
        parsed = self._parse(command)
        return parsed if isinstance(parsed, str) else None

    def apply(self, commands: Sequence[bytes]) -> list[bytes]:
        return [self._pay(command) for command in commands]

    def _pay(self, command: bytes) -> bytes:
        parsed = self._parse(command)
        if isinstance(parsed, str):
            return parsed.encode()
        source, dest, amount = parsed
        if self.accounts[source] < amount:
            return b"not enough money"
        self.accounts[source] -= amount
        self.accounts[dest] += amount
        return b"%d" % self.accounts[source]

    def query(self, query: bytes) -> bytes:
        if query == TOTAL:
            return b"%d" % sum(self.accounts)
        if len(query) != 1 or query[0] >= ACCOUNTS:
            raise QueryError(f'a query is an account, 0 to {ACCOUNTS - 1}, or "total", in msgpack')
        return b"%d" % self.accounts[query[0]]

    def digest(self) -> bytes:
        return sha256(msgpack.packb(self.accounts)).digest()

    def snapshot(self) -> list[bytes]:
        return [msgpack.packb(self.accounts)]

    def restore(self, chunks: Sequence[bytes]) -> None:
        try:
            accounts = msgpack.unpackb(b"".join(chunks))
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise ValueError(f"no snapshot of a bank: {error}") from None
        whole = type(accounts) is list and all(type(held) is int and held >= 0 for held in accounts)
        if not whole or len(accounts) != ACCOUNTS or sum(accounts) != ACCOUNTS * EACH:
            raise ValueError(f"a bank is {ACCOUNTS} accounts that together hold {ACCOUNTS * EACH}")
        self.accounts = accounts

    @staticmethod
    def workload(client: str, rng: Random) -> "Customers":
        return Customers(rng)


class Customers:
    """What a virtual client asks of a bank."""

    def __init__(self, rng: Random) -> None:
        self.rng, self.most = rng, 60

    def command(self, session: int, seq: int) -> bytes:
        packed: bytes = msgpack.packb([*self.rng.sample(range(ACCOUNTS), 2), self.rng.randint(1, self.most)])
        return packed

    def query(self) -> bytes:
        return self.rng.choice((TOTAL, bytes([self.rng.randrange(ACCOUNTS)])))

    def sizes(self, variant: str) -> None:
        """Called by a fault that wants commands `huge` or `empty`, and as usual again: here, how much is paid."""
        self.most = {"huge": 10 * EACH, "empty": 1}.get(variant, 60)
