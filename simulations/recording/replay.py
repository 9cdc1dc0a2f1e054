"""Replays a recording: every core does again what it did, and each of its outputs is compared.

A core whose output differs is not taken further, because all that follows would follow from that. The others
go on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from node.errors import ValidationFailed
from node.recording.format import MAX_RECORD_BYTES, Core, End, Recording, Step
from node.recording.tape import digest_of, raised, returned
from node.recording.values import UnknownValue, pack, unpack
from simulations.recording import arrivals, deliveries, membership
from simulations.recording.arrivals import ArrivalsReplay
from simulations.recording.deliveries import DeliveriesReplay
from simulations.recording.mailboxes import MailboxReplay
from simulations.recording.membership import MemberReplay
from simulations.recording.show import output_lines, tree_of
from simulations.recording.tape import Diverged, ReplayTape

MAX_CORES: Final = 20_000
"""Most cores of one recording: one for each mailbox of a node, and some."""


class ReplayedCore(Protocol):
    """A core that does again what it did."""

    name: str
    version: int
    tape: ReplayTape

    def do(self, verb: str, arguments: Any) -> Any:
        """Call a verb; raise UnknownValue for one that this version does not have."""

    def finish(self, outputs: list[Any]) -> None:
        """Add what the verb left behind in the core."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of core is replayed.

    Args:
        version: Of its verbs and draws.
        classes: What its arguments and answers may be built of.
        build: Makes one.
    """

    version: int
    classes: dict[str, type[Any]]
    build: Callable[[ReplayTape], ReplayedCore]


KINDS: Final[dict[str, Kind]] = {
    MemberReplay.name: Kind(MemberReplay.version, membership.CLASSES, MemberReplay),
    DeliveriesReplay.name: Kind(DeliveriesReplay.version, deliveries.CLASSES, DeliveriesReplay),
    ArrivalsReplay.name: Kind(ArrivalsReplay.version, arrivals.CLASSES, ArrivalsReplay),
    MailboxReplay.name: Kind(MailboxReplay.version, {}, MailboxReplay),
}
"""What can be replayed, by the name before a colon."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """One step, done again.

    Args:
        number: Of the step, in the whole recording, from 1.
        core: Its core's name.
        step: As recorded.
        outputs: As found now.
        notes: What was asked otherwise.
        same: Whether nothing differs.
    """

    number: int
    core: str
    step: Step
    outputs: list[Any]
    notes: tuple[str, ...]
    same: bool

    def expected_lines(self) -> list[str]:
        """The recorded outputs in words."""
        return output_lines(tree_of(self.step.outputs) if self.step.outputs else None)

    def found_lines(self) -> list[str]:
        """The outputs found now in words."""
        return output_lines(tree_of(pack(self.outputs)))


@dataclass(slots=True)
class CoreResult:
    """How far one core was the same.

    Args:
        name: Of the core.
        version: Of the core, in the recording.
        inputs: That were compared.
        outputs: That came of them.
        left: Inputs after the first difference, which were not done.
        difference: The first step that differs.
        unknown: Why it could not be replayed at all.
    """

    name: str
    version: int
    inputs: int = 0
    outputs: int = 0
    left: int = 0
    difference: Replayed | None = None
    unknown: str = ""

    @property
    def same(self) -> bool:
        """Whether every input gave what it gave."""
        return self.difference is None and not self.unknown


@dataclass(slots=True)
class Result:
    """How a replay went.

    Args:
        cores: By number.
        steps: Inputs of all cores that were read.
        end: Why the recording ended, as it says itself.
        broken: Why it could not be read further; empty if it has its proper end.
        shown: The step that was asked for.
    """

    cores: dict[int, CoreResult] = field(default_factory=dict)
    steps: int = 0
    end: str = ""
    broken: str = ""
    shown: Replayed | None = None

    @property
    def same(self) -> bool:
        """Whether every core gave what it gave."""
        return all(core.same for core in self.cores.values())


def replay(recording: Recording, *, until: int | None = None, show: int | None = None) -> Result:
    """Do again what a recording holds.

    Args:
        recording: Opened, and not read yet.
        until: The last step that is done.
        show: A step that is kept to be shown; nothing is done after it.

    Raises:
        ValidationFailed: the step to be shown is not there.
    """
    result, live = Result(), {}
    last = min((n for n in (until, show) if n is not None), default=None)
    for record in recording.records():
        match record:
            case Core(number, name, version):
                if len(result.cores) >= MAX_CORES or number in result.cores:
                    recording.broken = f"the recording has core {number} twice, or too many"
                    break
                core, unknown = _build(name, version)
                result.cores[number] = CoreResult(name, version, unknown=unknown)
                if core is not None:
                    live[number] = core
            case Step():
                if last is not None and result.steps >= last:
                    break
                result.steps += 1
                found = result.cores.get(record.core)
                if found is None:
                    recording.broken = f"step {result.steps} is of a core that was never told"
                    break
                done = _again(result.steps, found, live.get(record.core), record)
                if result.steps == show:
                    result.shown = done or Replayed(result.steps, found.name, record, [], (), same=False)
                if done is not None and not done.same:
                    live.pop(record.core)
            case End(reason):
                result.end = reason
                break
    if show is not None and result.shown is None:
        raise ValidationFailed(
            f"there is no step {show}", why=f"the recording has {result.steps}", fix="Steps count from 1."
        )
    result.broken = "" if last is not None and result.steps >= last else recording.broken
    return result


def _build(name: str, version: int) -> tuple[ReplayedCore | None, str]:
    kind = KINDS.get(name.partition(":")[0])
    if kind is None:
        return None, "this version of Caxton does not know it"
    if kind.version != version:
        return None, f"it is of version {version}, and this version of Caxton knows {kind.version}"
    return kind.build(ReplayTape(kind.classes)), ""


def _again(number: int, found: CoreResult, core: ReplayedCore | None, step: Step) -> Replayed | None:
    """Do one step; None where its core is not followed any more."""
    if core is None:
        found.left += 1
        return None
    tape, classes = core.tape, KINDS[core.name].classes
    tape.load(step.draws)
    notes: list[str] = []
    try:
        result = core.do(step.verb, unpack(step.arguments, classes, max_bytes=MAX_RECORD_BYTES))
    except Diverged as difference:
        notes.append(str(difference))
    except UnknownValue as error:
        notes.append(f"cannot be done again: {error}")
    except Exception as error:  # what the core raises is one of its outputs
        raised(error, tape.outputs)
    else:
        returned(result, tape.outputs)
    core.finish(tape.outputs)
    tape.finish()
    notes += tape.notes
    same = not notes and digest_of(pack(tape.outputs)) == step.digest
    done = Replayed(number, found.name, step, tape.outputs, tuple(notes), same)
    found.inputs += 1
    found.outputs += len(tape.outputs)
    if not same:
        found.difference = done
    return done
