"""When compiled modules are taken and when not: the key, the finder's answers, and the words of a command line."""

from __future__ import annotations

import ast
import shutil
import sys
import time
from pathlib import Path

import pytest

from sim.explore import natively
from sim.explore.mutants_import import Finder
from sim.native import finder as finders
from sim.native.finder import NativeFinder, use
from sim.native.modules import HOME, MODULES, ROOT, WATCHED, key, source
from sim.oracles.committed import CommittedLog
from sim.oracles.standard import STANDARD
from sim.virtual import subjects
from sim.virtual.client import Client


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for folder in WATCHED:
        shutil.copytree(ROOT / folder, tmp_path / folder, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has imported nothing of what is compiled."""
    monkeypatch.setattr(sys, "modules", {name: it for name, it in sys.modules.items() if name not in MODULES})
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))


def test_the_key_is_of_the_sources_and_is_had_in_a_moment(checkout: Path) -> None:
    assert key(checkout) == key(ROOT)
    began = time.perf_counter()
    before = key(checkout)
    assert time.perf_counter() - began < 0.5  # some 3 ms; a bound that a busy machine keeps, too
    for module in (MODULES[0], MODULES[-1], "node.protocol", "sim.native.recipe"):
        path = checkout / source(module)
        path.write_text(path.read_text(encoding="utf-8") + "# edited\n", encoding="utf-8")
        assert key(checkout) != before, module
        before = key(checkout)


def test_the_key_covers_whatever_a_compiled_module_imports_by_itself() -> None:
    outside = []
    for module in MODULES:
        for node in ast.walk(ast.parse((ROOT / source(module)).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                named = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                for name in named:
                    path = ROOT / source(name)
                    if path.is_file() and path.parent.relative_to(ROOT).as_posix() not in WATCHED:
                        outside.append(f"{module} imports {name}")
    assert outside == []
    assert all((ROOT / source(module)).is_file() for module in MODULES)


def test_whatever_builds_on_a_compiled_class_is_compiled_too() -> None:
    interpreted = []
    for protocol in ("raft", "bft"):
        for kind in (*STANDARD, CommittedLog, *subjects.protocol(protocol).oracles):
            if kind.__module__ not in MODULES:
                interpreted.append(f"{kind.__module__}.{kind.__name__}")
    for kind in Client.__subclasses__():
        if kind.__module__.startswith("sim.virtual.bft"):
            assert kind.__module__ in MODULES
    assert interpreted == []  # a compiled class has no interpreted heirs: the world would not even begin


def test_the_last_word_on_a_run_is_never_compiled() -> None:
    assert "sim.virtual.judge" not in MODULES
    assert not [name for name in MODULES if name.startswith("sim.check.general")]
    assert "sim.virtual.interrupts" not in MODULES


@pytest.mark.usefixtures("fresh")
def test_without_a_build_or_with_an_old_one_the_words_say_what_to_do(checkout: Path) -> None:
    assert use(checkout) == "interpreted: there is no native build; `make native` makes one"
    (checkout / HOME / "ffff").mkdir(parents=True)
    words = "interpreted: sources are newer than the native build; `make native` builds it again"
    assert use(checkout) == words
    (checkout / HOME / key(checkout)).mkdir()
    assert "incomplete" in use(checkout)
    assert not any(isinstance(finder, NativeFinder) for finder in sys.meta_path)


@pytest.mark.usefixtures("fresh")
def test_a_mutant_is_never_compiled() -> None:
    sys.meta_path.insert(0, Finder([]))
    assert use() == "interpreted: this process runs changed sources"


def test_too_late_is_said_and_harms_nothing() -> None:
    import sim.virtual.world  # noqa: F401

    assert finders.active() is False
    assert use().startswith("interpreted: consensus.")
    assert use().endswith("was imported before sim.native.use()")
    assert finders.active() is False


@pytest.mark.parametrize(
    "words",
    [
        ["explore", "--seeds", "5"],
        ["explore", "--protocol", "raft", "--machine=kv"],
        ["replay", "7", "--fault", "partition", "--without", "rot"],
        ["shrink", "7", "--on-crash", "go-on"],
    ],
)
def test_stock_subjects_may_be_compiled(words: list[str]) -> None:
    assert natively.reason(words) == ""


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "this command needs no speed"),
        (["list", "marks"], "this command needs no speed"),
        (["mutants"], "this command needs no speed"),
        (["explore", "--interpreted"], "as asked for"),
        (["explore", "--protocol", "mine:Core"], "--protocol brings code along"),
        (["explore", "--machine=mine:Bank"], "--machine brings code along"),
        (["explore", "--protocol"], "--protocol brings code along"),
        (["replay", "7", "--oracle", "mine:Oracle"], "--oracle was given"),
        (["replay", "7", "--plugin=mine"], "--plugin was given"),
        (["shrink", "7", "--plugin-fault", "mine:KIND"], "--plugin-fault was given"),
        (["replay", "7", "--mutant", "votes-twice"], "--mutant was given"),
        (["explore", "--engine", "tcp://127.0.0.1:1"], "--engine was given"),
    ],
)
def test_whatever_brings_code_along_is_interpreted(words: list[str], why: str) -> None:
    assert natively.reason(words) == why


def test_a_saved_plan_that_brings_code_along_is_interpreted(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    for text, brings in (
        ('{"seed": 1}', False),
        ('{"seed": 1, "protocol": "raft", "machine": "kv", "oracles": []}', False),
        ('{"seed": 1, "protocol": "mine:Core"}', True),
        ('{"seed": 1, "machine": "mine:Bank"}', True),
        ('{"seed": 1, "oracles": ["mine:Oracle"]}', True),
        ("[]", True),
        ("{", True),
    ):
        path.write_text(text, encoding="utf-8")
        assert natively.reason(["replay", str(path)]) == (f"{path} brings code along" if brings else ""), text


def test_no_compiled_function_gives_one_name_to_two_kinds_of_exceptions() -> None:
    """The compiler takes the type of the first for that of the name, and raises TypeError where Python would go on."""
    found = []
    for module in MODULES:
        for function in ast.walk(ast.parse((ROOT / source(module)).read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                kinds: dict[str, set[str]] = {}
                for handler in ast.walk(function):
                    if isinstance(handler, ast.ExceptHandler) and handler.name and handler.type is not None:
                        kinds.setdefault(handler.name, set()).add(ast.unparse(handler.type))
                found += [f"{module}.{function.name}: {name}" for name, of in kinds.items() if len(of) > 1]
    assert found == []
