"""A client that reads the answer while it still sends, as httpx does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h11
import trio

from tests.node.http.fakes import ADMIN, TrioClock, World


@contextmanager
def soon(limit_s: float = 20.0) -> Iterator[None]:
    """What has to happen in real time, and has no excuse to take this long."""
    with TrioClock().move_on_after(limit_s) as limit:
        yield
    assert not limit.cancelled_caught, f"it did not happen within {limit_s} s"


class Duplex:
    """One request on a connection of its own; reads lines, or the events of a stream of events."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.connection = h11.Connection(h11.CLIENT)
        self.status = 0
        self.headers: dict[str, str] = {}
        self._rest = b""
        self.ended = False

    @classmethod
    async def open(
        cls, world: World, port: int, method: str, path: str, *, token: str = ADMIN, **headers: str
    ) -> Duplex:
        made = cls(await world.environment.network.connect("127.0.0.1", port))
        named = {
            "Host": "x",
            "Authorization": f"Bearer {token}",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        if method == "POST":
            named["Transfer-Encoding"] = "chunked"
        request = h11.Request(method=method, target="/api/v1" + path, headers=list(named.items()))
        await made.stream.send_all(made.connection.send(request) or b"")
        if method != "POST":
            await made.end()
        return made

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(self.connection.send(h11.Data(data=data)) or b"")

    async def end(self) -> None:
        await self.stream.send_all(self.connection.send(h11.EndOfMessage()) or b"")

    async def close(self) -> None:
        await trio.aclose_forcefully(self.stream)

    async def line(self, end: bytes = b"\n") -> bytes | None:
        """The next line of the body, or None at its end."""
        with soon():
            while end not in self._rest:
                if not await self._more():
                    return None
        line, _, self._rest = self._rest.partition(end)
        return line

    async def json(self) -> Any:
        line = await self.line()
        return None if line is None else json.loads(line)

    async def rest(self) -> list[Any]:
        found = []
        while (value := await self.json()) is not None:
            found.append(value)
        return found

    async def event(self) -> dict[str, Any] | None:
        """The next server-sent event by its fields, ``data`` decoded, without comments; None at the end."""
        while (block := await self.line(b"\n\n")) is not None:
            pairs = [line.partition(b": ")[::2] for line in block.split(b"\n") if not line.startswith(b":")]
            if pairs:
                fields: dict[str, Any] = {name.decode(): value.decode() for name, value in pairs}
                return fields | {"data": json.loads(fields["data"])} if "data" in fields else fields
        return None

    async def _more(self) -> bool:
        while True:
            event = self.connection.next_event()
            if event is h11.NEED_DATA:
                self.connection.receive_data(await self.stream.receive_some())
            elif isinstance(event, h11.Response):
                self.status = event.status_code
                self.headers = {name.decode(): value.decode() for name, value in event.headers}
                if self._rest or event.status_code >= 300:
                    continue
            elif isinstance(event, h11.Data):
                self._rest += bytes(event.data)
                return True
            else:
                self.ended = True
                return False
