"""The steps of the demo: a cluster starts, agents are deployed, one request is answered across nodes.

Everything that is shown was read from the nodes' admin API; what happens when a node dies is told by
:mod:`node.cli.demo_failover`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from node.cli.demo_csv import CsvFile, attachment
from node.cli.demo_view import Scene, Screen, Step
from node.cli.deploy import deployment
from node.errors import CaxtonError
from node.samples import sample

T = TypeVar("T")

CAPABILITY: Final = "data-analysis"
ECHO: Final = "echo"
ANALYST: Final = "data_analyzer.md"
JOIN_S: Final = 20.0
"""Longest wait until all nodes see each other, or the registry shows all agents, in seconds."""
REPLY_S: Final = 60.0
"""Longest wait for one reply, in seconds."""
POLL_S: Final = 0.03


class DemoFailed(CaxtonError):
    """The demo did not show what it promises."""

    code = "DEMO_FAILED"


class Api(Protocol):
    """The verbs of ``node.cli.client.Client`` that the demo calls."""

    def get(self, path: str, **query: object) -> Any:
        """The JSON of a route."""
        ...

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, object] | None = None,
        wait_s: float = 0.0,
    ) -> Any:
        """Call a route."""
        ...


class Actor(Protocol):
    """A node of the story (``demo_cluster.DemoNode``)."""

    name: str
    data_dir: Path

    @property
    def is_ready(self) -> bool:
        """Whether its admin API is known."""
        ...

    @property
    def pid(self) -> int | None:
        """Its process."""
        ...

    @property
    def client(self) -> Api:
        """Its admin API."""
        ...

    def kill(self) -> None:
        """SIGKILL."""
        ...


class Cast(Protocol):
    """All nodes of the story (``demo_cluster.DemoCluster``)."""

    @property
    def nodes(self) -> Sequence[Actor]:
        """At least three; the first sends, the second and the third analyze."""
        ...

    def signed(self, file: Path) -> Path:
        """A copy of an agent file that nodes take: its module, if any, is signed."""

    def start(self) -> None:
        """Start them all."""
        ...


@dataclass(slots=True)
class Answer:
    """The first request and its reply.

    Args:
        request: What was sent, without the file's content.
        reply: The reply as the sender's API shows it.
        analysis: The result of the CSV tool inside it.
        routed_to: The agent that answered, ``name@node``.
        route: How it got there.
        conversation_id: Their conversation.
        seconds: From sending to the reply.
    """

    request: dict[str, Any]
    reply: dict[str, Any]
    analysis: dict[str, Any]
    routed_to: str
    route: dict[str, Any]
    conversation_id: str
    seconds: float

    @property
    def node(self) -> str:
        """The node that answered."""
        return node_of(self.routed_to)


@dataclass(slots=True)
class Stage:
    """What all steps share: the nodes, and where the story is written down.

    Args:
        cast: The nodes.
        csv: The file that only the sender gets.
        scene: What the screen draws.
        screen: Shows it.
    """

    cast: Cast
    csv: CsvFile
    scene: Scene
    screen: Screen
    sender: Actor = field(init=False)

    def __post_init__(self) -> None:
        self.sender = self.cast.nodes[0]

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """One step of the story, timed."""
        step = Step(title, self.scene.elapsed_s)
        self.scene.steps.append(step)
        try:
            yield step
        except BaseException:
            step.failed = True
            raise
        finally:
            step.took_s = self.scene.elapsed_s - step.at_s
        self.screen.ended(step)

    def node(self, name: str) -> Actor:
        """The node of that name."""
        return next(actor for actor in self.cast.nodes if actor.name == name)


def tell_beginning(stage: Stage) -> Answer:
    """From nothing to the first answer.

    Raises:
        CaxtonError: a node does not start, or something does not come; says what.
    """
    count = len(stage.cast.nodes)
    with stage.step(f"Start {count} node processes on loopback, with mutual TLS") as step:
        stage.cast.start()
        for actor in stage.cast.nodes:
            stage.scene.nodes[actor.name].pid = actor.pid
        step.detail = "pids " + ", ".join(str(actor.pid) for actor in stage.cast.nodes)
    with stage.step("Find each other by gossip, from one seed") as step:
        for actor in stage.cast.nodes:
            everyone = partial(_sees_alive, actor, count)
            await_(everyone, JOIN_S, f"{actor.name} sees {count} members alive")
        step.detail = f"each sees {count} members alive"
    with stage.step("Deploy the sample agents on different nodes") as step:
        step.detail = _deploy(stage)
    with stage.step("Ask the WebAssembly agent on another node") as step:
        step.detail = _ask_echo(stage)
    with stage.step(f"Ask for {CAPABILITY} from {stage.sender.name}, which does not offer it") as step:
        answer = _ask_analyst(stage)
        step.detail = f"{answer.routed_to} answered in {answer.seconds:.2f} s"
    return answer


def placements(names: Sequence[str]) -> list[tuple[str, str]]:
    """(node, agent file) of the sample agents: the sender gets none that offers the capability."""
    sender, first, second, *others = names
    places = [(first, ANALYST), (second, ANALYST), (others[0] if others else sender, "echo.md")]
    spread = [*others[1:], first, second]
    rest = ("data_inspector.md", "sales_ranker.md", "record_librarian.md")
    return places + [(spread[number % len(spread)], file) for number, file in enumerate(rest)]


def analysis_of(reply: Mapping[str, Any]) -> dict[str, Any]:
    """What the CSV tool found, out of a reply.

    Raises:
        DemoFailed: the reply is something else.
    """
    content = reply.get("content")
    results = content.get("results") if isinstance(content, dict) else None
    for item in results if isinstance(results, list) else ():
        found = item.get("result") if isinstance(item, dict) else None
        if reply.get("performative") == "inform" and isinstance(found, dict) and "totals" in found:
            return found
    raise DemoFailed(
        f"{reply.get('sender')} did not answer with an analysis",
        why=f"{reply.get('performative')}: {str(content)[:500]}",
        fix="Try another file, or the sample without --csv.",
    )


def request_body(stage: Stage, strategy: str) -> dict[str, Any]:
    """A REQUEST for the analysis of the sender's private file."""
    return {
        "performative": "request",
        "capability": CAPABILITY,
        "content": {"action": "analyze", "file": stage.csv.name},
        "routing_strategy": strategy,
        "attachments": [attachment(stage.sender.data_dir / stage.csv.name)],
    }


def await_(question: Callable[[], T], within_s: float, what: str) -> T:
    """The first true answer to ``question``.

    Raises:
        DemoFailed: there is none in time.
    """
    deadline = time.monotonic() + within_s
    while not (answer := question()):
        if time.monotonic() > deadline:
            raise DemoFailed(f"waited in vain until {what}", why=f"not within {within_s:.0f} s")
        time.sleep(POLL_S)
    return answer


def node_of(address: str) -> str:
    """The node in ``agent@node``."""
    return address.rpartition("@")[2]


def members(actor: Actor) -> list[dict[str, Any]]:
    """The members that ``actor`` knows, itself included."""
    found: list[dict[str, Any]] = actor.client.get("/cluster/members")["members"]
    return found


def providers(actor: Actor, capability: str) -> list[str]:
    """Who offers ``capability``, as ``actor`` knows: ``agent@node``."""
    return [
        f"{provider['agent']}@{provider['node']}"
        for entry in actor.client.get("/capabilities")["capabilities"]
        if entry["capability"] == capability
        for provider in entry["providers"]
    ]


def _deploy(stage: Stage) -> str:
    places = placements([actor.name for actor in stage.cast.nodes])
    for name, file in places:
        body = deployment(stage.cast.signed(sample(f"agents/{file}")))
        agent = stage.node(name).client.call("POST", "/agents", body=body, wait_s=JOIN_S)
        row = stage.scene.nodes[name]
        row.agents = (*row.agents, str(agent["name"]))
    analysts = sum(file == ANALYST for _, file in places)
    for actor in stage.cast.nodes:
        await_(partial(_knows, actor, analysts), JOIN_S, f"{actor.name} knows the agents of the others")
    return f"{len(places)} agents; {CAPABILITY} on " + ", ".join(
        map(node_of, providers(stage.sender, CAPABILITY))
    )


def _ask_echo(stage: Stage) -> str:
    """From the third node, which never has it."""
    asker, content = stage.cast.nodes[2], {"hello": "cluster"}
    body = {"performative": "request", "capability": ECHO, "content": content}
    found = asker.client.call("POST", "/messages", body=body, query={"wait": REPLY_S}, wait_s=REPLY_S)
    reply = found["reply"]
    _tell_exchange(stage, f"REQUEST {ECHO}", f"client@{asker.name}", reply)
    if reply["performative"] != "inform" or reply["content"].get("echo") != content:
        raise DemoFailed("the WebAssembly agent did not echo", why=str(reply)[:500])
    return f"{reply['sender']} answered {asker.name}, checksum {reply['content'].get('checksum')}"


def _ask_analyst(stage: Stage) -> Answer:
    sender = stage.sender
    if any(node_of(found) == sender.name for found in providers(sender, CAPABILITY)):
        raise DemoFailed(f"{sender.name} offers {CAPABILITY} itself")
    stage.csv.store(sender.data_dir)
    body = request_body(stage, "best_match")
    begin = time.monotonic()
    found = sender.client.call("POST", "/messages", body=body, query={"wait": REPLY_S}, wait_s=REPLY_S)
    seconds = time.monotonic() - begin
    reply = found["reply"]
    _tell_exchange(stage, f"REQUEST {CAPABILITY}", f"client@{sender.name}", reply)
    history = sender.client.get(f"/messages/{found['message_id']}")
    answering = str(reply["sender"])
    stage.scene.nodes[node_of(answering)].answered += 1
    return Answer(
        request={
            "message_id": found["message_id"],
            "from": f"client@{sender.name}",
            "performative": "request",
            "capability": CAPABILITY,
            "content": body["content"],
            "attachment": {"name": stage.csv.name, "bytes": len(stage.csv.data), "rows": stage.csv.rows},
        },
        reply=reply,
        analysis=analysis_of(reply),
        routed_to=answering,
        route=_route(sender, answering, history),
        conversation_id=found["conversation_id"],
        seconds=seconds,
    )


def _tell_exchange(stage: Stage, what: str, asker: str, reply: Mapping[str, Any]) -> None:
    stage.screen.moved(f"{what}  {asker} -> {reply['sender']}")
    stage.screen.moved(f"{str(reply['performative']).upper()}  {reply['sender']} -> {asker}")


def _route(sender: Actor, answering: str, history: Mapping[str, Any]) -> dict[str, Any]:
    """From whom to whom, over which link, and why there."""
    links = {member["name"]: member.get("link_address") for member in members(sender)}
    routes = [route for route in history.get("routes", ()) if route["to"] == answering]
    decision = routes[-1].get("decision") if routes else None
    return {
        "path": [f"client@{sender.name}", answering],
        "link": links.get(node_of(answering)),
        "transport": _protection(sender, node_of(answering)),
        "decision": decision,
        "states": history.get("states", []),
    }


def _protection(sender: Actor, node: str) -> str:
    """What protects the sender's link to a node, as the sender reports it."""
    peers = sender.client.get("/status")["rooms"]["links"]["peers"]
    return str(peers.get(node, {}).get("protocol", ""))


def _sees_alive(actor: Actor, count: int) -> bool:
    return [member["state"] for member in members(actor)] == ["alive"] * count


def _knows(actor: Actor, analysts: int) -> bool:
    return len(providers(actor, CAPABILITY)) == analysts and bool(providers(actor, ECHO))
