"""A cluster's own certificate authority, and the certificates of its nodes and clients.

Who somebody is stands in the certificate, as a URI in its subject alternative name:
`ridethrough://CLUSTER/node/NAME` or `ridethrough://CLUSTER/client/NAME` (the authority itself:
`ridethrough://CLUSTER/authority`). Extended key usage holds the same line once more, in OpenSSL's own
verification: a node's certificate serves and connects, a client's connects only.

Keys are EC P-256: a mutual TLS 1.3 handshake costs less than with Ed25519 under OpenSSL 3, whose P-256
signs and verifies about twice as fast (`openssl speed ecdsap256 ed25519`).
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Role = Literal["node", "client"]

AUTHORITY: Final = "ca.pem"
AUTHORITY_KEY: Final = "ca-key.pem"
CERTIFICATE: Final = "cert.pem"
KEY: Final = "key.pem"

_CLUSTER: Final = re.compile(r"[0-9a-f]{6,64}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_URI: Final = re.compile(
    r"ridethrough://([0-9a-f]{6,64})/(?:(node|client)/([A-Za-z0-9][A-Za-z0-9._-]{0,62})|authority)"
)

CLUSTER_FORM: Final = "6 to 64 hexadecimal digits in lower case"
NAME_FORM: Final = "a letter or digit, then at most 62 letters, digits, dots, dashes or underscores"


class CertificateError(Exception):
    """A certificate or key cannot be made, read or used; says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a certificate speaks for."""

    role: Role
    cluster: str
    name: str


@dataclass(frozen=True, slots=True)
class Issued:
    """Where a certificate and its key were written."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class CertificateInfo:
    """What a certificate file says."""

    path: Path
    kind: Literal["authority", "node", "client"]
    cluster: str
    name: str
    """Of the node or client; empty for an authority."""
    hosts: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    fingerprint: str
    """SHA-256 of the certificate, hexadecimal."""

    def problem_at(self, now: datetime) -> str | None:
        """None while the certificate is valid, else a sentence."""
        if now < self.not_before:
            return f"{self.path}: not valid before {self.not_before:%Y-%m-%d %H:%M:%S} UTC; look at the machine's clock"
        if now > self.not_after:
            return f"{self.path}: expired at {self.not_after:%Y-%m-%d %H:%M:%S} UTC; issue a new certificate"
        return None


def new_cluster_id() -> str:
    """A fresh cluster id, 16 hexadecimal digits."""
    return secrets.token_hex(8)


def is_cluster_id(text: str) -> bool:
    """Whether `text` has the form of a cluster id (`CLUSTER_FORM`)."""
    return _CLUSTER.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether `text` has the form of a node's, client's or domain's name (`NAME_FORM`)."""
    return _NAME.fullmatch(text) is not None


def identity_from_uris(uris: Sequence[str]) -> Identity:
    """The one identity among a certificate's URIs. Raises CertificateError if there is none, or several."""
    matches = [match for match in map(_URI.fullmatch, uris) if match is not None]
    if len(matches) != 1 or matches[0][2] is None:
        shown = ", ".join(uris) or "none"
        raise CertificateError(
            f"the certificate names no node or client of a cluster (its URIs: {shown}); it needs exactly one"
            " ridethrough://CLUSTER/node/NAME or ridethrough://CLUSTER/client/NAME"
        )
    role: Role = "node" if matches[0][2] == "node" else "client"
    return Identity(role, matches[0][1], matches[0][3])


# ------------------------------------------------------------------------------------------------ making


def create_authority(
    folder: Path, cluster: str, *, days: float = 3650.0, not_before: datetime | None = None
) -> Issued:
    """Make a cluster's authority: `ca.pem` and `ca-key.pem` (mode 0600) in `folder`.

    Raises CertificateError if either exists already, or `cluster` has a wrong form."""
    _require_cluster(cluster)
    key = ec.generate_private_key(ec.SECP256R1())
    name = _subject(f"ridethrough authority {cluster}")
    start, end = _validity(days, not_before)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier(f"ridethrough://{cluster}/authority")]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    return _write(folder, AUTHORITY, AUTHORITY_KEY, certificate, key)


def issue_node(
    ca_folder: Path,
    out_folder: Path,
    cluster: str,
    node: str,
    hosts: Sequence[str] = ("127.0.0.1", "localhost"),
    *,
    days: float = 825.0,
    not_before: datetime | None = None,
) -> Issued:
    """Issue a node's certificate: `cert.pem` and `key.pem` (mode 0600) in `out_folder`.

    `hosts` are the names and addresses under which HTTP clients reach the node; peers and our own client go by
    the node's name instead. Raises CertificateError: files exist, authority missing or of another cluster."""
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            try:
                names.append(x509.DNSName(host))
            except ValueError as error:
                raise CertificateError(f"host {host!r} of node {node}: {error}") from None
    usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return _issue(ca_folder, out_folder, Identity("node", cluster, node), names, usage, days, not_before)


def issue_client(
    ca_folder: Path,
    out_folder: Path,
    cluster: str,
    client: str,
    *,
    days: float = 825.0,
    not_before: datetime | None = None,
) -> Issued:
    """Issue a client's certificate: `cert.pem` and `key.pem` (mode 0600) in `out_folder`. It can neither serve nor
    speak as a node. Raises CertificateError as `issue_node` does."""
    usage = [ExtendedKeyUsageOID.CLIENT_AUTH]
    return _issue(ca_folder, out_folder, Identity("client", cluster, client), [], usage, days, not_before)


def _issue(
    ca_folder: Path,
    out_folder: Path,
    identity: Identity,
    names: list[x509.GeneralName],
    usage: list[x509.ObjectIdentifier],
    days: float,
    not_before: datetime | None,
) -> Issued:
    _require_cluster(identity.cluster)
    if not is_name(identity.name):
        raise CertificateError(
            f"{identity.role} name {identity.name!r} has a wrong form; it must be {NAME_FORM}"
        )
    authority, authority_key = _load_authority(ca_folder, identity.cluster)
    key = ec.generate_private_key(ec.SECP256R1())
    start, end = _validity(days, not_before)
    uri = f"ridethrough://{identity.cluster}/{identity.role}/{identity.name}"
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_subject(f"{identity.role} {identity.name}"))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri), *names]), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    return _write(out_folder, CERTIFICATE, KEY, certificate, key)


def _load_authority(folder: Path, cluster: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    info = inspect(folder / AUTHORITY)
    if info.kind != "authority":
        raise CertificateError(f"{info.path}: a {info.kind}'s certificate, not an authority's")
    if info.cluster != cluster:
        raise CertificateError(f"{info.path}: the authority of cluster {info.cluster}, not of {cluster}")
    problem = info.problem_at(datetime.now(UTC))
    if problem is not None:
        raise CertificateError(problem)
    key = _load_key(folder / AUTHORITY_KEY)
    certificate = x509.load_pem_x509_certificate(_read(folder / AUTHORITY))
    if key.public_key() != certificate.public_key():
        raise CertificateError(f"{folder / AUTHORITY_KEY} is not the key of {folder / AUTHORITY}")
    return certificate, key


def _require_cluster(cluster: str) -> None:
    if not is_cluster_id(cluster):
        raise CertificateError(f"cluster id {cluster!r} has a wrong form; it must be {CLUSTER_FORM}")


def _subject(text: str) -> x509.Name:
    # X.520 bounds a common name at 64 characters; who somebody is stands in the URI, this is for people.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _validity(days: float, not_before: datetime | None) -> tuple[datetime, datetime]:
    if not 0 < days < 36_525:
        raise CertificateError(
            f"a validity of {days!r} days makes no sense; give more than 0 and less than 36525"
        )
    # An hour back, so that a machine whose clock is a little behind accepts a certificate made just now.
    start = datetime.now(UTC) - timedelta(hours=1) if not_before is None else not_before
    end = (datetime.now(UTC) if not_before is None else not_before) + timedelta(days=days)
    return start, end


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _write(
    folder: Path,
    certificate_name: str,
    key_name: str,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
) -> Issued:
    issued = Issued(folder / certificate_name, folder / key_name)
    for path in (issued.key, issued.certificate):
        if path.exists() or path.is_symlink():
            raise CertificateError(
                f"{path} exists already and is not overwritten; choose another folder or remove it"
            )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_new(issued.key, private, 0o600)
        _write_new(issued.certificate, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    except OSError as error:
        raise CertificateError(f"cannot write {error.filename or folder}: {error.strerror}") from None
    return issued


def _write_new(path: Path, data: bytes, mode: int) -> None:
    # O_EXCL: of two that make the same file at once, one fails; the mode is there before the first byte is.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


# ------------------------------------------------------------------------------------------------ looking


def inspect(path: Path) -> CertificateInfo:
    """Read a certificate file. Raises CertificateError if it is missing, no certificate, or none of a cluster."""
    data = _read(path)
    try:
        certificate = x509.load_pem_x509_certificate(data)
        extensions = certificate.extensions
    except ValueError:
        raise CertificateError(f"{path}: not a certificate in PEM form") from None
    uris: list[str] = []
    hosts: list[str] = []
    try:
        for name in extensions.get_extension_for_class(x509.SubjectAlternativeName).value:
            if isinstance(name, x509.UniformResourceIdentifier):
                uris.append(name.value)
            elif isinstance(name, x509.DNSName | x509.IPAddress):
                hosts.append(str(name.value))
    except x509.ExtensionNotFound:
        pass
    dates = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    authority = [match for match in map(_URI.fullmatch, uris) if match is not None and match[2] is None]
    if len(authority) == 1 and len(uris) == 1:
        return CertificateInfo(path, "authority", authority[0][1], "", tuple(hosts), *dates, fingerprint)
    try:
        identity = identity_from_uris(uris)
    except CertificateError as error:
        raise CertificateError(f"{path}: {error}") from None
    return CertificateInfo(
        path, identity.role, identity.cluster, identity.name, tuple(hosts), *dates, fingerprint
    )


def check_files(
    ca: Path, certificate: Path, key: Path, *, cluster: str, role: Role, name: str | None = None
) -> tuple[list[str], list[str]]:
    """What keeps these three files from speaking for `role` (`name`, where given) in `cluster`.

    Returns (problems, warnings), each a sentence that names the file; no problem means TLS will start and the
    other side, if it has the same authority, will believe it."""
    problems: list[str] = []
    warnings: list[str] = []
    now = datetime.now(UTC)
    infos: dict[str, CertificateInfo] = {}
    for path, kind in ((ca, "authority"), (certificate, role)):
        try:
            info = inspect(path)
        except CertificateError as error:
            problems.append(str(error))
            continue
        infos[kind] = info
        if info.kind != kind:
            problems.append(f"{path}: a certificate of kind {info.kind}; one of kind {kind} is needed here")
        if info.cluster != cluster:
            problems.append(f"{path}: of cluster {info.cluster}, not of {cluster}")
        if kind == role and name is not None and info.kind == role and info.name != name:
            problems.append(f"{path}: speaks for {role} {info.name}, not for {name}")
        expired = info.problem_at(now)
        if expired is not None:
            problems.append(expired)
    if len(infos) == 2:
        own = x509.load_pem_x509_certificate(_read(certificate))
        try:
            own.verify_directly_issued_by(x509.load_pem_x509_certificate(_read(ca)))
        except Exception:
            problems.append(f"{certificate}: not issued by the authority {ca}")
    try:
        private = _load_key(key)
    except CertificateError as error:
        problems.append(str(error))
        return problems, warnings
    if (
        role in infos
        and private.public_key() != x509.load_pem_x509_certificate(_read(certificate)).public_key()
    ):
        problems.append(f"{key}: not the key of {certificate}")
    mode = key.stat().st_mode & 0o777
    if mode & 0o077:
        warnings.append(
            f"{key}: others than its owner can read or write it (mode {mode:04o}); run chmod 600 on it"
        )
    return problems, warnings


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(_read(path), None)
    except (ValueError, TypeError):
        raise CertificateError(f"{path}: not an unencrypted private key in PEM form") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"{path}: not an elliptic curve key")
    return key
