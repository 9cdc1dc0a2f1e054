"""A small real network and clock for the driver's tests: loopback sockets, real time."""

# ruff: noqa: TID251 (the network and the clock that the driver is handed are real here)

import socket
import time

import trio

from swim.loop_lag import LoopLag, TrioLoopLag
from swim.messages import Address


class RealDatagrams:
    def __init__(self, bound: socket.socket) -> None:
        self._socket = bound

    @property
    def address(self) -> Address:
        host, port = self._socket.getsockname()[:2]
        return (host, port)

    def send(self, data: bytes, to: Address) -> None:
        self._socket.sendto(data, to)

    async def receive(self) -> list[tuple[bytes, Address]]:
        await trio.lowlevel.wait_readable(self._socket)
        try:
            data, source = self._socket.recvfrom(65_536)
        except BlockingIOError:
            return []
        return [(data, (source[0], source[1]))]

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
        bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        bound.setblocking(False)
        try:
            bound.bind((host, port))
        except OSError:
            bound.close()
            raise
        return RealDatagrams(bound)

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

    def loop_lag(self) -> LoopLag:
        return TrioLoopLag(self.now)
