"""The one encoding: a table of message kinds; a message is the msgpack array [kind, *fields].

Message classes are `dataclass(slots=True)` with fields of plain types. `register` enters a class in the
table and derives a check of its fields from their annotations, so that bytes from a peer or a stranger
either become a message whose fields have the right types and sizes, or raise `WireError` with the
reason. Kinds: 1-19 Raft, 20-39 BFT, 40-59 replica to replica, 60-99 clients; from 100 on protocols from elsewhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

import msgpack

VERSION: Final = 1
"""Version of the wire format; exchanged in the first frame of every connection."""

MAX_FRAME: Final = 8 << 20
"""Longest frame body accepted, in bytes."""

MAX_INT: Final = (1 << 63) - 1

T = TypeVar("T")


class WireError(ValueError):
    """Bytes that are no message of this version; says what was wrong."""


Check = Callable[[Any], bool]
Decoder = Callable[[list[Any]], Any]
"""Makes a message of the array [kind, *fields], which has the right length; None if a field is bad."""

_by_kind: dict[int, tuple[type, Decoder, tuple[Check, ...], tuple[str, ...]]] = {}
_kind_of: dict[type, int] = {}
_fields_of: dict[type, Callable[[Any], list[Any]]] = {}


def _int(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_INT


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: type(value) is kind


def _check_for(hint: Any) -> Callable[[Any], bool]:
    if hint is int:
        return _int
    if hint in (bytes, str, bool):
        return _is(hint)
    if hint is float:
        return lambda value: type(value) is float
    if hint is Any:
        return lambda value: True
    origin, args = get_origin(hint), get_args(hint)
    if origin is list:
        inner = _check_for(args[0])
        return lambda value: type(value) is list and all(map(inner, value))
    if origin is dict:
        return _is(dict)
    if type(None) in args and len(args) == 2:
        inner = _check_for(args[0] if args[1] is type(None) else args[1])
        return lambda value: value is None or inner(value)
    raise TypeError(f"no wire check for a field of type {hint!r}")


_INLINE: Final = {
    int: "type(v[{i}]) is int and 0 <= v[{i}] <= MAX_INT",
    bytes: "type(v[{i}]) is bytes",
    str: "type(v[{i}]) is str",
    bool: "type(v[{i}]) is bool",
}


def _decoder(cls: type, hints: list[Any], checks: tuple[Check, ...]) -> Decoder:
    """One expression for all fields of a class: a loop that calls one check a field takes three times as long. Both must say the
    same of every value (the table of types above is that of `_check_for`)."""
    terms = [
        f"({_INLINE[hint].format(i=i)})" if hint in _INLINE else f"c{i}(v[{i}])"
        for i, hint in enumerate(hints, 1)
    ]
    names: dict[str, Any] = {f"c{i}": check for i, check in enumerate(checks, 1)}
    names |= {"cls": cls, "MAX_INT": MAX_INT}
    values = ", ".join(f"v[{i}]" for i in range(1, len(hints) + 1))
    compiled: Decoder = eval(f"lambda v: cls({values}) if {' and '.join(terms) or 'True'} else None", names)
    return compiled


def register(kind: int, exactly: Mapping[str, Any] | None = None) -> Callable[[type[T]], type[T]]:
    """Class decorator: enter a message class in the table under `kind`.

    Integers on the wire are never negative; say `Any` for a field that is checked by its reader. `exactly`: the types of all
    its fields once more, for a compiled class: of a list it has forgotten what is in it (`sim.native.constructors`)."""

    def enter(cls: type[T]) -> type[T]:
        if kind in _by_kind:
            raise ValueError(f"message kind {kind} is taken by {_by_kind[kind][0].__name__}")
        hints = exactly if exactly is not None else get_type_hints(cls)
        names = tuple(field.name for field in dataclasses.fields(cls))  # type: ignore[arg-type]
        if exactly is not None and exactly.keys() != set(names):
            raise TypeError(f"{cls.__name__} has the fields {', '.join(names)}, not {', '.join(exactly)}")
        checks = tuple(_check_for(hints[name]) for name in names)
        _by_kind[kind] = (cls, _decoder(cls, [hints[name] for name in names], checks), checks, names)
        _kind_of[cls] = kind
        source = ", ".join(f"m.{name}" for name in names)
        _fields_of[cls] = eval(f"lambda m: [{kind}, {source}]")
        return cls

    return enter


def _show(value: Any) -> str:
    """A value for an error message. Never the `repr` of what a stranger built: that may be deep or long."""
    if type(value) in (str, bytes):
        return f"{value[:40]!r}"
    if type(value) in (int, float, bool, type(None)):
        return repr(value)
    return f"a {type(value).__name__}"


_packer = msgpack.Packer(use_bin_type=True, autoreset=True)


def encode(message: Any) -> bytes:
    """Encode a registered message. Raises KeyError for a class that is not in the table."""
    packed: bytes = _packer.pack(_fields_of[type(message)](message))
    return packed


def kind_of(message: Any) -> int:
    """The kind under which a message's class is registered."""
    return _kind_of[type(message)]


def decode(body: bytes) -> Any:
    """Decode one message. Raises WireError."""
    try:
        value = msgpack.unpackb(body, raw=False, strict_map_key=True, use_list=True)
    except Exception as error:
        raise WireError(f"not msgpack: {error or type(error).__name__}") from None
    if type(value) is not list or not value:
        raise WireError("not a message: expected an array [kind, *fields]")
    entry = _by_kind.get(value[0]) if type(value[0]) is int else None
    if entry is None:
        raise WireError(f"unknown message kind {_show(value[0])}")
    cls, decoder, checks, names = entry
    if len(value) != len(checks) + 1:
        raise WireError(f"{cls.__name__} has {len(checks)} fields, got {len(value) - 1}")
    message = decoder(value)
    if message is not None:
        return message
    place = next(place for place, check in enumerate(checks) if not check(value[place + 1]))
    raise WireError(f"{cls.__name__}.{names[place]}: bad value {_show(value[place + 1])}")


def kinds() -> dict[int, str]:
    """The table, for documents and tests: kind -> class name."""
    return {kind: entry[0].__name__ for kind, entry in sorted(_by_kind.items())}
