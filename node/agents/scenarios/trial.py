"""Runs scenarios of an agent in this process: real agents, tools and providers, and a bus in memory.

The agent is deployed as on a node, with the agents beside it that a scenario names. The provider of the run
answers for the agent alone; the others answer with ``builtin``, so that a script or a recording needs to know
one agent only. Each run begins anew: nothing is remembered from one to the next.
"""

from __future__ import annotations

import mimetypes
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from node.agents.scenarios.bus import NODE
from node.agents.scenarios.deciding import decided
from node.agents.scenarios.file import NONE, InlineFile, Scenario, Sent
from node.agents.scenarios.fixtures import filled, reach, serving
from node.agents.scenarios.judging import Conduct, judge
from node.agents.scenarios.stage import Stage, stage
from node.config import ToolsConfig
from node.environment import Environment
from node.errors import CaxtonError
from node.llm.provider import Provider
from node.message import Attachment, Message
from node.messaging.delivery import Draft
from node.vocabulary import Performative

Make = Callable[[Scenario], Provider]
"""Makes the provider of a run; scripts and recordings are used up, so each run has its own."""
RUN_LIMIT_S: Final = 120.0
"""Longest run of one scenario, in seconds."""


@dataclass(frozen=True, slots=True)
class AgentFiles:
    """What is deployed.

    Args:
        name: Of the agent file.
        content: Of the agent file.
        artifacts: Its module and its manifest, by name.
    """

    name: str
    content: bytes
    artifacts: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one scenario with one provider.

    Args:
        scenario: Its name.
        provider: Name of the provider.
        problems: What was not as expected.
        conduct: What the agent did; None where it could not be run.
        took_s: Seconds from the message to its reply.
    """

    scenario: str
    provider: str
    problems: tuple[str, ...]
    conduct: Conduct | None = None
    took_s: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether all was as expected."""
        return not self.problems


class Trial:
    """Runs the scenarios of one agent.

    Args:
        agent: The agent.
        directory: Where the files are that scenarios name.
        environment: Clock, identifiers, workers.
        read_agent: Reads another agent file, with what belongs to it.
        read_file: Reads a file that is sent along.
        tools: The bounds of tools, and how far they reach.
    """

    def __init__(
        self,
        agent: AgentFiles,
        directory: Path,
        *,
        environment: Environment,
        read_agent: Callable[[Path], AgentFiles],
        read_file: Callable[[Path], bytes],
        tools: ToolsConfig | None = None,
    ) -> None:
        self._agent = agent
        self._directory = directory
        self._environment = environment
        self._read_agent = read_agent
        self._read_file = read_file
        self._tools = tools or ToolsConfig()

    async def run(self, scenario: Scenario, make: Make) -> Verdict:
        """Run one scenario; whatever goes wrong is a problem of the verdict.

        Args:
            scenario: The scenario.
            make: Makes its provider, of the scenario as it is run.
        """
        with tempfile.TemporaryDirectory(prefix="caxton-trial-") as place:
            async with serving(scenario.serve, self._environment) as server:
                found = filled(scenario, server)
                provider, directory = make(found), Path(place)
                tools = reach(found, directory, self._tools)
                async with stage(provider, self._environment, tools, directory) as rooms:
                    return await self._judged(rooms, found, provider.name)

    async def _judged(self, rooms: Stage, scenario: Scenario, provider: str) -> Verdict:
        with self._environment.clock.move_on_after(RUN_LIMIT_S):
            try:
                conduct, took_s = await self._play(rooms, scenario)
            except CaxtonError as error:
                return Verdict(scenario.name, provider, (_told(error),))
            problems = tuple(judge(conduct, scenario.expect))
            return Verdict(scenario.name, provider, problems, conduct, took_s)
        return Verdict(scenario.name, provider, (f"it took more than {RUN_LIMIT_S:g} s",))

    async def _play(self, rooms: Stage, scenario: Scenario) -> tuple[Conduct, float]:
        """Deploy the agents and send the messages, one after the other; the last one counts."""
        others = [self._read_agent(self._directory / name) for name in scenario.agents]
        sent = [(each, self._attached(each)) for each in (*scenario.input.history, scenario.input)]
        for other in others:
            await rooms.supervisor.deploy(other.content, filename=other.name, artifacts=other.artifacts)
        info = await rooms.supervisor.deploy(
            self._agent.content, filename=self._agent.name, artifacts=self._agent.artifacts
        )
        rooms.watch.agent = info.id
        clock, conversation = self._environment.clock, self._environment.new_id()
        drafts: list[Draft] = []
        started = clock.now()
        for each, files in sent:
            rooms.watch.begin()
            started = clock.now()
            wanted = each.capability or next(iter(info.capabilities), None)
            message = self._message(each, info.id, wanted, conversation, files)
            drafts = await rooms.bus.deliver(info.id, message)
            if any(draft.performative is Performative.AGREE for draft in drafts):
                answer = await decided(scenario, rooms, clock, message)
                drafts = drafts if answer is None else [Draft(answer.performative, answer.content)]
        took_s = clock.now() - started
        reply = next((draft for draft in drafts if draft.receiver is None and draft.capability is None), None)
        conduct = Conduct(
            performative=NONE if reply is None else reply.performative.value,
            content=None if reply is None else reply.content,
            uses=tuple(rooms.watch.uses),
            turns=rooms.watch.turns,
            tokens=rooms.watch.tokens,
        )
        return conduct, took_s

    def _message(
        self, sent: Sent, agent: str, capability: str | None, conversation: str, files: tuple[Attachment, ...]
    ) -> Message:
        identifier = self._environment.new_id()
        return Message(
            id=identifier,
            performative=Performative.parse(sent.performative),
            sender=f"client@{NODE}",
            receiver=agent if capability is None else None,
            capability=capability,
            content=sent.content,
            conversation_id=conversation,
            reply_with=identifier,
            timestamp_s=self._environment.clock.wall(),
            attachments=files,
        )

    def _attached(self, sent: Sent) -> tuple[Attachment, ...]:
        return tuple(self._attachment(entry) for entry in sent.attachments)

    def _attachment(self, entry: str | InlineFile) -> Attachment:
        if isinstance(entry, InlineFile):
            name, data, media_type = entry.name, entry.text.encode(), entry.media_type
        else:
            path = self._directory / entry
            name, data, media_type = path.name, self._read_file(path), None
        return Attachment(
            name, media_type or mimetypes.guess_type(name)[0] or "application/octet-stream", data
        )


def _told(error: CaxtonError) -> str:
    """An error on one line, with the problems of a file that has some."""
    problems = error.details.get("problems")
    listed = [f"{p['location']}: {p['field']} {p['message']}" for p in problems[:5]] if problems else []
    return "; ".join([str(error), *listed])
