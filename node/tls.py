"""TLS over a stream, made for frames: one call reads all that has arrived.

``trio.SSLStream`` gives one record (16 KiB at most) for each call, and each call is a pass of the event loop.
On a busy node a pass takes a millisecond, so a link would carry some hundred records a second however many
wait: whoever is behind must find more at once. Here a call decrypts whatever its one read of the socket has
brought. The state machine is OpenSSL's (:class:`ssl.SSLObject` between two memory buffers), as there.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Final

import trio

REFILL_BYTES: Final = 131_072
"""Most encrypted bytes taken from the socket in one read."""


class TlsStream(trio.abc.Stream):
    """An encrypted stream; :meth:`do_handshake` comes first.

    One task may read and others may write at the same time; what two tasks write is not mixed.

    Args:
        transport: What it runs over, which it owns from now on.
        context: Who this is, and who is trusted.
        server_side: Whether the other side begins.
    """

    def __init__(
        self, transport: trio.abc.Stream, context: ssl.SSLContext, *, server_side: bool = False
    ) -> None:
        self._transport = transport
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._sending = trio.StrictFIFOLock()
        self._broken = self._ended = False

    async def do_handshake(self) -> None:
        """Authenticate both sides.

        Raises:
            trio.BrokenResourceError: it failed; its cause says why.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._refill()
            except ssl.SSLError as error:
                self._broken = True
                raise trio.BrokenResourceError from error
            else:
                break
        await self._flush()

    def getpeercert(self) -> bytes:
        """The leaf certificate that the peer has shown (DER), or nothing."""
        return self._tls.getpeercert(binary_form=True) or b""

    def version(self) -> str:
        """The protocol's name, such as ``TLSv1.3``."""
        return self._tls.version() or ""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send; raises trio.BrokenResourceError as other streams do."""
        if self._broken:
            raise trio.BrokenResourceError("an earlier send was cut off")
        try:
            if data:  # OpenSSL calls an empty write an error
                self._tls.write(data)
        except ssl.SSLError as error:
            self._broken = True
            raise trio.BrokenResourceError from error
        await self._flush()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the transport takes something."""
        await self._transport.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """All that has arrived, or ``max_bytes`` of it; nothing once the peer has closed its side.

        Raises:
            trio.BrokenResourceError: the connection ended without a farewell, or was tampered with.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        has_waited = False
        while True:
            found = self._decrypted(REFILL_BYTES if max_bytes is None else max_bytes)
            if self._outgoing.pending and not self._sending.locked():  # the answer to a change of keys
                await self._flush()
                has_waited = True
            if found or self._ended:
                if not has_waited:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return found
            await self._refill()
            has_waited = True

    async def aclose(self) -> None:
        """Say farewell if the transport takes it at once or in time, and close it."""
        try:
            if not self._broken:
                self._broken = True
                with suppress(ssl.SSLError):  # it waits for the peer's farewell, which nobody needs
                    self._tls.unwrap()
                await self._flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await self._transport.aclose()

    def _decrypted(self, most: int) -> bytes:
        """What is there, up to a bound; notes when it was the last."""
        pieces: list[bytes] = []
        size = 0
        try:
            while size < most:
                piece = self._tls.read(most - size)
                if not piece:
                    self._ended = True
                    break
                pieces.append(piece)
                size += len(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._ended = True
        except ssl.SSLError as error:
            if not pieces:  # else the next call says so
                self._broken = True
                raise trio.BrokenResourceError from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _refill(self) -> None:
        data = await self._transport.receive_some(REFILL_BYTES)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        """Send what OpenSSL has to say."""
        try:
            self._sending.acquire_nowait()
        except trio.WouldBlock:
            await self._sending.acquire()
        try:
            data = self._outgoing.read()
            if data:
                await self._transport.send_all(data)
        except BaseException:
            self._broken = True  # part of a record may be gone
            raise
        finally:
            self._sending.release()
