"""The bytes of one journal segment: encode, decode, and tell a torn tail from damage to what was once promised.

A segment is a header and then batches, each in one piece behind the other, then zeros (space reserved ahead) or the end
of the file. docs/reference/journal-format.md has the layout byte by byte. Everything here is pure: bytes in, bytes out.

CRC-32 (`zlib.crc32`) guards against torn and rotten sectors, not against forgers: it finds every burst of up to 32 bits, costs
0.4 us a KiB, and nobody writes these files but their owner. What must withstand a forger (a snapshot piece from
a peer, the chain over the log) is covered by SHA-256 elsewhere.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

from consensus.core import Record
from consensus.marks import sometimes

VERSION: Final = 1
"""Version of the segment format. Every version keeps the first 12 bytes of the header and its trailing CRC as they are, so
that a newer format is told from a rotten byte."""

MAGIC: Final = b"RTjournl"
BATCH_MAGIC: Final = b"\xb5RTb"

_PREFIX: Final = struct.Struct("<8sHH")
_HEADER: Final = struct.Struct("<8sHHQQQIHH")
_CRC: Final = struct.Struct("<I")
_FIELDS: Final = struct.Struct("<4sIIQQ")
_BATCH: Final = struct.Struct("<4sIIQQII")
_RECORD: Final = struct.Struct("<BI")
BATCH_HEADER_SIZE: Final = _BATCH.size
MAX_PAYLOAD: Final = (1 << 32) - 1
MAX_KIND: Final = 255
_ZEROS: Final = (bytes(8 << 10), bytes(512))


@dataclass(slots=True, frozen=True)
class Identity:
    """Whose journal it is. Both names go into every segment, so that folders that were mixed up are noticed."""

    cluster: str
    node: str

    def __post_init__(self) -> None:
        for what, text in (("cluster", self.cluster), ("node", self.node)):
            if not 0 < len(text.encode()) <= 255:
                raise ValueError(f"a {what} name has 1 to 255 bytes; {text!r:.80} has {len(text.encode())}")

    def seed(self, number: int) -> int:
        """Start value of the header CRC of every batch in segment `number`: a batch of another segment or another
        node that a file system might show in our file does not pass for one of ours."""
        return crc32(b"\0".join((self.cluster.encode(), self.node.encode(), b"%d" % number)))


@dataclass(slots=True, frozen=True)
class Header:
    """Start of a segment. Everything in segment `number - 1` below `previous_end` was durable before this file existed."""

    identity: Identity
    number: int
    incarnation: int
    previous_end: int
    previous_chain: int

    def encode(self) -> bytes:
        """The header's bytes, CRC included; that CRC is also where the chain of the batches starts."""
        cluster, node = self.identity.cluster.encode(), self.identity.node.encode()
        size = _HEADER.size + len(cluster) + len(node) + _CRC.size
        fixed = _HEADER.pack(
            MAGIC,
            VERSION,
            size,
            self.number,
            self.incarnation,
            self.previous_end,
            self.previous_chain,
            len(cluster),
            len(node),
        )
        body = fixed + cluster + node
        return body + _CRC.pack(crc32(body))


class SegmentVersionError(Exception):
    """An intact segment of a format that this program does not know."""


def decode_header(data: bytes) -> tuple[Header, int] | None:
    """(header, its size) or None if the bytes are no intact header. Raises SegmentVersionError for an intact header of another
    format version."""
    if len(data) < _PREFIX.size:
        return None
    magic, version, size = _PREFIX.unpack_from(data)
    if magic != MAGIC or not _PREFIX.size + _CRC.size <= size <= len(data):
        return None
    if crc32(data[: size - _CRC.size]) != _CRC.unpack_from(data, size - _CRC.size)[0]:
        return None
    if version != VERSION:
        raise SegmentVersionError(f"format version {version}; this program reads version {VERSION}")
    _, _, _, number, incarnation, previous_end, previous_chain, cluster, node = _HEADER.unpack_from(data)
    start = _HEADER.size
    if start + cluster + node + _CRC.size != size:
        return None
    try:
        identity = Identity(
            data[start : start + cluster].decode(), data[start + cluster : start + cluster + node].decode()
        )
    except ValueError:
        return None
    return Header(identity, number, incarnation, previous_end, previous_chain), size


def encode_batch(
    records: Sequence[Record], incarnation: int, synced_upto: int, chain: int, seed: int
) -> tuple[bytes, int]:
    """(bytes of the batch, its chain value). Raises ValueError for a kind outside 0..255 or a payload of 4 GiB."""
    try:
        pieces = [_RECORD.pack(kind, len(data)) for kind, data in records]
    except struct.error:
        bad = next(kind for kind, data in records if not 0 <= kind <= MAX_KIND or len(data) > MAX_PAYLOAD)
        raise ValueError(
            f"a record of kind {bad} does not fit: kinds are 0 to {MAX_KIND}, data below 4 GiB"
        ) from None
    pieces += [data for _, data in records]
    payload = b"".join(pieces)
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a batch of {len(payload)} bytes does not fit; its limit is {MAX_PAYLOAD}")
    fields = _FIELDS.pack(BATCH_MAGIC, len(payload), len(records), incarnation, synced_upto)
    chain = crc32(payload, crc32(fields, chain))
    head = fields + _CRC.pack(chain)
    return b"".join((head, _CRC.pack(crc32(head, seed)), payload)), chain


@dataclass(slots=True)
class Batch:
    """An intact batch at [offset, end) of its segment."""

    offset: int
    end: int
    incarnation: int
    synced_upto: int
    """Everything below this offset was known durable when the batch was made."""
    chain: int
    records: list[Record]


@dataclass(slots=True)
class Segment:
    """What a segment's bytes say."""

    name: str
    header: Header | None = None
    header_size: int = 0
    batches: list[Batch] = field(default_factory=list)
    end: int = 0
    """Where the intact part ends, in bytes."""
    damage: str = ""
    """What is wrong at `end`; empty if the segment ends cleanly there."""
    proof: str = ""
    """Why what is missing at `end` had once been durable; empty if nothing says so."""
    torn_bytes: int = 0
    """Bytes behind `end` up to the last that is not zero."""

    @property
    def chain(self) -> int:
        """Chain value at `end`; what the next batch is chained from."""
        return self.batches[-1].chain if self.batches else 0


def _decode_records(data: bytes, start: int, end: int, count: int) -> list[Record] | None:
    position = start + count * _RECORD.size
    if position > end:
        return None
    records: list[Record] = []
    for kind, size in _RECORD.iter_unpack(data[start:position]):
        stop = position + size
        records.append((kind, data[position:stop]))
        position = stop
    return records if position == end else None


def _fields_at(data: bytes, offset: int, seed: int) -> tuple[int, int, int, int, int] | None:
    """(payload length, count, incarnation, synced_upto, chain) of a batch header at `offset` that checks, else None."""
    if len(data) < offset + BATCH_HEADER_SIZE:
        return None
    magic, length, count, incarnation, synced_upto, chain, check = _BATCH.unpack_from(data, offset)
    if magic != BATCH_MAGIC or crc32(data[offset : offset + BATCH_HEADER_SIZE - 4], seed) != check:
        return None
    if synced_upto > offset:  # no batch can know of bytes behind itself
        return None
    return length, count, incarnation, synced_upto, chain


def _find_proof(data: bytes, start: int, damage: int, incarnation: int, seed: int) -> str:
    """Words about a batch header at or behind `start` that says the bytes at `damage` were durable; empty if there is none."""
    offset = data.find(BATCH_MAGIC, start)
    while offset >= 0:
        fields = _fields_at(data, offset, seed)
        if fields is not None and fields[2] >= incarnation and fields[3] > damage:
            sometimes("a batch behind damage says that the damaged part had been synced")
            return f"the batch at offset {offset} says that everything below {fields[3]} had been synced"
        offset = data.find(BATCH_MAGIC, offset + 1)
    return ""


def _used(data: bytes) -> int:
    """Bytes up to the last that is not zero."""
    end = len(data)
    # `rstrip` looks at every byte by itself, and most of a young segment is space that it has set aside.
    for zeros in _ZEROS:
        while end > 0 and data.endswith(zeros, 0, end):
            end -= len(zeros)
    return len(data[:end].rstrip(b"\0"))


def parse_segment(name: str, number: int, data: bytes, identity: Identity | None) -> Segment:
    """Read a segment's bytes. `identity` is what to believe of the owner where the header is damaged; None if not known.
    Raises SegmentVersionError."""
    segment = Segment(name)
    found = decode_header(data)
    if found is None:
        segment.damage = "the segment header is damaged or was never written completely"
        segment.torn_bytes = _used(data)
        if identity is not None:
            segment.proof = _find_proof(data, 0, 0, 0, identity.seed(number))
        return segment
    header, size = found
    segment.header, segment.header_size, segment.end = header, size, size
    if header.number != number:
        segment.damage = segment.proof = f"the header says that this is segment {header.number}, not {number}"
        return segment
    _walk(segment, data, header.identity.seed(number), _CRC.unpack_from(data, size - _CRC.size)[0])
    return segment


def _walk(segment: Segment, data: bytes, seed: int, chain: int) -> None:
    assert segment.header is not None
    offset, incarnation = segment.end, segment.header.incarnation
    view = memoryview(data)
    size = len(data)
    scan_from = offset
    while True:
        fields = _fields_at(data, offset, seed)
        if fields is None:
            segment.damage = "no intact batch header"
            scan_from = offset
            break
        length, count, batch_incarnation, synced_upto, batch_chain = fields
        start, end = offset + BATCH_HEADER_SIZE, offset + BATCH_HEADER_SIZE + length
        if batch_incarnation < incarnation:
            # An older life's batch shows where a newer one must begin: what lies behind may overlap it.
            segment.damage = f"a batch of incarnation {batch_incarnation} behind one of {incarnation}"
            scan_from = offset + 1
            break
        scan_from = end  # an intact header's length holds: record data is not searched for headers
        if end > size:
            sometimes("a batch is cut short by the end of its file")
            segment.damage = f"a batch of {length} bytes of which the file holds {size - start}"
            break
        if crc32(view[start:end], crc32(view[offset : offset + _FIELDS.size], chain)) != batch_chain:
            sometimes("a batch does not match its chained checksum")
            segment.damage = "a batch whose bytes do not match its chained CRC"
            break
        records = _decode_records(data, start, end, count)
        if records is None:
            segment.damage = segment.proof = "a batch with a good CRC whose record lengths make no sense"
            break
        segment.batches.append(Batch(offset, end, batch_incarnation, synced_upto, batch_chain, records))
        offset, chain, incarnation = end, batch_chain, batch_incarnation
    segment.end = offset
    used = _used(data)
    if used <= offset:
        segment.damage = ""  # zeros to the end: reserved space, or nothing at all
        return
    segment.torn_bytes = used - offset
    if not segment.proof:
        segment.proof = _find_proof(data, scan_from, offset, incarnation, seed)
