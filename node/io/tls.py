"""Mutual TLS 1.3 over a byte stream, and who stands at its other end.

Both sides show a certificate of the cluster's authority (`node.io.certificates`). Host names are not compared:
a node is known by its name in the certificate, so that it may be reached under any address, a relay's among them.

The stream is our own and not trio's, because trio's keeps the alert of a failed handshake to itself, so that the
refused side never learns why. They are equally fast (about 190,000 messages of 256 bytes a second, both ends in one
process).
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Final

import trio

from node.io.certificates import CertificateError, Identity, identity_from_uris

HANDSHAKE_TIMEOUT_S: Final = 3.0
_RECORD: Final = 1 << 14
_READ: Final = 1 << 18

# OpenSSL's X509_V_ERR_* numbers whose text alone does not tell an operator what to do.
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_WRONG_AUTHORITY: Final = frozenset({2, 7, 18, 19, 20, 21, 30})
_WRONG_PURPOSE: Final = 26


class HandshakeError(Exception):
    """No connection: the other side could not be reached, is not who it should be, or does not accept us."""


def server_context(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """A node's side: shows `certificate`, and demands one of the authority `ca`. Raises CertificateError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Tickets save nothing on connections that stay for hours, and a server that sends some to a client which closes
    # at once gets a reset that hides the reason.
    context.num_tickets = 0
    return _load(context, ca, certificate, key)


def client_context(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """The side that connects, a node's or a client's. Raises CertificateError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = (
        False  # the node's name in the certificate is compared instead, in `peer_identity`
    )
    return _load(context, ca, certificate, key)


def _load(context: ssl.SSLContext, ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    for path in (ca, certificate, key):
        if not path.is_file():
            raise CertificateError(f"{path}: no such file")
    try:
        context.load_verify_locations(ca)
    except (ssl.SSLError, OSError) as error:
        raise CertificateError(f"{ca}: not a certificate in PEM form ({error})") from None
    try:
        context.load_cert_chain(certificate, key)
    except (ssl.SSLError, OSError) as error:
        raise CertificateError(
            f"{certificate} and {key}: not a certificate and its key in PEM form ({error})"
        ) from None
    return context


class TlsStream(trio.abc.HalfCloseableStream):
    """TLS over `transport`. One task may receive while others send: sends are serialised in here.

    The end of the transport counts as the end of the stream, with or without TLS's own farewell: frames carry their
    length, so that nothing cut off passes for whole, and a closed connection proves nothing anyhow."""

    def __init__(self, transport: trio.abc.Stream, context: ssl.SSLContext, *, server_side: bool) -> None:
        self.transport = transport
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._sending = trio.Lock()

    async def do_handshake(self) -> None:
        """Shake hands. Raises trio.BrokenResourceError from ssl.SSLError, after the other side has been told why."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLError as error:
                await self._flush()
                raise trio.BrokenResourceError from error
            else:
                await self._flush()
                return

    def peer_certificate(self) -> dict[str, Any]:
        """The other side's verified certificate, as `ssl.SSLSocket.getpeercert` describes it."""
        return dict(self._tls.getpeercert() or {})

    def version(self) -> str | None:
        """The protocol's version, `TLSv1.3`."""
        return self._tls.version()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Everything that has arrived (`max_bytes` is no more than a hint), b"" at the end."""
        read = self._tls.read
        while True:
            records: list[bytes] = []
            try:
                while record := read(_RECORD):
                    records.append(record)
                ended = True
            except ssl.SSLWantReadError:
                ended = False
            except ssl.SSLEOFError:
                ended = True
            except ssl.SSLError as error:
                if not records:
                    await self._flush()
                    raise trio.BrokenResourceError from error
                ended = False  # the same error comes again with the next call
            if records:
                await trio.lowlevel.checkpoint_if_cancelled()
                return records[0] if len(records) == 1 else b"".join(records)
            if ended:
                await trio.lowlevel.checkpoint()
                return b""
            await self._fill()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send. Raises trio.BrokenResourceError."""
        async with self._sending:
            if data:
                try:
                    written = self._tls.write(data)
                except ssl.SSLError as error:
                    raise trio.BrokenResourceError from error
                assert written == len(data), "a memory BIO takes everything"
            await self._send_outgoing()

    async def wait_send_all_might_not_block(self) -> None:
        """See trio.abc.SendStream."""
        await self.transport.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Send nothing more; the other side reads to the end."""
        async with self._sending:
            if isinstance(self.transport, trio.abc.HalfCloseableStream):
                await self.transport.send_eof()

    async def aclose(self) -> None:
        """Close the transport."""
        await self.transport.aclose()

    async def _fill(self) -> None:
        data = await self.transport.receive_some(_READ)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            async with self._sending:
                await self._send_outgoing()

    async def _send_outgoing(self) -> None:
        # Under the lock: what two tasks encrypted must leave in the order in which it was encrypted.
        data = self._outgoing.read()
        if data:
            await self.transport.send_all(data)


async def handshake(
    stream: trio.abc.Stream,
    context: ssl.SSLContext,
    *,
    server_side: bool,
    timeout_s: float = HANDSHAKE_TIMEOUT_S,
) -> TlsStream:
    """Shake hands on `stream`; it is closed if that fails. Raises HandshakeError."""
    secured = TlsStream(stream, context, server_side=server_side)
    try:
        with trio.fail_after(timeout_s):
            await secured.do_handshake()
    except trio.TooSlowError:
        await trio.aclose_forcefully(stream)
        raise HandshakeError(f"no TLS handshake within {timeout_s:g} s") from None
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        await close_after_reading(stream)
        raise HandshakeError(explain(error)) from None
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return secured


async def close_after_reading(stream: trio.abc.Stream, timeout_s: float = 0.5) -> None:
    """Close so that the other side reads our last words: closing with unread bytes waiting would send a reset, which
    wipes out what has not been read yet over there."""
    try:
        with trio.move_on_after(timeout_s):
            if isinstance(stream, trio.abc.HalfCloseableStream):
                await stream.send_eof()
                while await stream.receive_some(_READ):
                    pass
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
        pass
    finally:
        await trio.aclose_forcefully(stream)


def peer_identity(stream: TlsStream) -> Identity:
    """Who the other side's certificate speaks for, after the handshake. Raises HandshakeError."""
    try:
        names = stream.peer_certificate().get("subjectAltName", ())
        return identity_from_uris([value for kind, value in names if kind == "URI"])
    except CertificateError as error:
        raise HandshakeError(str(error)) from None


def explain(error: BaseException) -> str:
    """What a broken stream means, in words that say what to do."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError | OSError):
        cause = cause.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _explain_verification(cause)
    if isinstance(cause, ssl.SSLError):
        return _explain_alert(cause)
    if isinstance(cause, OSError):
        return f"connection lost: {(cause.strerror or str(cause)).lower()}"
    return str(error) or type(error).__name__


def _explain_verification(error: ssl.SSLCertVerificationError) -> str:
    code = error.verify_code
    if code == _EXPIRED:
        return "the other side's certificate has expired; issue a new one"
    if code == _NOT_YET_VALID:
        return "the other side's certificate is not valid yet; compare the clocks of both machines"
    if code in _WRONG_AUTHORITY:
        return (
            "the other side's certificate comes from another authority (wrong CA): it belongs to another cluster, or"
            " was made before this cluster's authority"
        )
    if code == _WRONG_PURPOSE:
        return "the other side's certificate is not made for this use: a client's certificate cannot serve"
    return f"the other side's certificate is not accepted: {error.verify_message}"


_REASONS: Final = {
    "TLSV1_ALERT_UNKNOWN_CA": "the other side does not know the authority of our certificate (wrong CA)",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the other side refuses our certificate: it has expired; issue a new one",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the other side refuses our certificate as bad",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "the other side refuses our certificate: it is not made for this use",
    "TLSV1_ALERT_DECRYPT_ERROR": "the other side refuses our certificate: its authority has our cluster's name but"
    " another key (wrong CA)",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the other side demands a certificate and got none",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the other side showed no certificate; nodes and clients must",
    "HTTP_REQUEST": "the other side speaks plain HTTP; this port takes TLS only",
    "WRONG_VERSION_NUMBER": "the other side does not speak TLS",
    "UNSUPPORTED_PROTOCOL": "the other side does not speak TLS 1.3",
    "NO_PROTOCOLS_AVAILABLE": "the other side does not speak TLS 1.3",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the other side does not speak TLS 1.3",
}


def _explain_alert(error: ssl.SSLError) -> str:
    reason = error.reason or ""
    if isinstance(error, ssl.SSLEOFError) or reason == "UNEXPECTED_EOF_WHILE_READING":
        return "the other side closed the connection in the middle of TLS"
    return _REASONS.get(reason) or f"TLS: {reason or error}"
