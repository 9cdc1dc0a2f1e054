"""A small real network and clock for the driver's tests: loopback sockets, real time."""

# ruff: noqa: TID251 (the network and the clock that the driver is handed are real here)

import time

import trio

from swim.messages import Address


class RealDatagrams:
    def __init__(self, socket: trio.socket.SocketType) -> None:
        self._socket = socket

    @property
    def address(self) -> Address:
        host, port = self._socket.getsockname()[:2]
        return (host, port)

    async def send(self, data: bytes, to: Address) -> None:
        await self._socket.sendto(data, to)

    async def receive(self) -> tuple[bytes, Address]:
        data, source = await self._socket.recvfrom(65_536)
        return data, (source[0], source[1])

    def close(self) -> None:
        self._socket.close()


class RealListener:
    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener

    @property
    def address(self) -> Address:
        host, port = self._listener.socket.getsockname()[:2]
        return (host, port)

    async def accept(self) -> trio.abc.Stream:
        return await self._listener.accept()

    async def aclose(self) -> None:
        await self._listener.aclose()


class RealNetwork:
    async def open_datagrams(self, host: str, port: int) -> RealDatagrams:
        socket = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
        try:
            await socket.bind((host, port))
        except OSError:
            socket.close()
            raise
        return RealDatagrams(socket)

    async def listen(self, host: str, port: int) -> RealListener:
        (listener,) = await trio.open_tcp_listeners(port, host=host)
        return RealListener(listener)

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        return await trio.open_tcp_stream(host, port)

    async def resolve(self, host: str, port: int) -> list[Address]:
        return [(host, port)]


class RealClock:
    def now(self) -> float:
        return trio.current_time()

    def wall(self) -> float:
        return time.time()

    async def sleep_until(self, deadline: float) -> None:
        await trio.sleep_until(deadline)

    def move_on_after(self, seconds: float) -> trio.CancelScope:
        return trio.move_on_after(seconds)
