"""Snapshot files: a manifest that names every chunk by its hash, then the chunks.

A snapshot travels in *pieces*: piece 0 is the manifest, piece i is chunk i - 1. `SnapshotMeta.root` is the SHA-256 of the
manifest's bytes, so whoever knows the root can check every piece by itself, from whichever peer it comes. The manifest names the
cluster but no node: replicas that took a snapshot at the same index from the same state made the same bytes.

A file is written aside under a `.partial` name, synced, renamed, and the folder synced; a file under its final name is complete
or damaged, never unfinished. Pure, like `node.journal`; docs/reference/journal-format.md has the layout.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import msgpack

from consensus.core import NodeId, SnapshotMeta
from consensus.marks import sometimes
from node.disk import Append, Create, Disk, Op, Remove, Rename, Sync, SyncDirectory
from node.segment import Identity

VERSION: Final = 1
MAX_CHUNK: Final = 1 << 20
"""Longest chunk, in bytes (`Machine.snapshot` promises it)."""
MAX_MANIFEST: Final = 4 << 20
"""Longest manifest: room for about 100,000 chunks."""

_MAGIC: Final = b"RTsnapsh"
_FILE: Final = struct.Struct("<8sHI32s")
_LENGTH: Final = struct.Struct("<I")
_NAME: Final = re.compile(r"snapshot-(\d{16})\.snap(\.partial)?")


class SnapshotError(Exception):
    """A snapshot that cannot be used. The text says which, where and what is wrong."""


class SnapshotCorrupt(SnapshotError):
    """Bytes that are not what the manifest or its root says."""


class SnapshotForeign(SnapshotError):
    """A snapshot of another cluster."""


class SnapshotVersion(SnapshotError):
    """A format that this program does not know."""


@dataclass(slots=True, frozen=True)
class Manifest:
    """What a snapshot is made of. `sizes[i]` bytes of chunk i have the SHA-256 `hashes[i]`."""

    cluster: str
    index: int
    term: int
    chain: bytes
    members: tuple[NodeId, ...]
    sizes: tuple[int, ...]
    hashes: tuple[bytes, ...]

    def encode(self) -> bytes:
        """Piece 0. Equal manifests give equal bytes."""
        fields = [
            VERSION,
            self.cluster,
            self.index,
            self.term,
            self.chain,
            list(self.members),
            list(self.sizes),
            b"".join(self.hashes),
        ]
        packed: bytes = msgpack.packb(fields, use_bin_type=True)
        return packed

    @property
    def root(self) -> bytes:
        """SHA-256 of the encoded manifest."""
        return sha256(self.encode()).digest()

    @property
    def meta(self) -> SnapshotMeta:
        """What the core knows of the snapshot."""
        return SnapshotMeta(self.index, self.term, self.chain, self.members, self.root, sum(self.sizes))


def make_manifest(
    identity: Identity,
    index: int,
    term: int,
    chain: bytes,
    members: Sequence[NodeId],
    chunks: Sequence[bytes],
) -> Manifest:
    """The manifest of chunks taken from a machine at `index`. Raises ValueError for what no reader would accept."""
    if len(chain) != 32:
        raise ValueError(f"a chain value has 32 bytes, this one {len(chain)}")
    for number, chunk in enumerate(chunks):
        if len(chunk) > MAX_CHUNK:
            raise ValueError(f"chunk {number} has {len(chunk)} bytes; the limit is {MAX_CHUNK}")
    sizes, hashes = tuple(map(len, chunks)), tuple(sha256(chunk).digest() for chunk in chunks)
    manifest = Manifest(identity.cluster, index, term, chain, tuple(members), sizes, hashes)
    if len(manifest.encode()) > MAX_MANIFEST:
        raise ValueError(
            f"{len(chunks)} chunks make a manifest above {MAX_MANIFEST} bytes; use longer chunks"
        )
    return manifest


def decode_manifest(data: bytes) -> Manifest:
    """Read piece 0. Raises SnapshotCorrupt, SnapshotVersion."""
    try:
        fields = msgpack.unpackb(data, raw=False, use_list=True)
    except Exception as error:
        raise SnapshotCorrupt(f"the manifest is no msgpack: {error or type(error).__name__}") from None
    if type(fields) is not list or not fields or type(fields[0]) is not int:
        raise SnapshotCorrupt("the manifest is no array that begins with a version")
    if fields[0] != VERSION:
        raise SnapshotVersion(f"snapshot format version {fields[0]}; this program reads version {VERSION}")
    if len(fields) != 8:
        raise SnapshotCorrupt(f"the manifest has {len(fields)} fields instead of 8")
    _, cluster, index, term, chain, members, sizes, hashes = fields
    good = (
        type(cluster) is str
        and _count(index)
        and _count(term)
        and type(chain) is bytes
        and len(chain) == 32
        and type(members) is list
        and all(type(member) is str for member in members)
        and type(sizes) is list
        and all(_count(size) and size <= MAX_CHUNK for size in sizes)
        and type(hashes) is bytes
        and len(hashes) == 32 * len(sizes)
    )
    if not good:
        raise SnapshotCorrupt("a field of the manifest has the wrong type or size")
    digests = tuple(hashes[place : place + 32] for place in range(0, len(hashes), 32))
    return Manifest(cluster, index, term, chain, tuple(members), tuple(sizes), digests)


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def snapshot_name(index: int) -> str:
    """File name of the snapshot at `index`."""
    return f"snapshot-{index:016d}.snap"


def snapshot_indexes(names: Iterable[str]) -> list[int]:
    """Indexes of the complete snapshot files among `names`, ascending."""
    found = (_NAME.fullmatch(name) for name in names)
    return sorted(int(match[1]) for match in found if match and match[2] is None)


def write_ops(manifest: Manifest, chunks: Sequence[bytes]) -> list[Op]:
    """Operations that write a snapshot file; it is durable when the last is done. An unfinished earlier attempt is replaced.
    Raises ValueError if the chunks are not the manifest's."""
    if tuple(map(len, chunks)) != manifest.sizes:
        raise ValueError("the chunks are not those of the manifest")
    name = snapshot_name(manifest.index)
    partial = name + ".partial"
    piece = manifest.encode()
    head = _FILE.pack(_MAGIC, VERSION, len(piece), sha256(piece).digest())
    ops: list[Op] = [Remove(partial), Create(partial), Append(partial, head + piece)]
    ops += [Append(partial, _LENGTH.pack(len(chunk)) + chunk) for chunk in chunks]
    return [*ops, Sync(partial), Rename(partial, name), SyncDirectory()]


def clean_ops(names: Iterable[str], keep: Collection[int]) -> list[Op]:
    """Operations that remove every snapshot file, finished or `.partial`, whose index is not in `keep`. Empty if there is
    nothing to do. Name in `keep` what is being written or sent as well."""
    stale = [
        name
        for name in sorted(names)
        if (match := _NAME.fullmatch(name)) is not None and int(match[1]) not in keep
    ]
    if not stale:
        return []
    return [*(Remove(name) for name in stale), SyncDirectory()]


class Pieces:
    """A snapshot file opened for sending. Reads one piece at a time and checks it, so that no rot is passed on."""

    __slots__ = ("_disk", "_offsets", "manifest", "meta", "name")

    def __init__(self, disk: Disk, name: str) -> None:
        """Read and check the manifest. Raises SnapshotCorrupt, SnapshotVersion, FileNotFoundError, DiskError."""
        self._disk = disk
        self.name = name
        head = disk.read(name, 0, _FILE.size)
        if len(head) < _FILE.size:
            raise SnapshotCorrupt(f"{name}: {len(head)} bytes are too few for a snapshot")
        magic, version, length, root = _FILE.unpack(head)
        if magic != _MAGIC:
            raise SnapshotCorrupt(f"{name}, offset 0: not a snapshot file (magic {magic!r})")
        if length > MAX_MANIFEST:
            raise SnapshotCorrupt(
                f"{name}, offset 10: a manifest of {length} bytes; the limit is {MAX_MANIFEST}"
            )
        piece = disk.read(name, _FILE.size, length)
        if sha256(piece).digest() != root:
            raise SnapshotCorrupt(f"{name}, offset {_FILE.size}: the manifest does not match its root")
        if version != VERSION:
            raise SnapshotVersion(f"{name}: snapshot format version {version}; this program reads {VERSION}")
        try:
            self.manifest = decode_manifest(piece)
        except SnapshotError as error:
            raise type(error)(f"{name}, offset {_FILE.size}: {error}") from None
        match = _NAME.fullmatch(name)
        if match is not None and int(match[1]) != self.manifest.index:
            raise SnapshotCorrupt(f"{name}: the manifest says index {self.manifest.index}")
        self.meta = self.manifest.meta
        self._offsets: list[int] = []
        offset = _FILE.size + length
        for size in self.manifest.sizes:
            self._offsets.append(offset)
            offset += _LENGTH.size + size
        self._offsets.append(offset)

    def __len__(self) -> int:
        """Number of pieces, the manifest counted."""
        return len(self._offsets)

    @property
    def end(self) -> int:
        """Size that the file must have, in bytes."""
        return self._offsets[-1]

    def __getitem__(self, piece: int) -> bytes:
        """Piece 0 (the manifest) or chunk `piece - 1`. Raises IndexError, SnapshotCorrupt, FileNotFoundError, DiskError."""
        if not 0 <= piece < len(self):
            raise IndexError(f"{self.name} has pieces 0 to {len(self) - 1}, not {piece}")
        if piece == 0:
            return self.manifest.encode()
        offset, size = self._offsets[piece - 1], self.manifest.sizes[piece - 1]
        data = self._disk.read(self.name, offset, _LENGTH.size + size)
        if data[: _LENGTH.size] != _LENGTH.pack(size) or len(data) != _LENGTH.size + size:
            raise SnapshotCorrupt(f"{self.name}, offset {offset}: chunk {piece - 1} is not {size} bytes long")
        chunk = data[_LENGTH.size :]
        if sha256(chunk).digest() != self.manifest.hashes[piece - 1]:
            sometimes("a chunk of a snapshot file has rotted")
            raise SnapshotCorrupt(f"{self.name}, offset {offset}: chunk {piece - 1} does not match its hash")
        return chunk


def pieces(disk: Disk, index: int) -> Pieces:
    """The snapshot at `index`, for sending: `len(pieces)` and `pieces[i]`. Raises FileNotFoundError if there is none (any
    more), SnapshotCorrupt, SnapshotVersion, DiskError."""
    return Pieces(disk, snapshot_name(index))


def read(disk: Disk, name: str) -> tuple[Manifest, list[bytes]]:
    """Read a snapshot file and check every byte. Raises SnapshotCorrupt, SnapshotVersion, FileNotFoundError, DiskError."""
    source = Pieces(disk, name)
    chunks = [source[piece] for piece in range(1, len(source))]
    if disk.read(name, source.end, 1):
        raise SnapshotCorrupt(f"{name}, offset {source.end}: bytes behind the last chunk")
    return source.manifest, chunks


def newest(
    disk: Disk, identity: Identity, notes: list[str] | None = None
) -> tuple[SnapshotMeta, list[bytes]] | None:
    """The newest snapshot that is whole, or None if there is no snapshot file at all.

    A damaged one is passed over for an older one, with a line in `notes`; whether the journal still reaches back to the older
    one is for `Core.recover` to judge. Raises SnapshotCorrupt if none is whole, SnapshotForeign, SnapshotVersion, DiskError."""
    problem: SnapshotCorrupt | None = None
    for index in reversed(snapshot_indexes(disk.names())):
        name = snapshot_name(index)
        try:
            manifest, chunks = read(disk, name)
        except SnapshotCorrupt as error:
            sometimes("recovery: a damaged snapshot is passed over for an older one")
            problem = problem or error
            if notes is not None:
                notes.append(f"{error}; passed over for an older snapshot")
            continue
        if manifest.cluster != identity.cluster:
            raise SnapshotForeign(
                f"{name} belongs to cluster {manifest.cluster!r}, this node to {identity.cluster!r}; "
                "give this node its own data folder"
            )
        return manifest.meta, chunks
    if problem is not None:
        raise SnapshotCorrupt(
            f"no whole snapshot is left: {problem}. Keep the folder for inspection; "
            "bring the machine back as a new member with an empty folder"
        )
    return None


class Assembly:
    """A snapshot on its way in, piece by piece. Kept over reconnects and changes of peer: `wanted` says where to go on."""

    __slots__ = ("_cluster", "_manifest", "chunks", "meta")

    def __init__(self, meta: SnapshotMeta, identity: Identity) -> None:
        self.meta = meta
        self._cluster = identity.cluster
        self._manifest: Manifest | None = None
        self.chunks: list[bytes] = []
        """The chunks that have come, in order, each checked."""

    @property
    def wanted(self) -> int | None:
        """The piece to ask for next; None if nothing is missing."""
        if self._manifest is None:
            return 0
        return None if len(self.chunks) == len(self._manifest.sizes) else len(self.chunks) + 1

    @property
    def total(self) -> int | None:
        """Number of pieces, the manifest counted; None until the manifest has come."""
        return None if self._manifest is None else len(self._manifest.sizes) + 1

    @property
    def manifest(self) -> Manifest:
        """The manifest. Raises ValueError before it has come."""
        if self._manifest is None:
            raise ValueError("the manifest has not come yet")
        return self._manifest

    def offer(self, piece: int, data: bytes) -> bool:
        """Take a piece. False if it is not the wanted one (a repeat, a late answer): nothing changed. Raises SnapshotCorrupt,
        SnapshotForeign or SnapshotVersion if it is not what the root or the manifest says; the piece stays wanted."""
        if piece != self.wanted:
            sometimes("a piece of a snapshot comes that is not the one asked for last")
            return False
        if self._manifest is None:
            self._manifest = self._check_manifest(data)
            return True
        place = piece - 1
        size = self._manifest.sizes[place]
        if len(data) != size:
            raise SnapshotCorrupt(
                f"snapshot {self.meta.index}, piece {piece}: {len(data)} bytes instead of {size}"
            )
        if sha256(data).digest() != self._manifest.hashes[place]:
            raise SnapshotCorrupt(
                f"snapshot {self.meta.index}, piece {piece}: the chunk does not match its hash"
            )
        self.chunks.append(data)
        return True

    def _check_manifest(self, data: bytes) -> Manifest:
        where = f"snapshot {self.meta.index}, piece 0"
        if len(data) > MAX_MANIFEST:
            raise SnapshotCorrupt(f"{where}: a manifest of {len(data)} bytes; the limit is {MAX_MANIFEST}")
        if sha256(data).digest() != self.meta.root:
            raise SnapshotCorrupt(f"{where}: the manifest does not match the root that was announced")
        manifest = decode_manifest(data)
        if manifest.cluster != self._cluster:
            raise SnapshotForeign(
                f"{where}: it belongs to cluster {manifest.cluster!r}, not {self._cluster!r}"
            )
        if manifest.encode() != data or manifest.meta != self.meta:
            raise SnapshotCorrupt(f"{where}: the manifest does not say what was announced ({self.meta})")
        return manifest
