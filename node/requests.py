"""Requests that their clients have signed, for a log whose members may lie: what is signed, and what may enter the log.

A batch of such a log says nothing on the word of the node that brings it: each group in it carries the signature of the key that
its session belongs to. The bytes under a signature begin with a domain tag, the cluster and the type of the statement, so
that it says nothing elsewhere; a session's name is never used again, so that it says nothing later (`node.sessions`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, Final

import msgpack

from consensus.core import EntryKind
from consensus.marks import sometimes
from consensus.wire import MAX_INT
from node.machine import fault_in
from node.sessions import MOST_GROUPS, PLACES, SIGNED_COMMANDS, SIGNED_OPEN, WINDOW, decode_block

DOMAIN: Final = b"ridethrough/request/1"
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
BUNDLE_BYTES: Final = 1 << 20
"""Most bytes of commands under one signature: a bundle is never cut, and must fit into a block."""
REMEMBERED: Final = 4096
"""Verified signatures kept, so that what several nodes bring is verified once."""

_OPEN: Final = 1
_SUBMIT: Final = 2
_HEAD: Final = struct.Struct(">BB")

Verify = Callable[[bytes, bytes, bytes], bool]
"""(public key, data, signature) -> whether the signature is that key's under the data; False for bytes that are no key or no
signature."""

Signed = tuple[bytes, bytes, bytes]
"""(public key, statement, signature): the arguments of `Verify`."""


def _statement(cluster: str, what: int, body: bytes) -> bytes:
    name = cluster.encode()
    return b"".join((DOMAIN, _HEAD.pack(what, len(name)), name, body))


def open_statement(cluster: str, key: bytes, nonce: int) -> bytes:
    """What `key` signs to open a session: in this cluster, under this nonce."""
    return _statement(cluster, _OPEN, key + nonce.to_bytes(8, "big"))


def submit_statement(
    cluster: str, session: int, low: int, seqs: Sequence[int], commands: Sequence[bytes]
) -> bytes:
    """What the key of `session` signs under a bundle: the hash of everything in it."""
    packed: bytes = msgpack.packb([session, low, seqs, commands], use_bin_type=True)
    return _statement(cluster, _SUBMIT, sha256(packed).digest())


def signatures(cluster: str, payload: bytes) -> list[Signed]:
    """What there is to verify in a block, for whoever verifies ahead of `RequestCheck`. Groups that are none are left out."""
    try:
        groups = decode_block(payload)
    except ValueError:
        return []
    return [
        _signed(cluster, group)
        for group in groups
        if group[0] in (SIGNED_COMMANDS, SIGNED_OPEN) and not _misshapen(group)
    ]


def _signed(cluster: str, group: Sequence[Any]) -> Signed:
    if group[0] == SIGNED_OPEN:
        return group[1], open_statement(cluster, group[1], group[2]), group[3]
    _, session, low, seqs, commands, key, signature = group
    return key, submit_statement(cluster, session, low, seqs, commands), signature


def _misshapen(group: Sequence[Any]) -> str | None:
    """Whether the fields of a group have the types and sizes of its kind."""
    kind = group[0]
    if type(kind) is not int or kind not in (SIGNED_COMMANDS, SIGNED_OPEN):
        return "a group that no client has signed"
    if kind == SIGNED_OPEN:
        if len(group) != 4:
            return f"an opening of {len(group)} fields, not 4"
        _, key, nonce, signature = group
        numbers: list[Any] = [nonce]
    else:
        if len(group) != 7:
            return f"a bundle of {len(group)} fields, not 7"
        _, session, low, seqs, commands, key, signature = group
        if type(seqs) is not list or type(commands) is not list or len(seqs) != len(commands):
            return "not one number for each command"
        if not all(type(command) is bytes for command in commands):
            return "a command that is not bytes"
        numbers = [session, low, *seqs]
    if not all(type(number) is int and 0 <= number <= MAX_INT for number in numbers):
        return "a number is none, or out of range"
    if type(key) is not bytes or len(key) != KEY_BYTES:
        return f"a key is {KEY_BYTES} bytes long"
    if type(signature) is not bytes or len(signature) != SIGNATURE_BYTES:
        return f"a signature is {SIGNATURE_BYTES} bytes long"
    return None


class RequestCheck:
    """Judges signed requests, alone and in blocks. It looks at the bytes alone, never at the state, and must judge alike at all
    members: nobody votes for a block that holds what this refuses. What is refused here never reaches `apply`."""

    def __init__(
        self,
        cluster: str,
        verify: Verify,
        machine_check: Callable[[bytes], str | None],
        max_command_bytes: int = 65_536,
    ) -> None:
        """`machine_check`: `Machine.check`. It, the limit and `cluster` are the same at all members."""
        self.cluster = cluster
        self._verify = verify
        self._machine_check = machine_check
        self._max_command_bytes = max_command_bytes
        self._verified: dict[Signed, None] = {}  # the oldest first

    def check(self, kind: int, payload: bytes) -> str | None:
        """None if a batch may enter the log, else what is wrong with it. Never raises, whatever the bytes."""
        if kind != EntryKind.BLOCK:
            return f"a batch of kind {kind}; clients only ask for blocks ({EntryKind.BLOCK:d})"
        try:
            groups = decode_block(payload)
        except ValueError as error:
            return str(error)
        if not groups:
            return "a block of nothing"
        if len(groups) > MOST_GROUPS:
            return f"{len(groups)} signed requests in a batch; the limit is {MOST_GROUPS}"
        places = 0
        for number, group in enumerate(groups):
            problem = self.group(group)
            if problem is not None:
                return f"group {number}: {problem}"
            places += len(group[3]) if group[0] == SIGNED_COMMANDS else 1
        if places > PLACES:
            return f"{places} places in a block; the limit is {PLACES}"
        return None

    def group(self, group: Sequence[Any]) -> str | None:
        """The same for one group."""
        problem = _misshapen(group)
        if problem is not None:
            return problem
        signed = _signed(self.cluster, group)
        if signed in self._verified:
            # A statement covers all that is judged below.
            sometimes("a signed request comes again and is not verified twice")
            return None
        if group[0] == SIGNED_COMMANDS:
            problem = self._bad_bundle(group)
            if problem is not None:
                return problem
        if not self._verify(*signed):
            sometimes("a request's signature does not verify")
            return "the signature does not verify: another key, cluster, session or content was signed"
        if len(self._verified) >= REMEMBERED:
            del self._verified[next(iter(self._verified))]
        self._verified[signed] = None
        return None

    def _bad_bundle(self, group: Sequence[Any]) -> str | None:
        _, _, low, seqs, commands, _, _ = group
        if not seqs:
            return "a bundle without commands"
        if len(seqs) > WINDOW:
            return f"{len(seqs)} commands at once; the limit is {WINDOW}"
        if max(seqs) > low + WINDOW or min(seqs) < 1:
            return f"numbers must lie between 1 and {WINDOW} above the settled ones ({low})"
        if sum(map(len, commands)) > BUNDLE_BYTES:
            return f"a bundle of more than {BUNDLE_BYTES} bytes; sign smaller ones"
        limit, check = self._max_command_bytes, self._machine_check
        for seq, command in zip(seqs, commands, strict=True):
            if len(command) > limit:
                return f"command {seq} has {len(command)} bytes; the limit is {limit}"
            problem = fault_in(check, command)
            if problem is not None:
                return f"command {seq}: {problem}"
        return None
