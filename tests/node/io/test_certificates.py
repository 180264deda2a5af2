"""A cluster's authority and certificates: what is made, what is refused, and what each failure says."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from node.io import certificates
from node.io.certificates import CertificateError

CLUSTER = "3f2a9c01"


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    certificates.create_authority(tmp_path / "ca", CLUSTER)
    return tmp_path / "ca"


def test_a_certificate_says_who_it_speaks_for(ca: Path, tmp_path: Path) -> None:
    node = certificates.inspect(
        certificates.issue_node(ca, tmp_path / "n1", CLUSTER, "n1", ["127.0.0.1", "web"]).certificate
    )
    client = certificates.inspect(certificates.issue_client(ca, tmp_path / "c", CLUSTER, "drill").certificate)
    authority = certificates.inspect(ca / "ca.pem")
    assert (node.kind, node.cluster, node.name, node.hosts) == (
        "node",
        CLUSTER,
        "n1",
        ("web", "127.0.0.1"),
    ) or (
        node.kind,
        node.cluster,
        node.name,
        node.hosts,
    ) == ("node", CLUSTER, "n1", ("127.0.0.1", "web"))
    assert (client.kind, client.name) == ("client", "drill")
    assert (authority.kind, authority.cluster, authority.name) == ("authority", CLUSTER, "")
    assert len({node.fingerprint, client.fingerprint, authority.fingerprint}) == 3


def test_keys_can_be_read_by_their_owner_only(ca: Path, tmp_path: Path) -> None:
    issued = certificates.issue_node(ca, tmp_path / "n1", CLUSTER, "n1")
    for key in (issued.key, ca / "ca-key.pem"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_nothing_is_overwritten(ca: Path, tmp_path: Path) -> None:
    certificates.issue_node(ca, tmp_path / "n1", CLUSTER, "n1")
    before = {path: path.read_bytes() for path in [*ca.iterdir(), *(tmp_path / "n1").iterdir()]}
    with pytest.raises(CertificateError, match="exists already and is not overwritten"):
        certificates.create_authority(ca, CLUSTER)
    with pytest.raises(CertificateError, match="exists already and is not overwritten"):
        certificates.issue_client(ca, tmp_path / "n1", CLUSTER, "c")
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize("name", ["", "a/b", "../n1", "-n", "n 1", "n" * 64, "n1\n", "é"])
def test_names_that_could_be_misread_are_refused(ca: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(CertificateError, match="wrong form"):
        certificates.issue_node(ca, tmp_path / "out", CLUSTER, name)
    assert not (tmp_path / "out").exists()


def test_an_authority_issues_for_its_own_cluster_only(ca: Path, tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=f"authority of cluster {CLUSTER}, not of abcdef"):
        certificates.issue_node(ca, tmp_path / "n1", "abcdef", "n1")


def test_an_expired_authority_issues_nothing(tmp_path: Path) -> None:
    old = datetime.now(UTC) - timedelta(days=10)
    certificates.create_authority(tmp_path, CLUSTER, days=5, not_before=old)
    with pytest.raises(CertificateError, match="expired at"):
        certificates.issue_node(tmp_path, tmp_path / "n1", CLUSTER, "n1")


def test_a_missing_authority_and_a_file_that_is_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=r"ca\.pem: no such file"):
        certificates.issue_node(tmp_path, tmp_path / "n1", CLUSTER, "n1")
    (tmp_path / "x.pem").write_text("not a certificate")
    with pytest.raises(CertificateError, match="not a certificate in PEM form"):
        certificates.inspect(tmp_path / "x.pem")


def test_files_that_fit_have_no_problem(ca: Path, tmp_path: Path) -> None:
    issued = certificates.issue_node(ca, tmp_path / "n1", CLUSTER, "n1")
    found = certificates.check_files(
        ca / "ca.pem", issued.certificate, issued.key, cluster=CLUSTER, role="node", name="n1"
    )
    assert found == ([], [])


def test_every_way_files_cannot_fit_is_named(ca: Path, tmp_path: Path) -> None:
    own = certificates.issue_node(ca, tmp_path / "n1", CLUSTER, "n1")
    other = certificates.issue_node(ca, tmp_path / "n2", CLUSTER, "n2")
    client = certificates.issue_client(ca, tmp_path / "c", CLUSTER, "c")
    old = certificates.issue_node(
        ca, tmp_path / "old", CLUSTER, "n1", days=1, not_before=datetime.now(UTC) - timedelta(days=3)
    )
    young = certificates.issue_node(
        ca, tmp_path / "young", CLUSTER, "n1", not_before=datetime.now(UTC) + timedelta(days=3)
    )
    certificates.create_authority(tmp_path / "ca2", CLUSTER)
    certificates.create_authority(tmp_path / "ca3", "abcdef")

    def problems(authority: Path, certificate: Path, key: Path) -> str:
        found, _ = certificates.check_files(
            authority / "ca.pem", certificate, key, cluster=CLUSTER, role="node", name="n1"
        )
        return "\n".join(found)

    assert "not the key of" in problems(ca, own.certificate, other.key)
    assert "speaks for node n2, not for n1" in problems(ca, other.certificate, other.key)
    assert "of kind client; one of kind node is needed" in problems(ca, client.certificate, client.key)
    assert "expired at" in problems(ca, old.certificate, old.key)
    assert "not valid before" in problems(ca, young.certificate, young.key)
    assert "not issued by the authority" in problems(tmp_path / "ca2", own.certificate, own.key)
    assert "of cluster abcdef, not of" in problems(tmp_path / "ca3", own.certificate, own.key)
    assert "no such file" in problems(ca, own.certificate, tmp_path / "absent.pem")


def test_a_key_that_others_can_read_is_warned_about(ca: Path, tmp_path: Path) -> None:
    issued = certificates.issue_node(ca, tmp_path / "n1", CLUSTER, "n1")
    issued.key.chmod(0o644)
    found, warnings = certificates.check_files(
        ca / "ca.pem", issued.certificate, issued.key, cluster=CLUSTER, role="node"
    )
    assert found == []
    assert "chmod 600" in warnings[0]
