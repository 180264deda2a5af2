from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.check.formats.edn import EdnError, Exact, Keyword, Set, Symbol, read_all

TEXTS = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=8)
NAMES = st.from_regex(r"[a-z][a-z0-9.*!?-]{0,8}", fullmatch=True)
SCALARS = st.none() | st.booleans() | st.integers() | TEXTS | NAMES.map(Keyword)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4).map(tuple), max_leaves=12)


def write(value: Any) -> str:
    """EDN of a value, the plain way."""
    if value is None:
        return "nil"
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is Keyword:
        return f":{value!s}"
    if type(value) is str:
        body = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{body}"'
    if type(value) is tuple:
        return f"[{' '.join(map(write, value))}]"
    if type(value) is dict:
        return "{" + ", ".join(f"{write(key)} {write(each)}" for key, each in value.items()) + "}"
    return str(value)


def one(text: str) -> Any:
    (found,) = read_all(text)
    return found[1]


@settings(max_examples=150, derandomize=True)
@given(VALUES | st.dictionaries(NAMES.map(Keyword), VALUES, max_size=4))
def test_what_is_written_is_read_back(value: Any) -> None:
    found = one(write(value))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(1 2, 3)", (1, 2, 3)),
        ("#{:a}", (Keyword("a"),)),
        ("1.5e3", 1500.0),
        ("12N", 12),
        ("1.5M", 1.5),
        ("-7", -7),
        ("##Inf", float("inf")),
        (r"\a", "a"),
        (r"\newline", "\n"),
        (r'"\u00e4\n"', "ä\n"),
        ("#_ (a b) 3", 3),
        ("[1 #_2]", (1,)),
        ("^:meta [1]", (1,)),
        ('#inst "2020-01-01"', "2020-01-01"),
        ("; words\n4 ; more", 4),
        ("; words\r4", 4),
    ],
)
def test_the_rest_of_the_notation_is_read(text: str, value: Any) -> None:
    assert one(text) == value


def test_a_record_is_read_as_its_map() -> None:
    assert one('#jepsen.history.Op{:index 0, :type :invoke, :value "x"}') == {
        Keyword("index"): 0,
        Keyword("type"): Keyword("invoke"),
        Keyword("value"): "x",
    }


def test_a_keyword_is_no_string() -> None:
    assert Keyword("a") != "a"
    assert Keyword("a") == Keyword("a")
    assert len({Keyword("a"), "a"}) == 2


def test_a_symbol_is_itself_and_no_keyword() -> None:
    assert one("a") == one("a") == Symbol("a")
    assert one("1/2") == one("1/2")
    assert one("a") != one(":a")


def test_a_set_has_no_order() -> None:
    assert one("#{1 :a #{2 3}}") == one("#{#{3 2} :a 1}")
    assert type(one("#{1}")) is Set
    assert repr(one("#{2 1}")) == "#{1 2}"


def test_a_number_that_no_float_can_hold_keeps_its_digits() -> None:
    assert one("1.00000000000000000001M") != one("1.0M")
    assert one("1e999") != one("1e998")
    assert one("-1e-999") != one("1e-999")
    assert [type(one(text)) for text in ("1.5", "0.0", "0e9", "1.5M", "1e999")] == [
        float,
        float,
        float,
        Exact,
        Exact,
    ]
    assert repr(one("1.50M")) == "1.50M"


def test_values_tell_the_line_on_which_they_begin() -> None:
    assert [line for line, _ in read_all('1\n[2\n3]\n"a\nb" 4')] == [1, 2, 4, 5]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("1\n[2 3", 2, "never closed"),
        ("[1\n)", 1, "is closed by ')'"),
        ("1\n]", 2, "closes nothing"),
        ("{:a}", 1, "key without a value"),
        ('\n"abc', 2, "no closing quote"),
        ("12x", 1, "no number"),
        (r'"\q"', 1, "unknown escape"),
        ("#_", 1, "nothing stands behind"),
        ("[" * 200, 1, "nested deeper"),
        ("#a " * 200, 1, "nested deeper"),
        ("\n" + "#_ " * 200, 2, "nested deeper"),
        ("\n" + "7" * 5_000, 2, "more than 4,300 digits"),
        ("1e9999999999999999999", 1, "exponent"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(EdnError, match=words.replace("(", r"\(").replace(")", r"\)")) as caught:
        list(read_all(text))
    assert caught.value.line == line
