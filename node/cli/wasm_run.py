"""``caxton wasm run``: a module answers messages on this terminal, without a node."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click
import trio

from node.agents.definition import AgentDefinition, parse_definition
from node.agents.grants import Grant
from node.agents.journal import Journal
from node.agents.settings import AgentSettings
from node.agents.trial_rooms import trial_outside
from node.agents.wasm.calls import Outcome
from node.agents.wasm.failure import GuestFailed
from node.agents.wasm.manifest import Manifest, check_expiry, definition_of, read_signed, within
from node.agents.wasm.outside import Outside
from node.agents.wasm.policy import WasmPolicy
from node.agents.wasm.trial import NODE, Step, Trial, load_trial
from node.cli.deploy import read_file
from node.cli.output import print_json, safe
from node.environment import Environment, system_environment
from node.errors import InvalidWasm, ValidationFailed
from node.message import Message
from node.messaging.delivery import Draft
from node.security.artifacts import ANYBODY
from node.vocabulary import Performative

CAPABILITY: Final = "trial"
"""To which a message is sent, where no agent file names a capability."""
NOTES_LIMIT: Final = 64
"""Most lines that are shown of what tools and the memory said, the last ones."""


def run(
    file: Path,
    content: object,
    *,
    performative: str,
    manifest: Path | None,
    grants: Sequence[str],
    repeat: int,
    seed: int | None,
) -> dict[str, Any]:
    """Start the agent and have it handle one message, several times.

    Args:
        file: An agent file, with its module beside it, or a module.
        content: The content of the message.
        performative: What the message does.
        manifest: The signed manifest that says the most it may be granted; nothing by default.
        grants: What a module alone is granted.
        repeat: How often the message is handled.
        seed: Run in deterministic mode, in which everything follows from this number; None does not.

    Returns:
        What became of the first message that failed, or else of the last one, and figures over all.

    Raises:
        CaxtonError: a file cannot be read or is not what it should be, or the module cannot be an agent.
    """
    environment = system_environment()
    module, definition = _agent(file, grants)
    source = read_file(module)
    if manifest is not None:
        signed = _verified(manifest, source, environment)
        alone = definition_of(signed, module.name)
        definition = alone if definition is None else within(definition, signed)
    if definition is None:
        definition = _nameless(module.name, grants)
    policy = WasmPolicy.of(definition, AgentSettings())
    policy = replace(policy, grants=policy.grants | {Grant(name) for name in grants})
    capability = next(iter(definition.capabilities), CAPABILITY)
    if seed is not None:
        policy = replace(policy, deterministic=True, fresh=True)
    messages = [
        _message(number, content, performative, capability, seed, environment) for number in range(repeat)
    ]
    return {"file": str(module)} | trio.run(_run, source, definition, policy, environment, messages)


def show(found: dict[str, Any], *, as_json: bool) -> int:
    """Print what :func:`run` found; returns the exit status, 1 when anything failed."""
    failed = found["failed"] > 0
    if as_json:
        print_json(found)
        return int(failed)
    for line in found["log"]:
        click.echo(safe(f"log {line['level']}: {line['message']}"))
    for sent in found["sent"]:
        click.echo(safe(sent.pop("performative") + " " + " ".join(f"{k}={v}" for k, v in sent.items())))
    for timer, delay_us in found["timers"].items():
        click.echo(
            f"timer {timer}: " + ("cancelled" if delay_us is None else f"in {delay_us / 1_000_000:g} s")
        )
    if found["failure"] is not None:
        click.echo(safe(f"failed ({found['failure']['limit']}): {found['failure']['reason']}"))
        for frame in found["failure"]["backtrace"]:
            click.echo(safe(f"  at {frame}"))
    memory = found["memory_bytes"]
    click.echo(
        f"compiled in {found['compiled_s']:.2f} s, started in {found['started_s'] * 1000:.2f} ms;"
        f" {found['messages']} handled, {found['failed']} failed:"
        f" {found['p50_s'] * 1000:.3f} ms (p99 {found['p99_s'] * 1000:.3f}), {found['fuel']:,} instructions, "
        + ("memory not told" if memory is None else f"{memory / 1024:,.0f} KiB of memory")
    )
    return int(failed)


def _agent(file: Path, grants: Sequence[str]) -> tuple[Path, AgentDefinition | None]:
    """Where the module is, and what its agent file says, if there is one."""
    if file.suffix in (".wasm", ".wat"):
        return file, None
    definition = parse_definition(read_file(file))
    if definition.module is None:
        raise ValidationFailed(
            f"{file} has no module to run",
            why=f"its runtime is {definition.runtime}",
            fix="Name an agent file with runtime: wasm, or a module.",
        )
    if grants:
        raise click.UsageError("--grant is for a module alone; an agent file says its grants itself.")
    return file.parent / definition.module, definition


def _nameless(module: str, grants: Sequence[str]) -> AgentDefinition:
    """The agent that a module is of which nobody has said anything."""
    return AgentDefinition(
        id=CAPABILITY,
        name=CAPABILITY,
        version="0.0.0",
        capabilities=(CAPABILITY,),
        runtime="wasm",
        module=module,
        groups={"wasm": {"grants": tuple(grants)}},
    )


def _verified(file: Path, module: bytes, environment: Environment) -> Manifest:
    signed = read_signed(read_file(file), module, ANYBODY)
    check_expiry(signed.manifest, environment.clock.wall())
    return signed.manifest


def _message(
    number: int,
    content: object,
    performative: str,
    capability: str,
    seed: int | None,
    environment: Environment,
) -> Message:
    identifier = environment.new_id() if seed is None else f"message-{seed}-{number}"
    return Message(
        id=identifier,
        performative=Performative.parse(performative),
        sender="client@trial",
        capability=capability,
        content=content,
        conversation_id=environment.new_id() if seed is None else f"conversation-{seed}",
        reply_with=identifier,
        timestamp_s=environment.clock.wall() if seed is None else float(seed),
    )


async def _run(
    source: bytes,
    definition: AgentDefinition,
    policy: WasmPolicy,
    environment: Environment,
    messages: Sequence[Message],
) -> dict[str, Any]:
    journal = Journal(environment.clock, NOTES_LIMIT)
    async with AsyncExitStack() as stack:
        outside: Outside | None = None
        if policy.grants & {Grant.MEMORY, Grant.TOOLS} and not policy.deterministic:
            outside = await stack.enter_async_context(
                trial_outside(definition, policy, environment, NODE, journal)
            )
        trial = await load_trial(source, policy, environment, outside=outside)
        found = await _ask(trial, messages)
    notes = journal.records(tail=NOTES_LIMIT, since_s=None, level="info")
    found["log"] += [{"level": note.level, "message": note.text} for note in notes]
    return found


async def _ask(trial: Trial, messages: Sequence[Message]) -> dict[str, Any]:
    started = await trial.start()
    if started.outcome.failure is not None:
        failure = started.outcome.failure
        raise InvalidWasm(
            "the WebAssembly module does not start",
            why=failure.reason,
            details={"backtrace": list(failure.frames), "log": _log(started.outcome)},
        )
    shown, failed = started, 0
    took_s: list[float] = []
    for message in messages:
        step = await trial.ask(message)
        took_s.append(step.took_s)
        if failed == 0:
            shown = step
        if _failure_of(step, message) is not None:
            failed += 1
    took_s.sort()
    return {
        "compiled_s": round(trial.compiled_s, 3),
        "started_s": round(started.took_s, 6),
        "messages": len(messages),
        "failed": failed,
        "p50_s": round(took_s[len(took_s) // 2], 6),
        "p99_s": round(took_s[int(len(took_s) * 0.99)], 6),
        "log": _log(started.outcome) + _log(shown.outcome),
    } | _told(shown, messages[0])


def _failure_of(step: Step, message: Message) -> GuestFailed | None:
    outcome = step.outcome
    if outcome.failure is None and not outcome.drafts and message.expects_reply:
        return GuestFailed("answer", "the module sent no answer")
    return outcome.failure


def _told(step: Step, message: Message) -> dict[str, Any]:
    outcome, failure = step.outcome, _failure_of(step, message)
    told = None
    if failure is not None:
        told = {"limit": failure.limit, "reason": failure.reason, "backtrace": list(failure.frames)}
    return {
        "sent": [_sent(draft) for draft in outcome.drafts],
        "timers": dict(sorted(outcome.timers.items())),
        "failure": told,
        "fuel": outcome.fuel_used,
        "memory_bytes": outcome.memory_bytes,
    }


def _sent(draft: Draft) -> dict[str, Any]:
    values = {
        "performative": draft.performative.value,
        "receiver": draft.receiver,
        "capability": draft.capability,
        "topic": draft.topic,
        "content": draft.content,
    }
    return {name: value for name, value in values.items() if value is not None}


def _log(outcome: Outcome) -> list[dict[str, str]]:
    return [{"level": level, "message": text} for level, text in outcome.console]
