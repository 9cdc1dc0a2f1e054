"""Runs the steps of the Dockerfile without a container engine, and shows that they end in a healthy node.

    python3 -m configs.deployment.run_dockerfile            as root, with debootstrap, on Linux

The base image is made by debootstrap; each step runs in it under chroot; the entry point is started as the
image's user in a network of its own; the node is healthy when the image's own HEALTHCHECK says so, and is
then stopped as a container engine stops it. All of it happens in mount and process namespaces of its own,
which the kernel takes down with the last process, however that ends; only then is the root removed.
"""

# It prints, it measures real time, and its subprocesses and their arguments are its own.
# ruff: noqa: S603, S607, T201, TID251

from __future__ import annotations

import argparse
import ctypes
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from configs.deployment import dockerfile, host_settings
from configs.deployment.dockerfile import DockerfileInvalid, Instruction

PROJECT: Final = Path(__file__).resolve().parents[2]
TOOLS: Final = ("debootstrap", "unshare", "mount", "tar")
EXPORTED_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The PATH that every image begins with."""

STOP_S: Final = 10.0
"""Time a container engine gives a container to end before it kills it."""
POLL_S: Final = 0.25

_NEW_NETWORK: Final = 0x40000000  # CLONE_NEWNET, linux/sched.h
_GET_FLAGS: Final = 0x8913  # SIOCGIFFLAGS
_SET_FLAGS: Final = 0x8914  # SIOCSIFFLAGS
_UP: Final = 0x1  # IFF_UP
_SLIM: Final = """\
# As in Debian's slim images.
force-unsafe-io
path-exclude /usr/share/doc/*
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/man/*
"""


class StepFailed(Exception):
    """A step of the Dockerfile, or the node that they made, did not do what it should."""


@dataclass(slots=True)
class Image:
    """What the instructions have made so far.

    Args:
        root: The root file system.
        context: The build context.
        host: What steps need besides the image's own environment to reach packages.
    """

    root: Path
    context: Path
    host: Mapping[str, str]
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": EXPORTED_PATH})
    arguments: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "root"
    ports: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    health_timeout_s: float = 30.0
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    def apply(self, instruction: Instruction) -> None:
        """Do what one instruction says.

        Raises:
            DockerfileInvalid: it says something wrong.
            StepFailed: its command failed.
        """
        step: Callable[[Instruction], None] = getattr(self, f"_{instruction.name.lower()}")
        step(instruction)

    def expand(self, text: str) -> str:
        """Replace variables by build arguments and environment."""
        return dockerfile.expand(text, self.arguments | self.environment)

    def inside(self, path: str) -> Path:
        """A path of the image, as this process sees it."""
        return self.root / str(PurePosixPath("/", self.workdir, path)).lstrip("/")

    def popen(
        self, command: Sequence[str], environment: Mapping[str, str], *, output: int | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command in the image, as its user, in its working directory."""
        uid, gid, home = self.identity(self.user)

        def enter() -> None:
            os.chroot(self.root)
            os.chdir(self.workdir)
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)

        return subprocess.Popen(
            command,
            env={"HOME": home, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            preexec_fn=enter,  # noqa: PLW1509 - no threads here; only so can chroot precede setuid
            start_new_session=True,
        )

    def identity(self, text: str) -> tuple[int, int, str]:
        """User id, group id and home of ``USER[:GROUP]``, by the image's own tables.

        Raises:
            StepFailed: there is no such user or group.
        """
        name, _, group = text.partition(":")
        users = {row[0]: row for row in self._table("passwd")}
        users |= {row[2]: row for row in self._table("passwd")}
        groups = {row[0]: int(row[2]) for row in self._table("group")}
        if name not in users or (group and group not in groups and not group.isdigit()):
            raise StepFailed(f"the image has no user {text!r}")
        row = users[name]
        return int(row[2]), groups.get(group, int(group) if group else int(row[3])), row[5]

    def _table(self, name: str) -> list[list[str]]:
        text = (self.root / "etc" / name).read_text(encoding="utf-8")
        return [line.split(":") for line in text.splitlines()]

    def _from(self, instruction: Instruction) -> None:
        """Nothing to do: the root is there when the steps begin."""

    def _arg(self, instruction: Instruction) -> None:
        name, equals, default = instruction.value.partition("=")
        if not equals:
            raise instruction.refuse("only arguments with a default are known")
        self.arguments[name] = self.expand(default)

    def _env(self, instruction: Instruction) -> None:
        self.environment |= dockerfile.assignments(instruction, self.arguments | self.environment)

    def _workdir(self, instruction: Instruction) -> None:
        self.workdir = str(PurePosixPath("/", self.workdir, self.expand(instruction.value)))
        self.inside(".").mkdir(parents=True, exist_ok=True)

    def _copy(self, instruction: Instruction) -> None:
        ignore_file = self.context / ".dockerignore"
        ignore = dockerfile.Ignore(ignore_file.read_text(encoding="utf-8") if ignore_file.exists() else "")
        step = Instruction("COPY", self.expand(instruction.value), instruction.flags, instruction.line)
        owner = self.identity(self.expand(step.flags.get("chown", "root")))[:2]
        for source, target in dockerfile.copies(step, list(ignore.files(self.context))):
            place = self.inside(target)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.context / source, place, follow_symlinks=False)
            os.chown(place, *owner, follow_symlinks=False)

    def _run(self, instruction: Instruction) -> None:
        process = self.popen(instruction.command, {**self.arguments, **self.host, **self.environment})
        if process.wait() != 0:
            raise StepFailed(f"line {instruction.line}: RUN ended with {process.returncode}")

    def _user(self, instruction: Instruction) -> None:
        self.user = self.expand(instruction.value)

    def _expose(self, instruction: Instruction) -> None:
        self.ports += self.expand(instruction.value).split()

    def _volume(self, instruction: Instruction) -> None:
        for path in instruction.words:
            self.inside(self.expand(path)).mkdir(parents=True, exist_ok=True)

    def _healthcheck(self, instruction: Instruction) -> None:
        self.health = dockerfile.health_command(instruction)
        self.health_timeout_s = dockerfile.duration_s(instruction.flags.get("timeout", "30s"))

    def _entrypoint(self, instruction: Instruction) -> None:
        self.entrypoint = instruction.command

    def _cmd(self, instruction: Instruction) -> None:
        self.command = instruction.command


def main() -> int:
    """Run the program; the exit status is 0 when the node was healthy and ended well."""
    options = _options()
    missing = missing_on_this_machine()
    if missing:
        print(f"cannot run here: {missing}", file=sys.stderr)
        return 2
    if options.inside is not None:
        return _guarded(options)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    root = Path(tempfile.mkdtemp(prefix="caxton-root-", dir=options.work))
    root.chmod(0o755)
    # A process of its own, so that the mounts are gone for certain when the root is removed.
    again = [sys.executable, "-m", "configs.deployment.run_dockerfile", *sys.argv[1:], "--inside", str(root)]
    namespaces = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    try:
        return subprocess.run([*namespaces, *again], cwd=PROJECT, check=False).returncode
    finally:
        _remove(root)


def missing_on_this_machine() -> str:
    """What this machine lacks to run the steps; empty if nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"needs {', '.join(absent)}" if absent else ""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the Dockerfile's steps in a bare root file system.")
    parser.add_argument("--dockerfile", type=Path, default=PROJECT / "Dockerfile")
    parser.add_argument("--context", type=Path, default=PROJECT)
    parser.add_argument("--cache", type=Path, help="directory that keeps the bare root between runs")
    parser.add_argument("--work", type=Path, help="directory for the root, some 1 GB")
    parser.add_argument("--healthy-within", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in ("dockerfile", "context", "cache", "work"):
        if getattr(options, name) is not None:
            setattr(options, name, getattr(options, name).resolve())
    return options


def _guarded(options: argparse.Namespace) -> int:
    try:
        _run_inside(options)
    except (DockerfileInvalid, StepFailed, OSError, subprocess.CalledProcessError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


def _run_inside(options: argparse.Namespace) -> None:
    """Everything between the namespaces and their end."""
    root: Path = options.inside
    instructions = dockerfile.parse(options.dockerfile.read_text(encoding="utf-8"))
    suite = next(dockerfile.suite(step) for step in instructions if step.name == "FROM")
    with _timed(f"debootstrap {suite}"):
        _make_base(root, suite, options.cache)
    for kind, place in (("proc", "proc"), ("tmpfs", "run"), ("tmpfs", "tmp")):
        subprocess.run(["mount", "-t", kind, kind, root / place], check=True)
    (root / "tmp").chmod(0o1777)
    subprocess.run(["mount", "--bind", "/dev", root / "dev"], check=True)
    image = Image(root, options.context, host_settings.Settings(root).environment())
    for step in instructions:
        with _timed(f"line {step.line}: {step.name} {step.value}"):
            image.apply(step)
    _use_loopback_only()
    with _timed("the node, from its start to its end"):
        _run_node(image, options.healthy_within)


def _make_base(root: Path, suite: str, cache: Path | None) -> None:
    """Fill ``root`` with what the base image has."""
    archives = host_settings.sources(suite)
    tarball = None if cache is None else cache / f"debian-{suite}-minbase.tar"
    if tarball is not None and tarball.exists():
        subprocess.run(["tar", "--numeric-owner", "-xpf", tarball, "-C", root], check=True)
    else:
        command = ["debootstrap", "--variant=minbase", suite, str(root), archives[0].uri]
        environment = {**host_settings.proxies(), **os.environ}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = done.stdout[-2000:] + done.stderr[-2000:]
            raise StepFailed(f"debootstrap ended with {done.returncode}:\n{said}")
        if tarball is not None:
            tarball.parent.mkdir(parents=True, exist_ok=True)
            part = tarball.with_suffix(".part")
            subprocess.run(["tar", "--numeric-owner", "-cpf", part, "-C", root, "."], check=True)
            part.replace(tarball)
    (root / "etc/dpkg/dpkg.cfg.d/slim").write_text(_SLIM, encoding="utf-8")
    (root / "etc/apt/sources.list").write_text(host_settings.sources_list(archives), encoding="utf-8")
    for name in ("resolv.conf", "hosts"):
        shutil.copyfile(Path("/etc") / name, root / "etc" / name)


def _use_loopback_only() -> None:
    """Leave the machine's network for an empty one, so that the image's ports are free and stay unseen.

    Raises:
        OSError: the system does not allow it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NETWORK) != 0:
        raise OSError(ctypes.get_errno(), "cannot make a network namespace")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = fcntl.ioctl(any_socket, _GET_FLAGS, struct.pack("16sH14x", b"lo", 0))
        flags = struct.unpack_from("H", asked, 16)[0]
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sH14x", b"lo", flags | _UP))


def _run_node(image: Image, healthy_within_s: float) -> None:
    """Start the entry point, wait until it is healthy, and stop it.

    Raises:
        StepFailed: it ended, did not become healthy, left a port closed, or did not end well.
    """
    if not image.health:
        raise StepFailed("the Dockerfile has no HEALTHCHECK to ask")
    node = image.popen([*image.entrypoint, *image.command], image.environment)
    try:
        _wait_until_healthy(image, node, healthy_within_s)
        for port in image.ports:
            number, _, protocol = port.partition("/")
            if protocol in ("", "tcp"):
                socket.create_connection(("127.0.0.1", int(number)), timeout=5).close()
        print(f"exposed and open: {', '.join(image.ports)}")
        node.send_signal(signal.SIGTERM)
        status = node.wait(STOP_S)
    except subprocess.TimeoutExpired:
        raise StepFailed(f"the node did not end within {STOP_S:g} s of SIGTERM") from None
    finally:
        node.kill()
    if status != 0:
        raise StepFailed(f"the node ended with {status} after SIGTERM")
    print("stopped by SIGTERM, exit status 0")


def _wait_until_healthy(image: Image, node: subprocess.Popen[bytes], within_s: float) -> None:
    began = time.monotonic()
    said = b""
    while time.monotonic() - began < within_s:
        if node.poll() is not None:
            raise StepFailed(f"the node ended with {node.returncode} before it was healthy")
        check = image.popen(image.health, image.environment, output=subprocess.PIPE)
        try:
            said = check.communicate(timeout=image.health_timeout_s)[0]
        except subprocess.TimeoutExpired:
            check.kill()
        if check.wait() == 0:
            print(f"healthy after {time.monotonic() - began:.1f} s: {said.decode(errors='replace').strip()}")
            return
        time.sleep(POLL_S)
    last = said.decode(errors="replace")[-1000:]
    raise StepFailed(f"the node was not healthy within {within_s:g} s; the last check said:\n{last}")


class _timed:  # noqa: N801 - used as a verb
    """Prints a step and how long it took."""

    def __init__(self, title: str) -> None:
        self._title = " ".join(title.split())[:100]

    def __enter__(self) -> None:
        self._began = time.monotonic()
        print(f"--- {self._title}", flush=True)

    def __exit__(self, *failure: object) -> None:
        print(f"    {time.monotonic() - self._began:.1f} s", flush=True)


def _remove(root: Path) -> None:
    """Remove a root, unless something is still mounted in it: then removing would reach beyond it."""
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    if any(line.split()[4].startswith(f"{root}/") for line in mounts):
        print(f"{root} still has mounts; unmount and remove it by hand", file=sys.stderr)
        return
    shutil.rmtree(root)


if __name__ == "__main__":
    sys.exit(main())
