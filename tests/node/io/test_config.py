"""A node's configuration: what is read, and that every kind of mistake is named, all at once."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.io import certificates, config
from node.io.config import Address, ConfigError, Member

CLUSTER = "3f2a9c01"


def good(**changes: Any) -> dict[str, Any]:
    """A configuration of n1 among three nodes in three domains, as a dict."""
    values: dict[str, Any] = {
        "cluster": CLUSTER,
        "node": "n1",
        "listen": "127.0.0.1:7101",
        "http": "127.0.0.1:8101",
        "data": "data",
        "tls": {"ca": "../ca/ca.pem", "certificate": "cert.pem", "key": "key.pem"},
        "members": [
            {"id": f"n{i}", "domain": "ABC"[i - 1], "address": f"127.0.0.1:720{i}"} for i in (1, 2, 3)
        ],
    }
    values.update(changes)
    return {key: value for key, value in values.items() if value is not None}


def load(folder: Path, values: dict[str, Any] | str, **kwargs: Any) -> tuple[config.NodeConfig, list[str]]:
    path = folder / "config.toml"
    path.write_text(values if isinstance(values, str) else config.dump(values))
    return config.load(path, **{"check_files": False, **kwargs})


def problems(folder: Path, values: dict[str, Any] | str, **kwargs: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, values, **kwargs)
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems


def test_a_small_file_is_filled_up_with_defaults(tmp_path: Path) -> None:
    loaded, warnings = load(tmp_path, good())
    assert warnings == []
    assert loaded.listen == Address("127.0.0.1", 7101)
    assert loaded.http == Address("127.0.0.1", 8101)
    assert loaded.data == tmp_path / "data"
    assert loaded.tls.ca == tmp_path / "../ca/ca.pem"
    assert loaded.me == Member("n1", "A", Address("127.0.0.1", 7201))
    assert [peer.id for peer in loaded.peers] == ["n2", "n3"]
    assert (loaded.protocol, loaded.machine) == ("raft", "ranking")
    assert (loaded.timing, loaded.limits, loaded.storage, loaded.log) == (
        config.Timing(),
        config.Limits(),
        config.Storage(),
        config.Log(),
    )
    assert (loaded.timing.heartbeat_ms, loaded.timing.election_ms, loaded.limits.max_clients) == (
        50,
        120,
        512,
    )


def test_every_section_is_read(tmp_path: Path) -> None:
    values = good(
        machine="kv",
        timing={"heartbeat_ms": 10, "election_ms": 50},
        limits={"max_sessions": 7},
        storage={"archive": True, "platter": "platter", "snapshot_bytes": 1 << 20},
        log={"level": "debug", "file": "node.log"},
    )
    loaded, _ = load(tmp_path, values)
    assert loaded.machine == "kv"
    assert loaded.timing == config.Timing(heartbeat_ms=10, election_ms=50)
    assert loaded.limits == config.Limits(max_sessions=7)
    assert loaded.storage == config.Storage(
        snapshot_bytes=1 << 20, archive=True, platter=tmp_path / "platter"
    )
    assert loaded.log == config.Log("debug", tmp_path / "node.log")


def test_all_problems_are_listed_at_once_each_with_its_path(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        good(
            cluster="XYZ",
            listen="7101",
            machine="rankign",
            timing={"heartbeat_ms": 0, "electon_ms": 120},
            members=[
                {"id": "n2", "domain": "A", "address": "127.0.0.1:7201"},
                {"id": "n2", "domain": "B", "address": "127.0.0.1:7201"},
            ],
            log={"levle": "info"},
        ),
    )
    starts = (
        "cluster: 'XYZ' has a wrong form",
        "listen: '7101' is no address",
        "machine: 'rankign' is not known; did you mean 'ranking'?",
        "members[2].id: 'n2' is the id of members[1] already",
        "members[2].address: 127.0.0.1:7201 is the address of members[1] already",
        "node: 'n1' is not among the members (n2)",
        "timing.heartbeat_ms: is 0; it must be from 1 to 60000",
        "timing.electon_ms: is not a known key; did you mean 'election_ms'?",
        "log.levle: is not a known key; did you mean 'level'?",
    )
    for start in starts:
        assert any(problem.startswith(start) for problem in found), (start, found)
    assert len(found) == len(starts)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cluster": None}, "cluster: is missing"),
        ({"node": 7}, "node: is 7; a text that is not empty belongs here"),
        ({"data": ""}, "data: is ''; a text"),
        ({"tls": None}, "tls: is missing; add a table [tls]"),
        ({"tls": "ca.pem"}, "tls: is 'ca.pem'; a table [tls] belongs here"),
        ({"tls": {"ca": "a", "certificate": "b"}}, "tls.key: is missing"),
        ({"members": []}, "members: is an array; one or more tables [[members]]"),
        ({"members": None}, "members: is missing"),
        ({"htpt": "127.0.0.1:1"}, "htpt: is not a known key; did you mean 'http'?"),
        ({"zzz": "red"}, "zzz: is not a known key; known here: cluster, node"),
        ({"timing": {"barrier_ms": True}}, "timing.barrier_ms: is true; a whole number"),
        ({"timing": {"barrier_ms": 1.5}}, "timing.barrier_ms: is 1.5; a whole number"),
        ({"timing": {"heartbeat_ms": -5}}, "timing.heartbeat_ms: is -5; it must be from"),
        ({"timing": {"heartbeat_ms": 60}}, "timing.election_ms: 120 leaves no room for a lost heartbeat"),
        ({"timing": {"fresh_ms": 100}}, "timing.fresh_ms: 100 would make every answer stale"),
        ({"limits": {"max_clients": 0}}, "limits.max_clients: is 0; it must be from 1"),
        ({"storage": {"archive": 1}}, "storage.archive: is 1; true or false belongs here"),
        ({"log": {"level": "warn"}}, "log.level: 'warn' is not known; did you mean 'warning'?"),
        ({"protocol": "paxos"}, "protocol: 'paxos' is not known; it must be 'raft'"),
        ({"http": "127.0.0.1:7101"}, "http: 127.0.0.1:7101 is where `listen` is as well"),
        ({"listen": "0.0.0.0:8101"}, "http: 127.0.0.1:8101 is where `listen` is as well"),
        ({"http": "0.0.0.0:8101"}, "http: 0.0.0.0:8101 is not loopback, where plain HTTP is refused"),
        ({"http": "node.example:8101"}, "http: node.example:8101 is not loopback"),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(tmp_path: Path, changes: Any, expected: str) -> None:
    found = problems(tmp_path, good(**changes))
    assert any(problem.startswith(expected) for problem in found), found


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    text = config.dump(good()) + "\n[timing]\nheartbeat_ms = nan\nbarrier_ms = inf\n"
    assert [problem.split(";")[0] for problem in problems(tmp_path, text)] == [
        "timing.heartbeat_ms: is nan",
        "timing.barrier_ms: is inf",
    ]


@pytest.mark.parametrize(
    "text",
    [
        ":7101",
        "127.0.0.1",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:x",
        "::1:7101",
        "[::g]:1",
        "300.0.0.1:1",
        "a b:1",
    ],
)
def test_bad_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|port|host"):
        config.parse_address(text)


@given(
    st.sampled_from(["127.0.0.1", "::1", "localhost", "n1.rack-2.example", "0.0.0.0"]), st.integers(1, 65535)
)
def test_addresses_read_back_as_they_are_written(host: str, port: int) -> None:
    assert config.parse_address(str(Address(host, port))) == Address(host, port)


def test_http_beyond_loopback_is_accepted_with_its_own_tls(tmp_path: Path) -> None:
    files = {"ca": "a.pem", "certificate": "c.pem", "key": "k.pem"}
    loaded, _ = load(tmp_path, good(http="0.0.0.0:8101", http_tls=files))
    assert loaded.http_tls is not None
    assert loaded.http_tls.ca == tmp_path / "a.pem"


def members(domains: str) -> list[dict[str, str]]:
    return [
        {"id": f"n{i}", "domain": domain, "address": f"127.0.0.1:{7200 + i}"}
        for i, domain in enumerate(domains, 1)
    ]


@pytest.mark.parametrize(
    ("domains", "expected"),
    [
        ("ABC", []),
        ("AABBC", []),
        ("AAABC", ["domain A holds a quorum (3 of 5 members, 3 are a quorum): when it loses power nothing"]),
        ("A", ["domain A holds a quorum (1 of 1 members"]),
        (
            "AABC",
            [
                "4 is an even number; 3 members survive as many losses (1)",
                "without domain A (2 of 4 members)",
            ],
        ),
        ("ABCD", ["4 is an even number"]),
    ],
)
def test_a_domain_whose_loss_stops_the_cluster_is_warned_about(
    tmp_path: Path, domains: str, expected: list[str]
) -> None:
    _, warnings = load(tmp_path, good(members=members(domains)))
    assert len(warnings) == len(expected)
    for warning, start in zip(warnings, expected, strict=True):
        assert warning.startswith(f"members: {start}")


def test_files_that_cannot_be_read_are_errors_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        config.load(tmp_path / "absent.toml")
    assert problems(tmp_path, "cluster = \n")[0].startswith("not TOML: ")
    (tmp_path / "config.toml").write_bytes(b'node = "\xff"')
    with pytest.raises(ConfigError, match="not UTF-8 text at byte 8"):
        config.load(tmp_path / "config.toml")


def test_certificates_are_looked_at_before_the_node_starts(tmp_path: Path) -> None:
    folder = tmp_path / "n1"
    folder.mkdir()
    assert sum("no such file" in problem for problem in problems(folder, good(), check_files=True)) == 3
    certificates.create_authority(tmp_path / "ca", CLUSTER)
    certificates.issue_node(tmp_path / "ca", folder, CLUSTER, "n1")
    loaded, warnings = load(folder, good(), check_files=True)
    assert (loaded.node, warnings) == ("n1", [])
    (folder / "key.pem").chmod(0o640)
    assert "chmod 600" in load(folder, good(), check_files=True)[1][0]

    wrong = problems(folder, good(node="n2"), check_files=True)
    assert [problem.split(": ", 1)[1] for problem in wrong] == ["speaks for node n1, not for n2"]
    old = tmp_path / "old"
    past = datetime.now(UTC) - timedelta(days=3)
    certificates.issue_node(tmp_path / "ca", old, CLUSTER, "n1", days=1, not_before=past)
    assert "expired at" in problems(old, good(), check_files=True)[0]
    absent = {"ca": "a.pem", "certificate": "c.pem", "key": "k.pem"}
    assert "[http_tls]" in problems(folder, good(http_tls=absent), check_files=True)[0]


scalars = st.one_of(
    st.booleans(),
    st.integers(-(1 << 62), 1 << 62),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
)
tables = st.dictionaries(st.text(max_size=8), scalars, max_size=4)


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.one_of(scalars, tables, st.lists(scalars, max_size=3), st.lists(tables, min_size=1, max_size=3)),
    )
)
def test_what_is_written_reads_back_the_same(values: dict[str, Any]) -> None:
    assert tomllib.loads(config.dump(values)) == values


def test_what_the_writer_does_not_know_is_refused() -> None:
    for value in (math.nan, {"a": {"b": 1}}, datetime.now(UTC)):
        with pytest.raises(ValueError, match="cannot write"):
            config.dump({"x": value})


def test_the_reference_lists_every_key_with_its_default_and_bounds() -> None:
    root = Path(__file__).parents[3]
    text = (root / "docs" / "reference" / "configuration.md").read_text()
    for section in (config.Timing, config.Limits, config.Storage, config.Log):
        heading = text.split(f"## [{section.__name__.lower()}]")[1].split("\n## ")[0]
        rows = {line.split("|")[1].strip(): line for line in heading.splitlines() if line.startswith("| `")}
        assert list(rows) == [f"`{field.name}`" for field in dataclasses.fields(section)]
        for field in dataclasses.fields(section):
            row = rows[f"`{field.name}`"]
            if "low" in field.metadata:
                bounds = f"{field.metadata['low']} to {field.metadata['high']}"
                assert f"| {field.default} | {bounds} |" in row, row
    for field in dataclasses.fields(config.NodeConfig):
        assert f"`{field.name}`" in text or f"[{field.name}]" in text or f"[[{field.name}]]" in text
