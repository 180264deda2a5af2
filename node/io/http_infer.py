"""The Open Inference Protocol v2 for the ranking model: metadata, readiness, inference."""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass
from typing import Any, Final

import trio
from starlette.responses import Response

from node.io.http_calls import (
    Call,
    Handler,
    HttpError,
    ask,
    bad,
    only_keys,
    reply,
    show,
    status_of,
    text_of,
    truth,
    whole,
)
from node.protocol import Answer, Consistency
from node.ranking import queries
from node.ranking.commands import SERVING
from node.ranking.queries import MAX_CANDIDATES, MAX_K, MODEL, Ranking
from node.ranking.settings import LARGEST_ID

NAME: Final = "feed"
"""The one model."""
PLATFORM: Final = "ridethrough_fism"
MAX_USERS: Final = 64
MAX_CELLS: Final = 10_000
"""Items in one response: users times k."""
NO_ITEM: Final = -1
"""Fills `items` behind the last item of a row."""
NO_SCORE: Final = -(1 << 63)
"""Fills `scores` there; less than any score."""
MODEL_SCALE: Final = 1 << 32
"""A score of the model is an integer; divided by this it is the value."""

_PARAMETERS: Final = ("k", "consistency", "patience_ms", "exclude_seen", "strict")
_BOUNDED: Final = re.compile(r"bounded(?:\(([0-9]{1,9})\)|:([0-9]{1,9}))")
_LONGEST_AGE_MS: Final = 3_600_000

_INPUTS: Final = [
    {"name": "user", "datatype": "INT64", "shape": [-1]},
    {"name": "candidates", "datatype": "INT64", "shape": [-1], "optional": True},
]
_OUTPUTS: Final = [
    {"name": "items", "datatype": "INT64", "shape": [-1, -1]},
    {"name": "scores", "datatype": "INT64", "shape": [-1, -1]},
    {"name": "count", "datatype": "INT64", "shape": [-1]},
    {"name": "source", "datatype": "BYTES", "shape": [-1]},
    {"name": "applied_index", "datatype": "INT64", "shape": [-1]},
]
_OUTPUT_NAMES: Final = tuple(str(output["name"]) for output in _OUTPUTS)


@dataclass(slots=True)
class Inference:
    """A request to rank, read and checked."""

    identity: str | None
    users: list[int]
    candidates: list[int] | None
    k: int
    consistency: Consistency
    max_age_us: int
    patience_us: int
    exclude_seen: bool
    strict: bool
    outputs: list[str]


# ------------------------------------------------------------------------------------------------------- reading


def read_consistency(value: Any, where: str) -> tuple[Consistency, int]:
    """(consistency, age in microseconds) of `any`, `bounded(MS)`, `bounded:MS` or `linearizable`. Raises HttpError 400."""
    if value == "any":
        return Consistency.ANY, 0
    if value == "linearizable":
        return Consistency.LINEARIZABLE, 0
    match = _BOUNDED.fullmatch(value) if type(value) is str else None
    if match is not None:
        age_ms = whole(int(match[1] or match[2]), f"{where}: the age in ms", 1, _LONGEST_AGE_MS)
        return Consistency.BOUNDED, age_ms * 1000
    raise bad(
        f'{where} must be "any", "bounded(MS)" with an age in milliseconds, or "linearizable", not {show(value)}'
    )


def patience_of(value: Any) -> int:
    """`patience_ms` in microseconds. Raises HttpError 400."""
    return whole(value, "patience_ms", 1, 10_000) * 1000


def read_inference(table: dict[str, Any]) -> Inference:
    """Read and check the body of an inference request. Raises HttpError 400."""
    only_keys(table, ("id", "parameters", "inputs", "outputs"))
    identity = table.get("id")
    if identity is not None:
        text_of(identity, "id")
    parameters = table.get("parameters", {})
    if type(parameters) is not dict:
        raise bad(f"parameters must be an object, not {show(parameters)}")
    only_keys(parameters, _PARAMETERS, "parameters.")
    inputs = _read_inputs(table.get("inputs"))
    if "user" not in inputs:
        raise bad("input user is missing: a tensor INT64 [n] of user ids")
    users = inputs["user"]
    if len(users) > MAX_USERS:
        raise bad(f"input user holds {len(users)} users; at most {MAX_USERS} are ranked for at once")
    candidates = inputs.get("candidates")
    if candidates is not None and len(set(candidates)) != len(candidates):
        double = next(item for item in candidates if candidates.count(item) > 1)
        raise bad(f"input candidates names item {double} twice; name each once")
    k = whole(parameters.get("k", 10), "parameters.k", 1, MAX_K)
    if k * len(users) > MAX_CELLS:
        raise bad(f"{len(users)} users times k = {k} is more than {MAX_CELLS}; ask in several requests")
    consistency, age_us = read_consistency(parameters.get("consistency", "any"), "parameters.consistency")
    return Inference(
        identity,
        users,
        candidates,
        k,
        consistency,
        age_us,
        patience_of(parameters.get("patience_ms", 500)),
        truth(parameters.get("exclude_seen", False), "parameters.exclude_seen"),
        truth(parameters.get("strict", False), "parameters.strict"),
        _read_outputs(table.get("outputs")),
    )


def _read_inputs(inputs: Any) -> dict[str, list[int]]:
    if type(inputs) is not list:
        raise bad(f"inputs must be a list of tensors, not {show(inputs)}")
    found: dict[str, list[int]] = {}
    for place, tensor in enumerate(inputs):
        where = f"inputs[{place}]"
        if type(tensor) is not dict:
            raise bad(f"{where} must be an object, not {show(tensor)}")
        only_keys(tensor, ("name", "shape", "datatype", "data", "parameters"), f"{where}.")
        name = tensor.get("name")
        if name not in ("user", "candidates"):
            raise bad(f"{where}.name is {show(name)}; the inputs are user and candidates")
        if name in found:
            raise bad(f"{where}: input {name} stands twice")
        found[name] = _read_ids(tensor, where, MAX_CANDIDATES)
    return found


def _read_ids(tensor: dict[str, Any], where: str, most: int) -> list[int]:
    if tensor.get("datatype") != "INT64":
        raise bad(f"{where}.datatype must be INT64, not {show(tensor.get('datatype'))}")
    data = tensor.get("data")
    if type(data) is not list or not 1 <= len(data) <= most:
        held = f"{len(data)} of them" if type(data) is list else show(data)
        raise bad(f"{where}.data must be a flat list of 1 to {most} ids, not {held}")
    shape = tensor.get("shape")
    if type(shape) is not list or shape != [len(data)] or type(shape[0]) is not int:
        raise bad(f"{where}.shape must be [{len(data)}], as long as the data, not {show(shape)}")
    for place, value in enumerate(data):
        whole(value, f"{where}.data[{place}]", 0, LARGEST_ID)
    return data


def _read_outputs(outputs: Any) -> list[str]:
    if outputs is None:
        return list(_OUTPUT_NAMES)
    if type(outputs) is not list or not outputs:
        raise bad(f"outputs must be a list of {{name}}, or left out for all of them, not {show(outputs)}")
    names: list[str] = []
    for place, output in enumerate(outputs):
        name = output.get("name") if type(output) is dict else output
        if type(output) is not dict or name not in _OUTPUT_NAMES:
            raise bad(f"outputs[{place}] names {show(name)}; the outputs are {', '.join(_OUTPUT_NAMES)}")
        only_keys(output, ("name", "parameters"), f"outputs[{place}].")
        if name not in names:
            names.append(name)
    return names


# ------------------------------------------------------------------------------------------------------ answering


def require_model(call: Call) -> None:
    """Raises HttpError 404 if the path names another model."""
    if call.path["name"] != NAME:
        raise HttpError(404, f"there is no model {call.path['name']!r:.80}; there is {NAME}", "not_found")


async def _infer(call: Call) -> Response:
    require_model(call)
    wanted = read_inference(await call.table())
    if wanted.consistency != Consistency.ANY:
        call.may_wait()
    version = call.path.get("version", SERVING)
    try:
        rows = await _rank_all(call, wanted, version)
    except HttpError as error:
        # The replica's refusal does not say whether the version or something else was wrong.
        if error.code == "bad_query" and version != SERVING:
            await _require_version(call, version)
        raise
    return reply(_body(call, wanted, rows))


async def _rank_all(call: Call, wanted: Inference, version: str) -> list[tuple[Answer, Ranking]]:
    """One answer a user, in order. The first resolves the version, so that all rows come from one."""
    first = await _rank(call, wanted, wanted.users[0], version)
    rows: list[tuple[Answer, Ranking]] = [first] * len(wanted.users)
    failures: dict[int, HttpError] = {}

    async def one(place: int, user: int) -> None:
        try:
            rows[place] = await _rank(call, wanted, user, first[1].version)
        except HttpError as error:
            failures[place] = error

    if len(rows) > 1:
        async with trio.open_nursery() as nursery:
            for place, user in enumerate(wanted.users[1:], 1):
                nursery.start_soon(one, place, user)
    if failures:
        raise failures[min(failures)]
    return rows


async def _rank(call: Call, wanted: Inference, user: int, version: str) -> tuple[Answer, Ranking]:
    query = queries.rank(
        user,
        wanted.k,
        wanted.candidates,
        exclude_seen=wanted.exclude_seen,
        version=version,
        strict=wanted.strict,
    )
    answer = await ask(call, query, wanted.consistency, wanted.max_age_us, wanted.patience_us)
    return answer, queries.decode_ranking(answer.result)


def _body(call: Call, wanted: Inference, rows: list[tuple[Answer, Ranking]]) -> dict[str, Any]:
    users, k = len(rows), wanted.k
    rankings = [ranking for _, ranking in rows]
    tensors: dict[str, dict[str, Any]] = {
        "items": {
            "shape": [users, k],
            "datatype": "INT64",
            "data": [item for row in rankings for item in _padded(row.items, k, NO_ITEM)],
        },
        "scores": {
            "shape": [users, k],
            "datatype": "INT64",
            "parameters": {"model_scale": MODEL_SCALE},
            "data": [score for row in rankings for score in _padded(row.scores, k, NO_SCORE)],
        },
        "count": {"shape": [users], "datatype": "INT64", "data": [len(row.items) for row in rankings]},
        "source": {"shape": [users], "datatype": "BYTES", "data": [row.source for row in rankings]},
        "applied_index": {
            "shape": [users],
            "datatype": "INT64",
            "data": [answer.index for answer, _ in rows],
        },
    }
    body: dict[str, Any] = {"model_name": NAME, "model_version": rankings[0].version}
    if wanted.identity is not None:
        body["id"] = wanted.identity
    body["parameters"] = _claims(call, rows)
    body["outputs"] = [{"name": name, **tensors[name]} for name in wanted.outputs]
    return body


def _padded(values: list[int], size: int, filler: int) -> list[int]:
    return values + [filler] * (size - len(values))


def _claims(call: Call, rows: list[tuple[Answer, Ranking]]) -> dict[str, Any]:
    """What holds for every row: the oldest state, the highest age, the lowest tier."""
    oldest = min((answer for answer, _ in rows), key=lambda answer: answer.index)
    ages = [answer.age for answer, _ in rows]
    stale = any(answer.tier != "fresh" for answer, _ in rows)
    # A row that the learned tables did not make stands lower than a stale one that they did.
    sources = [ranking.source for _, ranking in rows]
    by_need = {source: (MODEL, queries.POPULARITY, queries.STATIC).index(source) for source in sources}
    source = max(sources, key=lambda name: by_need[name])
    claims: dict[str, Any] = {
        "applied_index": oldest.index,
        "chain": oldest.chain.hex(),
        "tier": ("stale" if stale else "fresh") if source == MODEL else source,
        "node_tier": "stale" if stale else "fresh",
        "source": source,
        "node": call.backend.node,
        "domain": call.backend.domain,
        "version": rows[0][1].version,
    }
    known = [age for age in ages if age is not None]
    # A node that never had a barrier knows no age; parameters hold no null, so the key is left out.
    if len(known) == len(ages):
        claims["age_ms"] = max(known) / 1000
    return claims


# ------------------------------------------------------------------------------------------------------- metadata


def _own_version() -> str:
    try:
        return importlib.metadata.version("ridethrough")
    except importlib.metadata.PackageNotFoundError:
        return "0+checkout"


async def server_metadata(call: Call) -> Response:
    """GET /v2."""
    backend = call.backend
    where = {"node": backend.node, "cluster": backend.cluster, "domain": backend.domain}
    return reply({"name": "ridethrough", "version": _own_version(), "extensions": [], "parameters": where})


async def _stats(call: Call) -> tuple[Answer, dict[str, Any]]:
    answer = await ask(call, queries.stats(), Consistency.ANY, 0, 500_000)
    return answer, queries.decode_stats(answer.result)


async def _require_version(call: Call, version: str) -> dict[str, Any]:
    _, stats = await _stats(call)
    names = ["live", *stats["versions"]]
    if version not in (SERVING, *names):
        text = f"there is no version {version!r:.80} of {NAME}; there are: {', '.join(names)}"
        raise HttpError(404, text, "not_found")
    return stats


async def _model(call: Call) -> Response:
    require_model(call)
    stats = await _require_version(call, call.path.get("version", SERVING))
    counted = {key: stats[key] for key in ("users", "items", "recorded", "learned", "frozen", "serving")}
    return reply(
        {
            "name": NAME,
            "versions": ["live", *stats["versions"]],
            "platform": PLATFORM,
            "inputs": _INPUTS,
            "outputs": _OUTPUTS,
            "parameters": counted,
        }
    )


async def _model_ready(call: Call) -> Response:
    require_model(call)
    status = await status_of(call)
    try:
        await _require_version(call, call.path.get("version", SERVING))
    except HttpError as error:
        if error.status != 503:
            raise
        error.extra |= {"name": NAME, "ready": False}
        raise
    return reply({"name": NAME, "ready": True, "applied_index": status.get("applied_index")})


MODEL_PAGES: Final[dict[str, Handler]] = {
    "/v2/models/{name}": _model,
    "/v2/models/{name}/ready": _model_ready,
    "/v2/models/{name}/versions/{version}": _model,
    "/v2/models/{name}/versions/{version}/ready": _model_ready,
}
INFERENCE: Final[dict[str, Handler]] = {
    "/v2/models/{name}/infer": _infer,
    "/v2/models/{name}/versions/{version}/infer": _infer,
}
