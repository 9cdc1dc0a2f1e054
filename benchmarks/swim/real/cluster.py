"""Processes of one system on loopback: started, told to join, killed, and their journals read.

Each member is steered by its standard input (see `peer`), so all of them end when this process does, however
it does. Only processes that were started here are ever signalled, by the handle they were started with.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.report import PROJECT

POLL_S: Final = 0.2
"""How often journals are read; the times in the results are the journals' own, so this only delays."""
START_S: Final = 120.0
"""All processes are up within this, or the run fails."""
MEMBERLIST: Final = Path(__file__).with_name("memberlist")
NS: Final = 1e9

Command = Callable[[str, Sequence[str], Path, Path], list[str]]
"""From name, seeds, directory of keys and journal to the command line of one member."""


class RunFailed(Exception):
    """A run cannot be used: a member did not start, or ended without being told to."""


@dataclass(frozen=True, slots=True)
class System:
    """What is measured.

    Attributes:
        name: as in tables and CSV.
        command: starts one member.
    """

    name: str
    command: Command


def caxton_system(*, profile: str, loss: float, random_seed: int) -> System:
    """Members of this project: `benchmarks.swim.real.peer`."""
    fixed = ["--profile", profile, "--loss", str(loss), "--random-seed", str(random_seed)]
    start = [sys.executable, "-m", "benchmarks.swim.real.peer"]
    return System("caxton", _command([*start, *fixed]))


def memberlist_system(binary: Path, *, loss: float, random_seed: int) -> System:
    """Members of memberlist: the Go program in `memberlist/`."""
    return System(
        "memberlist", _command([str(binary), "--loss", str(loss), "--random-seed", str(random_seed)])
    )


def build_memberlist(directory: Path) -> Path:
    """Build the Go program and return where it is.

    Raises:
        RunFailed: without a Go compiler, or when it does not build.
    """
    binary = directory / "memberlistpeer"
    try:
        subprocess.run(
            ["go", "build", "-buildvcs=false", "-o", str(binary), "."],
            cwd=MEMBERLIST,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise RunFailed(f"memberlist was not built: {error}; Go 1.25 or later is needed") from error
    return binary


def memberlist_version() -> str:
    """The version that `memberlist/go.mod` requires."""
    words = (MEMBERLIST / "go.mod").read_text(encoding="utf-8").split()
    return words[words.index("github.com/hashicorp/memberlist") + 1]


def _command(start: list[str]) -> Command:
    def command(name: str, seeds: Sequence[str], keys: Path, journal: Path) -> list[str]:
        options = ["--name", name, "--keys", str(keys), "--journal", str(journal)]
        return [*start, *options, *(word for seed in seeds for word in ("--seed", seed))]

    return command


@dataclass(slots=True)
class Peer:
    """One member, and what its journal has told so far.

    Attributes:
        name: the member's name.
        process: its process.
        journal: the file it writes to.
        started_ns: when the process was created. All times are nanoseconds of CLOCK_MONOTONIC.
        address: where it listens, once it is ready.
        ready_ns: when it was ready.
        killed_ns: when it was killed, if it was.
        up: whom it holds to be up, itself excepted.
        joined: for each member, when it was held to be up, every time.
        died: for each member, when it was held to be dead, every time.
        accused: whom it accused after a failed probe of its own, and when.
        counters: the lines with counters.
        counts: how often each kind of event was told.
    """

    name: str
    process: subprocess.Popen[bytes]
    journal: Path
    started_ns: int
    address: str = ""
    ready_ns: int = 0
    killed_ns: int | None = None
    up: set[str] = field(default_factory=set)
    joined: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    died: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    accused: list[tuple[int, str]] = field(default_factory=list)
    counters: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    _offset: int = 0

    def read(self) -> None:
        """Take what the journal has that is new, whole lines only."""
        try:
            with self.journal.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for text in whole.splitlines():
            self._take(json.loads(text))

    def counters_at(self, when_ns: int) -> dict[str, Any]:
        """The last counters written before a time.

        Raises:
            RunFailed: if there are none.
        """
        earlier = [line for line in self.counters if line["t"] <= when_ns]
        if not earlier:
            raise RunFailed(f"{self.name} has written no counters in time")
        return earlier[-1]

    def _take(self, line: dict[str, Any]) -> None:
        event, when = line["event"], line["t"]
        self.counts[event] += 1
        if event == "counters":
            self.counters.append(line)
        elif event == "joined":
            self.up.add(line["member"])
            self.joined[line["member"]].append(when)
        elif event in {"died", "left"}:
            self.up.discard(line["member"])
            self.died[line["member"]].append(when)
        elif event == "suspected":
            if line["author"] == self.name:
                self.accused.append((when, line["member"]))
        elif event == "ready":
            self.address, self.ready_ns = line["address"], when


class Cluster:
    """The members of one run, as a context manager that leaves no process behind.

    Args:
        system: what to start.
        directory: for journals and logs, empty.
        keys: the directory with the keys.
    """

    def __init__(self, system: System, directory: Path, keys: Path) -> None:
        self.system = system
        self.peers: list[Peer] = []
        self._directory = directory
        self._keys = keys

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self.peers:
            if peer.process.poll() is None:
                peer.process.kill()
        for peer in self.peers:
            peer.process.wait()
            if peer.process.stdin is not None:
                peer.process.stdin.close()

    @property
    def living(self) -> list[Peer]:
        """Those that were not killed."""
        return [peer for peer in self.peers if peer.killed_ns is None]

    def start(self, members: int, stagger_s: float) -> None:
        """Start so many members, one after the other, and return when all listen.

        The first one is the seed of all others.

        Raises:
            RunFailed: if one does not start.
        """
        self._start_one(0, [])
        self.wait(self._all_are_ready, START_S)
        for number in range(1, members):
            self._start_one(number, [self.peers[0].address])
            time.sleep(stagger_s)
        if self.wait(self._all_are_ready, START_S) is None:
            raise RunFailed(f"not all members listen after {START_S:g} s:{self._logs()}")

    def tell_to_join(self) -> int:
        """Let all members join at once, and return when."""
        now_ns = time.monotonic_ns()
        for peer in self.peers:
            if peer.process.stdin is not None:
                peer.process.stdin.write(b"join\n")
                peer.process.stdin.flush()
        return now_ns

    def kill(self, peer: Peer) -> None:
        """SIGKILL one member."""
        peer.killed_ns = time.monotonic_ns()
        peer.process.kill()
        peer.process.wait()

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> float | None:
        """Read journals until a condition holds, and return how long that took, or None if it never did.

        Raises:
            RunFailed: if a member has ended that nobody killed.
        """
        began = time.monotonic()
        while True:
            self.read()
            if condition():
                return time.monotonic() - began
            if time.monotonic() - began >= timeout_s:
                return None
            time.sleep(POLL_S)

    def watch(self, seconds: float) -> None:
        """Read journals for so long."""
        self.wait(lambda: False, seconds)

    def read(self) -> None:
        """Read what all journals have that is new.

        Raises:
            RunFailed: if a member has ended that nobody killed.
        """
        for peer in self.peers:
            peer.read()
        ended = [peer.name for peer in self.living if peer.process.poll() is not None]
        if ended:
            raise RunFailed(f"{', '.join(ended)} ended without being told to:{self._logs()}")

    def _start_one(self, number: int, seeds: Sequence[str]) -> None:
        name = f"m-{number:03d}"
        journal = self._directory / f"{name}.jsonl"
        command = self.system.command(name, seeds, self._keys, journal)
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        with (self._directory / f"{name}.log").open("wb") as log:
            began = time.monotonic_ns()
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=PROJECT,
                env=environment,
                process_group=0,  # so that an interrupt at the terminal reaches the harness alone
            )
        self.peers.append(Peer(name, process, journal, began))

    def _all_are_ready(self) -> bool:
        return all(peer.ready_ns for peer in self.peers)

    def _logs(self) -> str:
        """The end of what members have printed."""
        told = []
        for path in sorted(self._directory.glob("*.log")):
            text = path.read_text(encoding="utf-8", errors="replace").strip()
            if text:
                told.append(f"{path.stem}: {text[-400:]}")
        return "".join(f"\n  {text}" for text in told[:5])
