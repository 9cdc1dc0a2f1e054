"""Network namespaces without names: the kernel removes them with the last process that is inside.

``ip netns`` gives a namespace a name by mounting it, and a mount outlives whoever made it. Here a namespace
is an open file: when this process ends, however it ends, its files close, the kernel ends the nodes that it
has started (:mod:`simulations.twin.process`), and nothing is left to be found and removed.

A thread enters a namespace with ``setns`` and goes back; what it starts or opens meanwhile stays inside.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from node.errors import CaxtonError

CLONE_NEWNET: Final = 0x4000_0000
CLONE_NEWUSER: Final = 0x1000_0000
COMMAND_S: Final = 20.0
"""Longest time a command of the system may take."""
OUTPUT_LIMIT: Final = 500
"""Characters of what a command says that are told."""
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_OWN: Final = "/proc/thread-self/ns/net"


class CommandFailed(CaxtonError):
    """A command of the system has said no."""

    code = "COMMAND_FAILED"


def may_unshare(*, user: bool = False) -> str:
    """Whether this process may have a network namespace of its own.

    Args:
        user: Move this process into a user namespace first, in which it has the rights that it lacks outside.
            There is no way back, and no other thread may run.

    Returns:
        Why not; nothing if it may.
    """
    try:
        if user:
            _become_root_inside()
        home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call("unshare", CLONE_NEWNET)
            if not user:
                _call("setns", home, CLONE_NEWNET)  # inside a user namespace the old one is out of reach
        finally:
            os.close(home)
    except OSError as error:
        return f"unshare: {error.strerror}"
    return ""


def _become_root_inside() -> None:
    user, group = os.geteuid(), os.getegid()
    _call("unshare", CLONE_NEWUSER)
    own = Path("/proc/self")
    (own / "setgroups").write_text("deny", encoding="ascii")
    (own / "uid_map").write_text(f"0 {user} 1", encoding="ascii")
    (own / "gid_map").write_text(f"0 {group} 1", encoding="ascii")


class Namespace:
    """One network namespace; it is there until :meth:`close`.

    Args:
        name: For people.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call("unshare", CLONE_NEWNET)
            try:
                self._file: int | None = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
            finally:
                _call("setns", home, CLONE_NEWNET)
        finally:
            os.close(home)

    @property
    def file(self) -> int:
        """Its open file, for a child process that names it by ``/proc/self/fd``.

        Raises:
            ValueError: it is closed.
        """
        if self._file is None:
            raise ValueError(f"the namespace {self.name} is closed")
        return self._file

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is inside; it must not wait for anything but its own calls."""
        home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call("setns", self.file, CLONE_NEWNET)
            try:
                yield
            finally:
                _call("setns", home, CLONE_NEWNET)
        finally:
            os.close(home)

    def run(
        self, command: Sequence[str], text: str = "", *, files: Sequence[int] = (), check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside and wait for it.

        Args:
            command: And its arguments.
            text: Its standard input.
            files: Open files that it inherits.
            check: Whether it must succeed.

        Raises:
            CommandFailed: it is not there, takes too long, or fails though it must not.
        """
        try:
            with self.entered():
                done = subprocess.run(  # noqa: S603 - tools of the system, arguments of our own
                    command,
                    input=text,
                    capture_output=True,
                    text=True,
                    timeout=COMMAND_S,
                    pass_fds=files,
                    check=False,
                )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CommandFailed(f"{command[0]} cannot be run", why=str(error)[:OUTPUT_LIMIT]) from error
        if check and done.returncode:
            why = " ".join((done.stderr or done.stdout).split())[:OUTPUT_LIMIT]
            raise CommandFailed(f"{' '.join(command)} failed for {self.name}", why=why)
        return done

    def socket(self) -> socket.socket:
        """A TCP socket inside, not connected."""
        with self.entered():
            return socket.socket(socket.AF_INET, socket.SOCK_STREAM)

    def close(self) -> None:
        """Let it go; the kernel removes it when nobody else is inside."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _call(name: str, *arguments: int) -> None:
    if getattr(_LIBC, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
