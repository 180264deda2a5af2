"""Ratings files in every MovieLens format, broken rows, the package and its cache."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.workload import movielens
from sim.workload.stream import DataError

ROWS = [(2, 10, 4.0, 50), (1, 20, 3.5, 40), (1, 10, 5.0, 40), (1, 30, 3.0, 45), (2, 20, 0.5, 60)]


def lines(separator: str) -> str:
    return "\n".join(separator.join(str(field) for field in row) for row in ROWS) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        "userId,movieId,rating,timestamp\n" + lines(","),
        "\ufeffuserId,movieId,rating,timestamp\r\n" + lines(",").replace("\n", "\r\n"),
        lines(","),
        lines("::"),
        lines("\t"),
        "timestamp,rating,title,movieId,userId\n"
        + "\n".join(f'{time},{rating},"A, B",{item},{user}' for user, item, rating, time in ROWS),
    ],
)
def test_every_format_gives_the_positives_in_time_order_with_ties_by_user_and_item(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "ratings"
    path.write_text(text, encoding="utf-8", newline="")
    stream = movielens.load(path)
    assert list(zip(stream.timestamps, stream.users, stream.items, strict=True)) == [
        (40, 1, 10),
        (40, 1, 20),
        (50, 2, 10),
    ]
    assert [item for item, _ in stream.catalogue] == [10, 20, 30]
    assert (stream.report.rows, stream.report.broken, stream.report.first_broken) == (5, 0, None)


def test_broken_rows_are_counted_and_the_first_is_named() -> None:
    broken = [
        "1,2,nan,5",
        "1,2",
        "x,2,4,5",
        "1,-2,4,5",
        "1,2,6,5",
        "1,2,4,soon",
        "1,2,inf,5",
        "1,2,4,-5",
        "1.5,2,4,5",
        "1,2,,5",
    ]
    stream = movielens.parse("1,10,4.0,50\n\n" + "\n".join(broken) + "\n2,10,4.5,49\n", "my.csv")
    assert (stream.report.rows, stream.report.broken) == (12, 10)
    assert str(stream.report) == (
        "my.csv: 12 rows, 10 broken (the first is line 3, '1,2,nan,5': the rating is not between 0 and 5)"
    )
    assert stream.users == [2, 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "none is usable"),
        ("userId,movieId,rating,timestamp\n", "none is usable"),
        ("garbage\nmore\n", "the first is line 1, 'garbage'"),
        ("userId,movieId,rating\n1,2,3\n", "lacks timestamp"),
        ("1,2,3.0,5\n", "nothing to learn from"),
    ],
)
def test_a_file_with_nothing_usable_is_an_error_that_says_why(text: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        movielens.parse(text, "my.csv")
    assert said in str(caught.value)
    assert "my.csv" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read ratings from .*absent\.csv: No such file"):
        movielens.load(tmp_path / "absent.csv")


def test_a_missing_package_names_the_three_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    with pytest.raises(DataError) as caught:
        movielens.load()
    for way in ("pip install -e .[data]", "--ratings", "--synthetic"):
        assert way in str(caught.value)


def fake_package(monkeypatch: pytest.MonkeyPatch, version: str) -> list[str]:
    """Stands in for the package, which is an optional one; the list that is returned fills with the versions read."""
    reads: list[str] = []

    def read(found: str) -> dict[str, Any]:
        reads.append(found)
        users, items, ratings, times = (np.array(column) for column in zip(*ROWS, strict=True))
        titles = np.array([f"film {item}" for item in items.tolist()])
        return {"user": users, "item": items, "rating": ratings, "timestamp": times, "title": titles}

    monkeypatch.setattr(metadata, "version", lambda name: version)
    monkeypatch.setattr(movielens, "_read_package", read)
    return reads


def test_the_package_is_parsed_once_and_again_after_a_new_version_or_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = fake_package(monkeypatch, "1.0")
    first = movielens.load(cache=tmp_path / "cache")
    assert movielens.load(cache=tmp_path / "cache") == first
    assert reads == ["1.0"]
    assert first.users == [1, 1, 2]
    assert first.catalogue[0] == (10, "film 10")
    (cached,) = (tmp_path / "cache").iterdir()
    cached.write_bytes(cached.read_bytes()[:-40])
    assert movielens.load(cache=tmp_path / "cache") == first
    monkeypatch.setattr(metadata, "version", lambda name: "2.0")
    movielens.load(cache=tmp_path / "cache")
    assert reads == ["1.0", "1.0", "2.0"]


def test_a_cache_folder_that_cannot_be_made_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = fake_package(monkeypatch, "1.0")
    (tmp_path / "file").write_text("")
    movielens.load(cache=tmp_path / "file" / "cache")
    movielens.load(cache=None)
    assert reads == ["1.0", "1.0"]
