"""Confines itself and then becomes a tool server; a program of its own, run before the server's.

The node starts it as a new process by its file name, with orders in JSON, and with exactly the environment
that the server is to have. It takes from itself what the orders do not allow, in an order in which each step
still has the rights it needs, says in one line on standard error what the system could and could not do, and
executes the server's command. It uses the standard library only and imports nothing of the node: what runs
between the fork and the server has to be small.

What is taken away, by which means of Linux:

* resources: limits of the process (``setrlimit``), of processes where a user namespace makes them its own;
* privileges: ``no_new_privs``, no capabilities, a user namespace;
* files: Landlock, everything but what is named and what programs of the system need;
* network: a network namespace with nothing in it, or at least no TCP, by Landlock; where hosts are named,
  there is a relay in the namespace, which leads to the node's proxy (:mod:`node.tools.gateway`);
* other processes: signals and abstract sockets stay inside, by Landlock.

See landlock(7), user_namespaces(7), prctl(2), setrlimit(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import selectors
import shutil
import signal
import socket
import stat
import struct
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

MARK: Final = "caxton-launcher "
"""The one line of the launcher begins with it."""
NOT_STARTED: Final = 126
"""Exit status where the server was not started."""

SYSTEM: Final = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix", "/snap"),
    *("/etc/alternatives", "/etc/ca-certificates", "/etc/gai.conf", "/etc/group", "/etc/host.conf"),
    *("/etc/hosts", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime"),
    *("/etc/mime.types", "/etc/nsswitch.conf", "/etc/passwd", "/etc/pki", "/etc/protocols"),
    *("/etc/resolv.conf", "/etc/services", "/etc/ssl", "/run/systemd/resolve"),
    *("/proc/self", "/proc/cpuinfo", "/proc/filesystems", "/proc/loadavg", "/proc/meminfo", "/proc/stat"),
    *("/proc/uptime", "/proc/version", "/proc/sys/kernel", "/proc/sys/vm"),
    *("/sys/devices/system/cpu", "/sys/fs/cgroup"),
    *("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"),
)
"""What programs of the system read: no home, no secrets, no other process."""
WRITABLE: Final = ("/dev/null", "/dev/zero")

_NEW_USER, _NEW_NET, _NEW_IPC = 0x10000000, 0x40000000, 0x08000000
_SET_DEATH_SIGNAL, _SET_NO_NEW_PRIVS, _CAPBSET_DROP, _SET_SECUREBITS = 1, 38, 24, 28
_SET_FLAGS, _UP = 0x8914, 0x1 | 0x40  # of a network interface: up and running
_CHUNK: Final = 65_536
_NO_ROOT: Final = 0b11 | 0b1100_0000  # root is nobody special, no ambient capabilities, and both for good
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ: Final = 1 << 0 | 1 << 2 | 1 << 3  # execute, read a file, read a directory
_DEVICES: Final = 1 << 6 | 1 << 11
_OF_FILES: Final = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
_TCP: Final = 0b11
_SCOPES: Final = 0b11

_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inherited", ctypes.c_uint32),
    )


def main(orders: dict[str, Any]) -> None:
    """Confine this process as the orders say, report, and become the server; returns never.

    Args:
        orders: ``command`` (a list), ``cwd``, ``read``, ``write`` (lists of paths), ``network`` (yes or no),
            ``gate`` (the path of a socket, or none), ``limits`` (``memory``, ``open_files``, ``max_file``,
            ``processes``), ``require`` (yes or no).
    """
    missing: dict[str, str] = {}
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored_by_python, signal.SIG_DFL)
    os.umask(0o077)
    os.closerange(3, 65_536)
    program = _program(orders)
    inside = _isolate(network=orders["network"], missing=missing)
    if inside and orders["gate"]:
        _attempt("allowed_domains", lambda: _lead_out(orders["gate"]), missing)
    _limit(orders["limits"])
    _limit_processes(orders["limits"]["processes"], inside=inside, missing=missing)
    _attempt("privileges", _give_up_privileges, missing)
    _restrict(orders, program, closed=inside or orders["network"], missing=missing)
    if missing and orders["require"]:
        _refuse("this system cannot confine it: " + "; ".join(f"{k} ({w})" for k, w in missing.items()))
    _say({"missing": missing})
    try:
        os.execv(program, orders["command"])  # noqa: S606 - no shell is meant
    except OSError as error:
        _refuse(f"{program}: {error.strerror}")


def _program(orders: dict[str, Any]) -> str:
    """The file to execute, found while all of the system can still be seen."""
    try:
        os.chdir(orders["cwd"])
    except OSError as error:
        _refuse(f"the directory {orders['cwd']} cannot be entered: {error.strerror}")
    found = shutil.which(orders["command"][0])
    if found is None:
        _refuse(f"there is no program {orders['command'][0]!r} on the path")
    return os.path.abspath(str(found))  # noqa: PTH100 - a link is executed as itself


def _limit(limits: dict[str, int]) -> None:
    for kind, wanted in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, limits["max_file"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_AS, limits["memory"]),
    ):
        _, hard = resource.getrlimit(kind)
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (value, value))


def _limit_processes(wanted: int, *, inside: bool, missing: dict[str, str]) -> None:
    """Only in a user namespace does the limit count the server's own processes, and never those of root."""
    if os.getuid() == 0:
        missing["processes"] = "the system does not count those of root"
    elif not inside:
        missing["processes"] = "without a user namespace they would be counted with the node's own"
    else:
        resource.setrlimit(resource.RLIMIT_NPROC, (wanted, wanted))


def _isolate(*, network: bool, missing: dict[str, str]) -> bool:
    """Enter a user namespace, and with it a network of its own where none is allowed; whether it worked."""
    user, group = os.getuid(), os.getgid()
    flags = _NEW_USER | _NEW_IPC | (0 if network else _NEW_NET)

    def enter() -> None:
        _check(_libc.unshare(flags))
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:  # noqa: PTH123 - as small as can be
                file.write(text)

    return _attempt("namespace", enter, missing)


def _lead_out(gate: str) -> None:
    """Put a relay into the empty network that leads to the node's proxy, and tell the server of it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14s", b"lo", _UP, b""))
    listener = socket.create_server(("127.0.0.1", 0))
    if os.fork() == 0:
        try:
            _libc.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
            _give_up_privileges()
            null = os.open("/dev/null", os.O_RDWR)
            for number in range(3):
                os.dup2(null, number)
            _Relay(listener, gate).run()
        finally:
            os._exit(0)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        os.environ[name] = os.environ[name.lower()] = address
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ""
    os.environ["NODE_USE_ENV_PROXY"] = "1"  # Node.js heeds the others since version 24, when it is told to


class _Relay:
    """Carries connections to the proxy, and bytes both ways, in one thread; ends with the process.

    Of each direction it holds what it has read and not yet written, and reads on only when that is gone.
    """

    def __init__(self, listener: socket.socket, gate: str) -> None:
        self._listener, self._gate = listener, gate
        self._waiting = selectors.DefaultSelector()
        self._other: dict[socket.socket, socket.socket] = {}
        self._held: dict[socket.socket, bytes] = {}  # by the socket that it was read from

    def run(self) -> None:
        self._waiting.register(self._listener, selectors.EVENT_READ)
        while True:
            for key, _ in self._waiting.select():
                end = key.fileobj
                if end is self._listener:
                    self._accept()
                elif isinstance(end, socket.socket) and end in self._other:
                    self._carry(end)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            far.connect(self._gate)
        except OSError:
            near.close()
            far.close()
            return
        for end, other in ((near, far), (far, near)):
            end.setblocking(False)
            self._other[end], self._held[end] = other, b""
            self._waiting.register(end, selectors.EVENT_READ)

    def _carry(self, end: socket.socket) -> None:
        other = self._other[end]
        try:
            for source, target in ((end, other), (other, end)):
                if not self._held[source]:
                    with contextlib.suppress(BlockingIOError):
                        self._held[source] = source.recv(_CHUNK)
                        if not self._held[source]:
                            raise ConnectionResetError
                if self._held[source]:
                    with contextlib.suppress(BlockingIOError):
                        self._held[source] = self._held[source][target.send(self._held[source]) :]
        except OSError:
            for each in (end, other):
                self._wait(each, 0)
                del self._other[each], self._held[each]
                each.close()
            return
        for each in (end, other):
            reads = 0 if self._held[each] else selectors.EVENT_READ
            self._wait(each, reads | (selectors.EVENT_WRITE if self._held[self._other[each]] else 0))

    def _wait(self, end: socket.socket, events: int) -> None:
        if end in self._waiting.get_map():
            self._waiting.unregister(end)
        if events:
            self._waiting.register(end, events)


def _give_up_privileges() -> None:
    _check(_libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if _libc.prctl(_SET_SECUREBITS, _NO_ROOT, 0, 0, 0) == 0:  # not without capabilities, where it needs none
        for capability in range(64):
            if _libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0) != 0:
                break
    header, data = _CapHeader(0x20080522, 0), (_CapData * 2)()
    _check(_libc.capset(ctypes.byref(header), ctypes.byref(data)))


def _restrict(orders: dict[str, Any], program: str, *, closed: bool, missing: dict[str, str]) -> None:
    """Landlock: files in any case, and TCP where no namespace has closed the network."""
    version = _libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        missing["files"] = "this kernel has no Landlock"
    if not closed:
        missing["network"] = "only TCP is closed" if version >= 4 else "it is open"
    if version < 1:
        return
    if version < 6:
        missing["signals"] = "this kernel's Landlock does not know them"
    files = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    ruleset = _Ruleset(files, 0 if closed or version < 4 else _TCP, _SCOPES if version >= 6 else 0)
    size = ctypes.sizeof(_Ruleset) if version >= 6 else 16 if version >= 4 else 8

    def enforce() -> None:
        handle = _libc.syscall(_CREATE_RULESET, ctypes.byref(ruleset), size, 0)
        _check(handle)
        _allow(handle, (*SYSTEM, program, os.path.realpath(program), *orders["read"]), files & _READ)
        _allow(handle, WRITABLE, files & _OF_FILES)
        _allow(handle, orders["write"], files & ~_DEVICES)
        _check(_libc.syscall(_RESTRICT_SELF, handle, 0))
        os.close(handle)

    _attempt("files", enforce, missing)


def _allow(ruleset: int, paths: Iterable[str], access: int) -> None:
    for path in paths:
        try:
            parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # what is not there needs no right
        of_path = access if stat.S_ISDIR(os.fstat(parent).st_mode) else access & _OF_FILES
        _check(_libc.syscall(_ADD_RULE, ruleset, 1, ctypes.byref(_PathRule(of_path, parent)), 0))
        os.close(parent)


def _attempt(what: str, job: Callable[[], None], missing: dict[str, str]) -> bool:
    try:
        job()
    except OSError as error:
        missing[what] = error.strerror or "refused"
        return False
    return True


def _check(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _say(report: dict[str, Any]) -> None:
    os.write(2, (MARK + json.dumps(report) + "\n").encode())


def _refuse(why: str) -> None:
    _say({"refused": why})
    os._exit(NOT_STARTED)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
