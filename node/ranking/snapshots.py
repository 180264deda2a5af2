"""Snapshots of the ranking machine: a manifest, then raw little-endian arrays cut into chunks.

Chunk 0 is the manifest, a msgpack map: format, settings, the small state, the list of arrays (name, dtype, shape) in
the order of their bytes, and the state's digest. The other chunks are the bytes of all arrays, one behind the other,
cut every CHUNK bytes. Titles are one array of UTF-8 bytes and one of lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgpack
import numpy as np

from node.ranking import learn
from node.ranking.commands import LIVE
from node.ranking.learn import LIMIT, Int64s
from node.ranking.settings import LARGEST_ID, RankingSettings
from node.ranking.state import State, Version

FORMAT: Final = 1
CHUNK: Final = 1 << 20
"""Bytes of a chunk, at most."""

_TABLES: Final = ("users", "items", "history", "biases")


def write(state: State) -> list[bytes]:
    """The chunks of a snapshot: copies, not affected by later changes of the state."""
    rows, items = state.user_count, state.item_count
    titles = [title.encode() for title in state.titles]
    arrays: list[tuple[str, Any]] = [
        ("user_ids", state.user_ids[:rows]),
        ("ring", state.ring[:rows]),
        ("total", state.total[:rows]),
        ("item_ids", state.item_ids[:items]),
        ("popularity", state.popularity[:items]),
        ("title_sizes", np.array([len(title) for title in titles], np.int64)),
        ("title_bytes", np.frombuffer(b"".join(titles), np.uint8)),
        ("counters", state.counters),
    ]
    versions = [(LIVE, state.live()), *state.versions.items()]
    for place, (_, version) in enumerate(versions):
        arrays += [(f"{place}.{name}", getattr(version, name)) for name in _TABLES]
    manifest = msgpack.packb(
        {
            "format": FORMAT,
            "settings": state.settings.to_table(),
            "frozen": state.frozen,
            "serving": state.serving,
            "versions": [(name, version.learned) for name, version in versions],
            "arrays": [(name, _little(array).dtype.str, list(array.shape)) for name, array in arrays],
            "digest": state.digest(),
        }
    )
    body = b"".join([_little(array).tobytes() for _, array in arrays])
    return [manifest, *(body[start : start + CHUNK] for start in range(0, len(body), CHUNK))]


def read(chunks: Sequence[bytes], settings: RankingSettings) -> State:
    """The state in a snapshot. Raises ValueError saying what is wrong with it."""
    if not chunks:
        raise ValueError("a ranking snapshot has at least a manifest; there are no chunks")
    try:
        manifest = msgpack.unpackb(chunks[0])
    except Exception as error:  # msgpack raises many kinds
        raise ValueError("the manifest of the ranking snapshot is not msgpack") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else manifest
        raise ValueError(f"the ranking snapshot has format {found!r}; this program reads format {FORMAT}")
    try:
        return _read(manifest, b"".join(chunks[1:]), settings)
    except (KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise ValueError(f"the manifest of the ranking snapshot makes no sense ({error!r})") from error


def _read(manifest: dict[str, Any], body: bytes, settings: RankingSettings) -> State:
    for name, value in settings.to_table().items():
        found = manifest["settings"].get(name)
        if found != value:
            raise ValueError(
                f"the ranking snapshot was made with {name} = {found!r}; this machine has {value!r}"
            )
    arrays = _arrays(manifest["arrays"], body)
    user_ids, item_ids = arrays["user_ids"], arrays["item_ids"]
    rows, items = len(user_ids), len(item_ids)
    _expect(arrays, "user_ids", np.int64, (rows,))
    _expect(arrays, "ring", np.int32, (rows, settings.history))
    _expect(arrays, "total", np.int64, (rows,))
    _expect(arrays, "item_ids", np.int64, (items,))
    _expect(arrays, "popularity", np.int64, (items,))
    _expect(arrays, "title_sizes", np.int64, (items,))
    _expect(arrays, "counters", np.int64, (learn.COUNTERS_SIZE,))
    _expect_range("user ids", user_ids, 0, LARGEST_ID)
    _expect_range("item ids", item_ids, 0, LARGEST_ID)
    _expect_range("history lengths", arrays["total"], 0, 1 << 62)
    _expect_range("popularity counts", arrays["popularity"], 0, 1 << 62)
    _expect_range("counters", arrays["counters"], 0, 1 << 62)
    if rows > settings.max_users or items > settings.max_items:
        raise ValueError("the ranking snapshot holds more users or items than the settings allow")
    if arrays["counters"][learn.KNOWN] != items:
        raise ValueError("the ranking snapshot counts its items wrongly")
    # Every place up to the length, and zeros behind it, must be slots: a ring that points elsewhere would be read as memory.
    _expect_range("histories", arrays["ring"], 0, max(items - 1, 0))
    if rows and not items and arrays["total"].any():
        raise ValueError("the ranking snapshot has histories but no items")

    if not manifest["versions"] or manifest["versions"][0][0] != LIVE:
        raise ValueError("the ranking snapshot does not begin with its live tables")

    state = State(settings)
    state.reserve(rows, items)
    state.user_slots = {identity: slot for slot, identity in enumerate(user_ids.tolist())}
    state.item_slots = {identity: slot for slot, identity in enumerate(item_ids.tolist())}
    if len(state.user_slots) != rows or len(state.item_slots) != items:
        raise ValueError("the ranking snapshot names a user or an item twice")
    state.user_ids[:rows] = user_ids
    state.ring[:rows] = arrays["ring"]
    state.total[:rows] = arrays["total"]
    state.item_ids[:items] = item_ids
    state.popularity[:items] = arrays["popularity"]
    state.counters[:] = arrays["counters"]
    state.titles = _titles(arrays)
    for place, (name, learned) in enumerate(manifest["versions"]):
        version = _version(arrays, place, learned, settings)
        if place:
            state.versions[name] = version
            continue
        if len(version.users) != rows or len(version.items) != items:
            raise ValueError("the live tables of the ranking snapshot do not fit its ids")
        state.users[:rows] = version.users
        state.items[:items] = version.items
        state.history[:items] = version.history
        state.biases[:items] = version.biases
    state.frozen = bool(manifest["frozen"])
    state.serving = manifest["serving"]
    if state.serving != LIVE and state.serving not in state.versions:
        raise ValueError(f"the ranking snapshot serves a version {state.serving!r} that it does not hold")
    state.dirty_users[: -(-rows // learn.BLOCK)] = 1
    state.dirty_items[: -(-items // learn.BLOCK)] = 1
    if state.digest() != manifest["digest"]:
        raise ValueError("the content of the ranking snapshot does not match the digest in its manifest")
    return state


def _arrays(listing: list[Any], body: bytes) -> dict[str, Any]:
    arrays = {}
    offset = 0
    for name, kind, shape in listing:
        if kind not in ("<i8", "<i4", "|u1") or any(type(side) is not int or side < 0 for side in shape):
            raise ValueError(f"array {name!r} of the ranking snapshot has type {kind!r} and shape {shape!r}")
        dtype = np.dtype(kind)
        size = dtype.itemsize
        for side in shape:
            size *= side
        if offset + size > len(body):
            raise ValueError(f"the ranking snapshot ends inside array {name!r}")
        native = np.frombuffer(body, dtype, size // dtype.itemsize, offset).astype(dtype.newbyteorder("="))
        arrays[name] = native.reshape(shape)
        offset += size
    if offset != len(body):
        raise ValueError(f"the ranking snapshot has {len(body) - offset} bytes behind its last array")
    return arrays


def _version(arrays: dict[str, Any], place: int, learned: int, settings: RankingSettings) -> Version:
    users, items, history, biases = (arrays[f"{place}.{name}"] for name in _TABLES)
    rows, count = len(users), len(items)
    for name, shape in zip(
        _TABLES,
        ((rows, settings.factors), (count, settings.factors), (count, settings.factors), (count,)),
        strict=True,
    ):
        _expect(arrays, f"{place}.{name}", np.int32, shape)
        _expect_range(f"table {name}", arrays[f"{place}.{name}"], -LIMIT, LIMIT)
    if rows > len(arrays["user_ids"]) or count > len(arrays["item_ids"]) or type(learned) is not int:
        raise ValueError("a version in the ranking snapshot has more rows than there are users or items")
    return Version(users, items, history, biases, learned)


def _titles(arrays: dict[str, Any]) -> list[str]:
    sizes: Int64s = arrays["title_sizes"]
    text: bytes = arrays["title_bytes"].tobytes()
    _expect_range("title sizes", sizes, 0, len(text))
    if int(sizes.sum()) != len(text):
        raise ValueError("the titles of the ranking snapshot do not fill their bytes")
    if b"\0" in text:
        raise ValueError("a title in the ranking snapshot holds a NUL")
    titles = []
    start = 0
    for size in sizes.tolist():
        titles.append(text[start : start + size].decode())
        start += size
    return titles


def _expect(arrays: dict[str, Any], name: str, dtype: Any, shape: tuple[int, ...]) -> None:
    array = arrays[name]
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"array {name!r} of the ranking snapshot is {array.dtype}{array.shape}, not {shape}")


def _expect_range(what: str, array: Any, low: int, high: int) -> None:
    if array.size and (int(array.min()) < low or int(array.max()) > high):
        raise ValueError(f"{what} in the ranking snapshot leave {low} .. {high}")


def _little(array: Any) -> Any:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)
