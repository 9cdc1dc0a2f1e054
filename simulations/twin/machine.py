"""What this machine can do, what a scenario asks for, and what no real machine does on demand."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from simulations.faults import Clock, Crash, Disk, Disturb, Fault, Jump, Partition, Provider, Reset
from simulations.links import Link
from simulations.nodes.scenario import NodeScenario
from simulations.nodes.witness import CAPACITY
from simulations.scenario import ScenarioError
from simulations.twin.conditions import NEGLIGIBLE_S, TABLE, longest_delay_s
from simulations.twin.namespaces import CommandFailed, Namespace, may_unshare

MODELS: Final = "llm."
"""What the keys of a configuration begin with that concern language models."""
MAX_S: Final = 600.0
"""A twin takes as long as its scenario says, so longer ones are refused."""

TOOLS: Final[Mapping[str, str]] = {
    "namespaces": "each node has a network of its own",
    "nft": "packets are lost, and ways are cut",
    "netem": "packets are delayed, doubled, reordered and corrupted",
    "htb": "links have a capacity",
    "ss": "connections are broken",
}
"""What is looked for on a machine, and what it is for."""

BY_TOOL: Final[Mapping[str, str]] = {
    "partition": "nft", "loss": "nft", "delay": "netem", "duplicate": "netem", "reorder": "netem",
    "corrupt": "netem", "capacity": "htb", "reset": "ss",
}  # fmt: skip
"""What a scenario may ask for, and the tool that does it."""

NEVER: Final[Mapping[str, str]] = {
    "clock": "all processes of a machine share its clocks",
    "disk": "real disks do not get full, slow or sick on demand",
    "jump": "real time does not leap",
    "mailbox": "the agent of a real node has the mailbox that its application gives it",
    "memory": "what clients let real nodes remember is not judged",
    "models": "language models that are asked over a network are the simulator's",
    "power": "a machine that goes on keeps what was not yet synchronised",
    "provider": "the language models of real processes are not the simulator's",
    "sigma": "netem draws no log-normal delays",
    "tail": "netem draws no exponential delays",
    "time": f"the scenario takes longer than {MAX_S:g} s",
}
"""What a scenario may ask for in vain, and why."""

NEEDS: Final = (*sorted(BY_TOOL), *sorted(NEVER))
_OF_LINKS: Final[Mapping[str, Mapping[str, Any]]] = {
    "loss": {"loss": 0.0},
    "delay": {"delay_s": 0.0, "jitter_s": 0.0},
    "duplicate": {"duplicate": 0.0},
    "reorder": {"reorder": 0.0},
    "corrupt": {"corrupt": 0.0},
    "capacity": {"capacity_bytes_s": None},
    "sigma": {"sigma": 0.0},
    "tail": {"tail_s": 0.0},
}
"""The keys of a link, or of a fault that disturbs it, and what they are when a need is left out."""
_KINDS: Final[Mapping[str, type[Fault]]] = {
    "clock": Clock, "disk": Disk, "jump": Jump, "partition": Partition, "provider": Provider, "reset": Reset,
}  # fmt: skip
"""Kinds of faults that are a need of their own."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found on this machine.

    Attributes:
        lacking: Why a tool cannot be used, by its name.
        is_root: Whether the process has its rights outside of a user namespace.
    """

    lacking: Mapping[str, str] = field(default_factory=dict)
    is_root: bool = True

    def has(self, tool: str) -> bool:
        """Whether a tool can be used."""
        return tool not in self.lacking

    def reason(self, need: str) -> str:
        """Why a need cannot be met; nothing if it can."""
        return NEVER.get(need) or self.lacking.get(BY_TOOL.get(need, ""), "")

    def lines(self) -> Iterator[str]:
        """What it can do, a line each, and what it cannot, with the reason."""
        for tool, purpose in TOOLS.items():
            why = self.lacking.get(tool)
            rights = "" if self.is_root or tool != "namespaces" else ", in a user namespace"
            yield f"{tool:<12} {f'no   {why}' if why else f'yes  {purpose}{rights}'}"
        for need, why in sorted(NEVER.items()):
            yield f"{need:<12} no   {why}"


def look() -> Machine:
    """See what this machine can do; a process without rights is moved into a user namespace for good."""
    missing = {
        tool: f"{tool} is not installed" for tool in ("ip", "nft", "tc", "ss") if not shutil.which(tool)
    }
    lacking: dict[str, str] = {tool: missing[tool] for tool in ("nft", "ss") if tool in missing}
    if "tc" in missing:
        lacking |= dict.fromkeys(("netem", "htb"), missing["tc"])
    is_root = not may_unshare()
    why = "" if is_root else _inside()
    if why or "ip" in missing:
        return Machine(dict.fromkeys(TOOLS, why or missing["ip"]), is_root)
    namespace = Namespace("probe")
    try:
        for tool, trial in _TRIALS.items():
            if tool not in lacking:
                try:
                    trial(namespace)
                except CommandFailed as error:
                    lacking[tool] = error.why
    finally:
        namespace.close()
    return Machine(lacking, is_root)


def _inside() -> str:
    if not Path("/proc/self/ns/user").is_symlink():
        return "the kernel has no user namespaces, and only root may have a network of its own"
    return may_unshare(user=True)


def _try_links(namespace: Namespace) -> None:
    namespace.run(
        ["ip", "-batch", "-"], "link add b0 type bridge\nlink add v0 type veth peer name v1\nlink set v0 up\n"
    )


def _try_nft(namespace: Namespace) -> None:
    rule = "ip saddr 10.0.0.1 meta l4proto udp numgen random mod 10 < 1 drop"
    chain = f"chain input {{\n type filter hook input priority filter; policy accept;\n {rule}\n }}"
    namespace.run(["nft", "-f", "-"], f"table ip {TABLE} {{\n {chain}\n}}\n")


def _try_netem(namespace: Namespace) -> None:
    namespace.run(["tc", "qdisc", "add", "dev", "v0", "root", "netem", "delay", "1ms"])


def _try_htb(namespace: Namespace) -> None:
    batch = (
        "qdisc replace dev v1 root handle 1: htb\n"
        "class add dev v1 parent 1: classid 1:10 htb rate 1mbit\n"
        "filter add dev v1 parent 1: protocol ip prio 1 u32 match ip dst 10.0.0.1/32 flowid 1:10\n"
    )
    namespace.run(["tc", "-batch", "-"], batch)


def _try_ss(namespace: Namespace) -> None:
    namespace.run(["ip", "link", "set", "lo", "up"])
    listener, caller = namespace.socket(), namespace.socket()
    with listener, caller:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        caller.connect(listener.getsockname())
        with listener.accept()[0]:
            namespace.run(["ss", "-K", "-t", "dst", "127.0.0.1"], check=False)
            caller.settimeout(0.2)
            try:
                caller.recv(1)
            except ConnectionError:
                return
            except TimeoutError:
                pass
    raise CommandFailed("ss -K breaks no connection", why="the kernel does not let sockets be destroyed")


_TRIALS: Final[Mapping[str, Callable[[Namespace], None]]] = {
    "namespaces": _try_links, "nft": _try_nft, "netem": _try_netem, "htb": _try_htb, "ss": _try_ss,
}  # fmt: skip


# ---- what a scenario asks for --------------------------------------------------------------------


def needs(scenario: NodeScenario, plan: Sequence[Fault]) -> list[str]:
    """The names of what a scenario asks for, beyond processes and signals."""
    found: set[str] = set()
    for network in (scenario.network, *((scenario.network.between,) if scenario.network.regions else ())):
        found.update(
            _of_link(network, longest_delay_s(Link(delay_s=network.delay_s, jitter_s=network.jitter_s)))
        )
    for fault in plan:
        found.update(need for need, kind in _KINDS.items() if isinstance(fault, kind))
        if isinstance(fault, Crash) and fault.power:
            found.add("power")
        if isinstance(fault, Disturb):
            found.update(_of_link(fault, fault.delay_s + fault.jitter_s))
    if any(deployment.capacity != CAPACITY for deployment in scenario.agents):
        found.add("mailbox")
    if scenario.memory is not None:
        found.add("memory")
    if any(key.startswith(MODELS) for key in scenario.settings):
        found.add("models")
    if duration_s(scenario) > MAX_S:
        found.add("time")
    return sorted(found)


def duration_s(scenario: NodeScenario) -> float:
    """How long a run takes, the start of the processes aside."""
    patience_s = 0.0 if scenario.workload is None else scenario.workload.reply_within_s
    return scenario.safety_s + max(scenario.bounds.converge_s, patience_s, scenario.settled_s)


def _of_link(link: Any, delay_s: float) -> Iterator[str]:
    for need, keys in _OF_LINKS.items():
        if need != "delay" and any(getattr(link, key) not in (0, None) for key in keys):
            yield need
    if delay_s > NEGLIGIBLE_S:
        yield "delay"


def without(
    names: Sequence[str], scenario: NodeScenario, plan: Sequence[Fault]
) -> tuple[NodeScenario, tuple[Fault, ...]]:
    """A scenario and a plan that do not ask for some things.

    Faults of a kind that is named are left out, and links keep what else they are. A loss of power stays:
    what is left out is what it does to disks, and a real machine falls silent all the same.

    Raises:
        ScenarioError: a name is none of :data:`NEEDS`.
    """
    for name in names:
        if name not in NEEDS:
            near = difflib.get_close_matches(name, NEEDS, 1, 0.5)
            known = f"; the nearest is {near[0]!r}" if near else f"; there are {', '.join(NEEDS)}"
            raise ScenarioError(f"--without {name}: there is no such need{known}")
    if "time" in names:
        raise ScenarioError("--without time: no; make it shorter, as with --set safety_s=30")
    changes = {key: value for name in names for key, value in _OF_LINKS.get(name, {}).items()}
    network = scenario.network.model_copy(
        update={**changes, "between": scenario.network.between.model_copy(update=changes)}
    )
    left: dict[str, Any] = {"network": network}
    if "mailbox" in names:
        left["agents"] = tuple(d.model_copy(update={"capacity": CAPACITY}) for d in scenario.agents)
    if "memory" in names:
        left["memory"] = None
    if "models" in names:
        left["settings"] = {k: v for k, v in scenario.settings.items() if not k.startswith(MODELS)}
    kinds = tuple(kind for name, kind in _KINDS.items() if name in names)
    kept: list[Fault] = []
    for fault in plan:
        if isinstance(fault, kinds):
            continue
        kept.append(fault.model_copy(update=changes) if isinstance(fault, Disturb) else fault)
    return scenario.model_copy(update=left), tuple(kept)
