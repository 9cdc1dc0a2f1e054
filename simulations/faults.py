"""Faults as plain data: what goes wrong, for whom, from when until when.

A plan is a list of mappings with one key, the kind of the fault::

    - crash: {members: [m003], at_s: 10}
    - partition: {sides: [[m000, m001], [m002, m003]], at_s: 20, for_s: 60}

It can be written as YAML or JSON, read back, and kept beside the seed of a failure. Times are seconds of the
run. A fault that meets a member in no state for it, a pause of one that has crashed, does nothing. What a
fault does is in :mod:`simulations.injector`.

A fault says whether it **excuses** a death: whether a member that it touches may be declared dead although
it runs. Losing a whole side excuses, a few cut pairs do not, because others can still ask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_FAULTS: Final = 10_000
"""Most faults of one plan."""
EXCUSING_LOSS: Final = 0.5
EXCUSING_DELAY_S: Final = 0.1
"""More loss or delay than this excuses the members it is done to, unless the fault says otherwise."""

Names = Annotated[tuple[str, ...], Field(min_length=1)]
Chance = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Fault(BaseModel):
    """What all faults have.

    Attributes:
        kind: The key of the fault in a plan.
        at_s: When it happens, in seconds of the run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: ClassVar[str]
    at_s: Seconds

    @property
    def ends_s(self) -> float:
        """When it is over, if nothing is healed before."""
        return self.at_s


class Lasting(Fault):
    """A fault that lasts.

    Attributes:
        for_s: For how long; None until everything is healed.
    """

    for_s: Seconds | None = None

    @property
    def ends_s(self) -> float:
        """When it is over, if nothing is healed before."""
        return float("inf") if self.for_s is None else self.at_s + self.for_s


class Pause(Lasting):
    """Processes stand still, as after SIGSTOP."""

    kind = "pause"
    members: Names


class Starve(Lasting):
    """Processes get little of their processor: each runs for a while, stands still for a while, and so on.

    Attributes:
        members: Who.
        running_s: Mean of the exponentially distributed time between two pauses.
        paused_s: Shortest and longest pause, uniformly distributed.
    """

    kind = "starve"
    members: Names
    running_s: Annotated[float, Field(gt=0)] = 2.0
    paused_s: tuple[Seconds, Seconds] = (0.5, 4.0)

    @model_validator(mode="after")
    def _in_order(self) -> Starve:
        if self.paused_s[0] > self.paused_s[1]:
            raise ValueError("paused_s: the shortest pause is longer than the longest")
        return self


class Crash(Fault):
    """Processes end, as after SIGKILL.

    Attributes:
        members: Who.
        power: Whether their machines go off too, so that nobody answers for their sockets until they start
            again: connections stay half-open at their peers.
    """

    kind = "crash"
    members: Names
    power: bool = False


class Restart(Fault):
    """Processes start again.

    Attributes:
        members: Who; nothing happens to those who run.
        disk: Whether they still have what they kept.
        seeds: Whether they are told the seeds again.
        moved: Whether they come back at another address.
        upgrade: Whether whole nodes come back with the next version of the software, which speaks a newer
            protocol beside the present one.
    """

    kind = "restart"
    members: Names
    disk: bool = True
    seeds: bool = True
    moved: bool = False
    upgrade: bool = False


class Join(Fault):
    """New members start, with the seeds of the scenario.

    Attributes:
        members: Their names.
    """

    kind = "join"
    members: Names


class Leave(Fault):
    """Members say goodbye and end."""

    kind = "leave"
    members: Names


class Partition(Lasting):
    """Nothing passes between some members and some others.

    Attributes:
        sides: Groups; what passes inside a group is not touched, nor are members of no group.
        pairs: Single pairs that cannot reach each other, instead of sides.
        mode: ``symmetric``; or ``one_way``: what goes from an earlier side to a later one is lost, or from
            the first of a pair to the second.
        datagrams_only: Whether streams still pass, as where a firewall blocks UDP.
        excuses: Whether deaths across it are excused; by default where whole sides lose everything.
    """

    kind = "partition"
    sides: tuple[tuple[str, ...], ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    mode: Literal["symmetric", "one_way"] = "symmetric"
    datagrams_only: bool = False
    excuses: bool | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Partition:
        if bool(self.sides) == bool(self.pairs):
            raise ValueError("give either sides or pairs")
        if self.sides and len(self.sides) < 2:
            raise ValueError("sides: a partition has at least two")
        return self

    @property
    def is_excuse(self) -> bool:
        """Whether deaths across it are excused."""
        return bool(self.sides) and not self.datagrams_only if self.excuses is None else self.excuses


class Disturb(Lasting):
    """Links get worse.

    Attributes:
        sources: Whose packets; None for everybody's.
        targets: On their way to whom; None for everybody.
        both_ways: Whether the way back is disturbed too.
        loss: Chance that a packet is lost, on top of the link's own.
        delay_s: Added to the delay.
        jitter_s: Added to the delay, uniformly.
        tail_s: Mean of an exponential tail added to the delay.
        sigma: Spread of a log-normal factor on the delay.
        duplicate: Chance that a datagram arrives twice.
        reorder: Chance that a datagram is overtaken by later ones.
        reorder_s: By how much at most.
        corrupt: Chance that bits of a datagram are flipped.
        capacity_bytes_s: Bytes per second.
        queue_bytes: Bytes that wait for a busy link.
        excuses: Whether deaths of sources and targets are excused; by default from half of the packets lost,
            or 0.1 s of delay, on.
    """

    kind = "disturb"
    sources: Names | None = None
    targets: Names | None = None
    both_ways: bool = False
    loss: Chance = 0.0
    delay_s: Seconds = 0.0
    jitter_s: Seconds = 0.0
    tail_s: Seconds = 0.0
    sigma: Annotated[float, Field(ge=0, le=3)] = 0.0
    duplicate: Chance = 0.0
    reorder: Chance = 0.0
    reorder_s: Seconds = 0.05
    corrupt: Chance = 0.0
    capacity_bytes_s: Annotated[float, Field(gt=0)] | None = None
    queue_bytes: Annotated[int, Field(ge=0)] | None = None
    excuses: bool | None = None

    @property
    def is_excuse(self) -> bool:
        """Whether deaths of sources and targets are excused."""
        if self.excuses is not None:
            return self.excuses
        lost = self.loss + self.corrupt
        return lost >= EXCUSING_LOSS or self.delay_s + self.jitter_s + self.tail_s >= EXCUSING_DELAY_S


class Clock(Fault):
    """Clocks run at another rate, or are set wrong.

    Attributes:
        members: Whose.
        rate: Monotonic seconds per true second; None to leave it.
        wall_offset_s: How far the wall clock is ahead from now on; None to leave it.
    """

    kind = "clock"
    members: Names
    rate: Annotated[float, Field(gt=0.5, lt=2)] | None = None
    wall_offset_s: Annotated[float, Field(allow_inf_nan=False)] | None = None


class Churn(Lasting):
    """Members come and go: one at a time crashes or leaves, and starts again some time later.

    Attributes:
        per_s: How many go per second, on average.
        down_s: Shortest and longest absence.
        leaving: Share of those who say goodbye.
        keeping: Share of those who come back with their disk.
    """

    kind = "churn"
    per_s: Annotated[float, Field(gt=0)]
    down_s: tuple[Seconds, Seconds] = (5.0, 20.0)
    leaving: Chance = 0.5
    keeping: Chance = 0.5


class Disk(Lasting):
    """Disks of whole nodes get sick; see :class:`simulations.disk.SimulatedDisk`.

    Attributes:
        members: Whose.
        full: Whether there is no room left.
        sync_fails: Whether `fsync` fails.
        read_fails: Whether reading fails.
        read_s: How long each read takes.
        write_s: How long each write takes.
        sync_s: How long each `fsync` takes.
    """

    kind = "disk"
    members: Names
    full: bool = False
    sync_fails: bool = False
    read_fails: bool = False
    read_s: Annotated[float, Field(ge=0, le=60)] = 0.0
    write_s: Annotated[float, Field(ge=0, le=60)] = 0.0
    sync_s: Annotated[float, Field(ge=0, le=60)] = 0.0


class Reset(Fault):
    """Connections of whole nodes break: both ends are told at once, as by a firewall that forgets its table.

    Attributes:
        sources: Whose; None for everybody's.
        targets: With whom; None for everybody.
    """

    kind = "reset"
    sources: Names | None = None
    targets: Names | None = None


class Agents(Lasting):
    """Agents of whole nodes get slow, or raise.

    Attributes:
        members: The nodes they run on.
        takes_s: Mean of the exponentially distributed time a message takes.
        raises: Chance that handling a message raises.
    """

    kind = "agents"
    members: Names
    takes_s: Annotated[float, Field(ge=0, le=3600)] = 0.0
    raises: Chance = 0.0


class Provider(Lasting):
    """The language models of whole nodes fail.

    Attributes:
        members: The nodes that ask them.
        rate_limited: Chance that a request is refused for now (HTTP 429).
        timeout: Chance that it is not answered in time.
        cut: Chance that the answer breaks off in the middle.
        malformed: Chance that the answer asks for a tool that there is not, with arguments of wrong types.
        takes_s: Mean of the exponentially distributed time an answer takes.
    """

    kind = "provider"
    members: Names
    rate_limited: Chance = 0.0
    timeout: Chance = 0.0
    cut: Chance = 0.0
    malformed: Chance = 0.0
    takes_s: Annotated[float, Field(ge=0, le=3600)] = 0.0

    @model_validator(mode="after")
    def _at_most_certain(self) -> Provider:
        if self.rate_limited + self.timeout + self.cut + self.malformed > 1:
            raise ValueError("the chances of one request add up to more than 1")
        return self


class Jump(Fault):
    """Time leaps over a stretch in which nothing but the members' own maintenance would happen.

    Attributes:
        to_s: The time after the leap.
    """

    kind = "jump"
    to_s: Seconds

    @model_validator(mode="after")
    def _forward(self) -> Jump:
        if self.to_s <= self.at_s:
            raise ValueError("to_s is not after at_s")
        return self


OF_NODES: Final = frozenset({"disk", "reset", "agents", "provider"})
"""Kinds that need whole nodes."""
KINDS: Final[dict[str, type[Fault]]] = {
    fault.kind: fault
    for fault in (
        Pause, Starve, Crash, Restart, Join, Leave, Partition, Disturb, Clock, Churn, Disk, Reset, Agents,
        Provider, Jump,
    )
}  # fmt: skip


def read(data: Mapping[str, Any]) -> Fault:
    """The fault that a mapping with one key describes.

    Raises:
        pydantic.ValidationError: a value is wrong.
        KeyError: there is no such kind.
        ValueError: it is no mapping with one key.
    """
    if not isinstance(data, Mapping) or len(data) != 1:
        raise ValueError("a fault is a mapping with one key, its kind")
    ((kind, values),) = data.items()
    return KINDS[kind].model_validate(values)


def named(fault: Fault) -> list[str]:
    """The members that a fault names, those that stand in several places more than once."""
    groups = [getattr(fault, key, None) or () for key in ("members", "sources", "targets")]
    groups += [*getattr(fault, "sides", ()), *getattr(fault, "pairs", ())]
    return [name for group in groups for name in group]


def write(fault: Fault) -> dict[str, Any]:
    """The mapping that describes a fault, with JSON types only; what is left at its default is left out."""
    return {fault.kind: fault.model_dump(mode="json", exclude_defaults=True)}


def read_plan(data: Sequence[Mapping[str, Any]]) -> tuple[Fault, ...]:
    """All faults of a plan."""
    if len(data) > MAX_FAULTS:
        raise ValueError(f"{len(data)} faults; at most {MAX_FAULTS}")
    return tuple(read(item) for item in data)


def write_plan(plan: Sequence[Fault]) -> list[dict[str, Any]]:
    """A plan as data."""
    return [write(fault) for fault in plan]
