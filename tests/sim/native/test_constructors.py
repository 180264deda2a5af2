"""Written-out constructors are those that Python would have made, on the lines that were there; and nothing hot is left out."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import inspect
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from consensus import wire
from sim.native.constructors import spell_out
from sim.native.modules import MODULES, ROOT, source

PLAIN = """
from __future__ import annotations

from dataclasses import dataclass, field

from consensus.wire import register


@dataclass(slots=True)
class Plain:
    \"\"\"Words.\"\"\"

    a: int
    b: dict[str, list[int]]
    c: str = "x; y"
    \"\"\"More words.\"\"\"
    d: list[int] = field(default_factory=list)
    e: int | None = None
    f: tuple[int, ...] = (1, 2)
    g: bytes = field(default=b"g", compare=False)
    h: dict[str, int] = field(default_factory=lambda: {"one": 1})

    def total(self) -> int:
        return self.a + len(self.d)


@dataclass(slots=True, frozen=True)
class Frozen:
    a: int
    b: int = 2


@dataclass(slots=True)
class Checked:
    a: int
    b: int = 2

    def __post_init__(self) -> None:
        if self.a > self.b:
            raise ValueError(f"{self.a} > {self.b}")


@register(
    118,
)
@dataclass(slots=True)
class Sent:
    a: int
    items: list[bytes]


class Holder:
    @dataclass(slots=True, eq=False)
    class Within:
        a: int


    def line(self) -> int:
        raise ValueError


@dataclass
class Last:
    a: int
"""

LEFT_ALONE = [
    "@dataclass\nclass A(Base):\n    a: int\n",
    "@dataclass\nclass A:\n    a: int\n    def __init__(self) -> None: self.a = 1\n",
    "@dataclass(init=False)\nclass A:\n    a: int\n",
    "@dataclass(kw_only=True)\nclass A:\n    a: int\n",
    "@dataclass\nclass A:\n    a: int = field(init=False)\n",
    "@dataclass\nclass A:\n    a: int = field(kw_only=True)\n",
    "@dataclass\nclass A:\n    a: ClassVar[int] = 1\n",
    "@dataclass\nclass A:\n    a: InitVar[int]\n",
    "@dataclass\nclass A:\n    a: list[int] | None = field(default_factory=list)\n",
    "@dataclass\nclass A:\n    a: Optional[list[int]] = field(default_factory=list)\n",
    "@dataclass\nclass A:\n    a: 'list[int] | None' = field(default_factory=list)\n",
    "@dataclass\nclass A:\n    a: Numbers = field(default_factory=list)\n",
    "@dataclass\nclass A:\n    _: KW_ONLY\n    a: int = field(kw_only=True)\n",
    "@dataclass\nclass A:\n    a: int = read()\n",
    "@dataclass\nclass A:\n    a: int\nB = 1\n",
    "@dataclass\nclass A:\n    a: int\n\nB = 1\n",
    "@total_ordering\n@dataclass\nclass A:\n    a: int\n",
    "@register(118, {}, True)\n@dataclass\nclass A:\n    a: int\n",
    "@dataclass\nclass A:\n    pass\n",
    "class A:\n    a: int\n",
]


@pytest.fixture(autouse=True)
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in ("_by_kind", "_kind_of", "_fields_of"):
        monkeypatch.setattr(wire, table, dict(getattr(wire, table)))


def load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    """A module as it is written, and with its constructors written out."""
    made, written = tmp_path / "made.py", tmp_path / "written.py"
    for path in (made, written):
        path.write_text(PLAIN, encoding="utf-8")
    assert sorted(spell_out(written)) == ["Checked", "Frozen", "Last", "Plain", "Sent", "Within"]
    one = load(made, "constructors_made")
    for table in ("_by_kind", "_kind_of", "_fields_of"):
        monkeypatch.setattr(wire, table, {k: v for k, v in getattr(wire, table).items() if k != 118})
    yield one, load(written, "constructors_written")
    del sys.modules["constructors_made"], sys.modules["constructors_written"]


def test_parameters_and_defaults_are_those_that_python_gives(both: tuple[ModuleType, ModuleType]) -> None:
    made, written = both
    for name in ("Plain", "Frozen", "Checked", "Sent", "Last"):
        one, other = (list(inspect.signature(getattr(module, name)).parameters.values()) for module in both)
        assert [(item.name, item.kind) for item in one] == [(item.name, item.kind) for item in other]
        for field, item in zip(dataclasses.fields(getattr(made, name)), other, strict=True):
            if field.default_factory is dataclasses.MISSING:
                assert item.default == (
                    field.default if field.default is not dataclasses.MISSING else inspect.Parameter.empty
                )
    for arguments in ((1, {"a": [1]}), (1, {}, "c", [5], 7, (), b"", {})):
        assert repr(written.Plain(*arguments)) == repr(made.Plain(*arguments))
    first, second = written.Plain(1, {}), written.Plain(1, {})
    assert first == second
    assert first.d is not second.d
    assert first.h == {"one": 1}
    first.d.append(3)
    assert (first.total(), second.total()) == (2, 1)


def test_what_follows_the_constructor_is_called_and_may_refuse(both: tuple[ModuleType, ModuleType]) -> None:
    for module in both:
        with pytest.raises(ValueError, match="3 > 2"):
            module.Checked(3)


def test_copies_are_equal_and_of_the_same_class(both: tuple[ModuleType, ModuleType]) -> None:
    for module in both:
        for thing in (module.Plain(1, {"a": [2]}, g=b"other"), module.Last(4), module.Sent(1, [b"x"])):
            for again in (copy.copy(thing), copy.deepcopy(thing), pickle.loads(pickle.dumps(thing))):
                assert type(again) is type(thing)
                assert again == thing
        assert pickle.loads(pickle.dumps(module.Plain(1, {}, g=b"other"))).g == b"other"


def test_a_message_is_registered_with_the_types_of_its_fields(both: tuple[ModuleType, ModuleType]) -> None:
    _, written = both
    assert wire.decode(wire.encode(written.Sent(1, [b"x"]))) == written.Sent(1, [b"x"])
    with pytest.raises(wire.WireError, match=r"Sent\.items: bad value"):
        wire.decode(wire.encode(written.Sent(1, ["text"])))


def test_every_line_keeps_its_number(both: tuple[ModuleType, ModuleType]) -> None:
    made, written = both
    for function in ("Plain.total", "Checked.__post_init__", "Holder.line"):
        kind, _, name = function.partition(".")
        one, other = (getattr(getattr(module, kind), name).__code__.co_firstlineno for module in both)
        assert one == other
    assert made.Plain.total.__code__.co_firstlineno > 20
    assert written.Sent.__name__ == "Sent"


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_what_is_not_told_by_the_fields_alone_is_left_as_it_is(text: str, tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(text, encoding="utf-8")
    assert spell_out(path) == []
    assert path.read_text(encoding="utf-8") == text


def test_every_dataclass_that_is_compiled_has_its_constructor_written_out_but_few(tmp_path: Path) -> None:
    left: list[str] = []
    for module in MODULES:
        path = tmp_path / source(module)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / source(module), path)
        wanted = path.read_text(encoding="utf-8").count("@dataclass")
        done = spell_out(path)
        left += [module] * (wanted - len(done))
        compile(path.read_text(encoding="utf-8"), str(path), "exec")
    # A committee's counts follow from its other fields; a request for a directory's sync has no field.
    assert left == ["consensus.bft.committee", "node.disk"]
