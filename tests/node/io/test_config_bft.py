"""The configuration of a node of a BFT cluster: keys and committee."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from node.io import certificates, config, keys
from node.io.config import ConfigError

CLUSTER = "3f2a9c01"
PUBLIC = {f"n{number}": keys.SigningKey().public.hex() for number in range(1, 7)}


def good(nodes: int = 4, **changes: Any) -> dict[str, Any]:
    """A configuration of n1 among so many nodes, each in its own domain."""
    values: dict[str, Any] = {
        "cluster": CLUSTER,
        "node": "n1",
        "listen": "127.0.0.1:7101",
        "data": "data",
        "protocol": "bft",
        "tls": {"ca": "ca.pem", "certificate": "cert.pem", "key": "key.pem"},
        "committee": {"key": "signing.pem"},
        "members": [
            {"id": f"n{i}", "domain": "ABCDEF"[i - 1], "address": f"127.0.0.1:720{i}", "key": PUBLIC[f"n{i}"]}
            for i in range(1, nodes + 1)
        ],
    }
    values.update(changes)
    return {key: value for key, value in values.items() if value is not None}


def load(
    folder: Path, values: dict[str, Any], check_files: bool = False
) -> tuple[config.NodeConfig, list[str]]:
    path = folder / "config.toml"
    path.write_text(config.dump(values))
    return config.load(path, check_files=check_files)


def problems(folder: Path, values: dict[str, Any], check_files: bool = False) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, values, check_files)
    return caught.value.problems


def test_four_nodes_stand_one_that_stops_or_lies_unless_told_otherwise(tmp_path: Path) -> None:
    loaded, warnings = load(tmp_path, good())
    committee = loaded.bft_committee()
    assert (committee.stop, committee.lie, committee.quorum, committee.honest) == (1, 1, 3, 2)
    assert (committee.cluster, committee.members) == (CLUSTER, ("n1", "n2", "n3", "n4"))
    assert loaded.committee is not None
    assert loaded.committee.key == tmp_path / "signing.pem"
    assert loaded.me.key.hex() == PUBLIC["n1"]
    assert warnings == [], "an even number of members is right here"


def test_six_nodes_stand_two_that_stop_of_which_one_may_lie(tmp_path: Path) -> None:
    loaded, _ = load(tmp_path, good(6, committee={"stop": 2, "lie": 1, "key": "signing.pem"}))
    assert loaded.bft_committee().quorum == 4


def test_every_member_numbers_the_others_alike_in_whatever_order_they_are_listed(tmp_path: Path) -> None:
    values = good()
    forwards = load(tmp_path, values)[0].bft_committee()
    values["members"].reverse()
    assert load(tmp_path, values)[0].bft_committee() == forwards


def test_a_committee_that_cannot_be_safe_is_refused_with_the_count_that_shows_it(tmp_path: Path) -> None:
    found = problems(tmp_path, good(committee={"stop": 2, "lie": 1, "key": "signing.pem"}))
    assert any(text.startswith("committee: 4 members, of which 2 may stop") for text in found), found
    assert any("It takes 6 members" in text for text in found), found


def test_keys_that_are_none_missing_or_shared_are_named(tmp_path: Path) -> None:
    values = good()
    values["members"][1]["key"] = "abc"
    values["members"][2]["key"] = PUBLIC["n1"]
    del values["members"][3]["key"]
    found = problems(tmp_path, values)
    for start in (
        "members[2].key: 'abc' is no public key; it must be 64 hexadecimal digits in lower case",
        "members[3].key: is the key of members[1] already",
        "members[4].key: is missing",
    ):
        assert any(text.startswith(start) for text in found), (start, found)


def test_committee_and_keys_go_with_bft_only(tmp_path: Path) -> None:
    found = problems(tmp_path, good(protocol="raft"))
    assert any(text.startswith("committee: goes with protocol") for text in found)
    assert any(text.startswith("members[1].key: goes with protocol") for text in found)
    found = problems(tmp_path, good(committee=None))
    assert any(text.startswith("committee: is missing") for text in found)


def test_a_domain_that_holds_too_much_is_warned_of_by_the_committees_own_quorum(tmp_path: Path) -> None:
    values = good()
    values["members"][1]["domain"] = "A"
    _, warnings = load(tmp_path, values)
    assert len(warnings) == 1
    assert "without domain A (2 of 4 members) no quorum of 3 is left" in warnings[0]


def made(folder: Path) -> dict[str, Any]:
    """With files that are in order."""
    certificates.create_authority(folder, CLUSTER)
    certificates.issue_node(folder, folder, CLUSTER, "n1")
    key = keys.SigningKey()
    key.save(folder / "signing.pem")
    values = good()
    values["members"][0]["key"] = key.public.hex()
    return values


def test_the_signing_key_must_be_there_and_be_that_of_the_members_table(tmp_path: Path) -> None:
    values = made(tmp_path)
    assert load(tmp_path, values, check_files=True)[1] == []
    (tmp_path / "signing.pem").unlink()
    (text,) = problems(tmp_path, values, check_files=True)
    assert text.endswith("signing.pem: no such file or directory")
    keys.SigningKey().save(tmp_path / "signing.pem")
    (text,) = problems(tmp_path, values, check_files=True)
    assert "not the key that [[members]] has for n1" in text
    (tmp_path / "signing.pem").write_bytes((tmp_path / "key.pem").read_bytes())
    (text,) = problems(tmp_path, values, check_files=True)
    assert text.endswith("signing.pem: not an Ed25519 key")
    (tmp_path / "signing.pem").write_bytes(b"x")
    (text,) = problems(tmp_path, values, check_files=True)
    assert "not an unencrypted private key in PEM form" in text


def test_a_signing_key_that_others_can_read_is_warned_of(tmp_path: Path) -> None:
    values = made(tmp_path)
    assert (tmp_path / "signing.pem").stat().st_mode & 0o777 == 0o600
    (tmp_path / "signing.pem").chmod(0o644)
    (warning,) = load(tmp_path, values, check_files=True)[1]
    assert "run chmod 600" in warning


def test_a_key_is_never_written_over_another(tmp_path: Path) -> None:
    path = tmp_path / "signing.pem"
    first = keys.SigningKey()
    first.save(path)
    with pytest.raises(keys.SigningKeyError, match="exists already"):
        keys.SigningKey().save(path)
    assert keys.load_key(path).public == first.public


def test_a_member_verifies_as_the_others_and_not_as_strangers(tmp_path: Path) -> None:
    own, other = keys.SigningKey(), keys.SigningKey()
    ring = keys.MemberKeyring(own, {"n1": own.public, "n2": other.public})
    assert ring.verify("n1", b"data", ring.sign(b"data"))
    assert ring.verify("n2", b"data", other.sign(b"data"))
    assert not ring.verify("n2", b"data", ring.sign(b"data"))
    assert not ring.verify("n1", b"other", ring.sign(b"data"))
    assert not ring.verify("n3", b"data", ring.sign(b"data"))
    assert not ring.verify("n1", b"data", b"short")
