"""One trace from the HTTP request through both nodes to the tool call.

Two nodes in one process, so that their spans can be looked at: each has its own provider and exporter, and
they talk over real sockets on loopback.
"""

from dataclasses import dataclass

import httpx
import trio
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from node.config import load_config
from node.environment import system_environment
from node.node import Node
from node.security.identity import NodeCredentials
from node.security.pki import new_cluster
from node.security.tokens import Tokens
from node.telemetry.tracing import Tracing
from tests.acceptance.agents import RANKER

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"


@dataclass
class Traced:
    """A running node, where it is reached, and its spans."""

    node: Node
    ready: object
    exporter: InMemorySpanExporter

    def spans(self):
        return [
            span for span in self.exporter.get_finished_spans() if f"{span.context.trace_id:032x}" == TRACE
        ]


async def _start(nursery, name, *, directory, secrets, seeds=()):
    environment = system_environment()
    exporter = InMemorySpanExporter()
    ports = dict.fromkeys(("server.port", "cluster.bind_port", "cluster.link_port"), 0)
    config = load_config(
        None,
        environ={"HOME": str(directory)},
        overrides={
            **ports,
            "cluster.node_name": name,
            "cluster.profile": "local",
            "cluster.seeds": list(seeds),
            "server.dev_mode": True,
            "storage.data_dir": str(directory / name),
        },
    )
    node = Node(
        config,
        environment=environment,
        credentials=NodeCredentials.ephemeral(name, environment, secrets=secrets),
        tokens=Tokens(dev_mode=True),
        tracing=Tracing.create(
            node=name,
            enabled=True,
            clock=environment.clock,
            id_source=environment.randomness.stream("traces"),
            exporter=exporter,
        ),
    )
    return Traced(node, await nursery.start(node.run), exporter)


async def test_one_trace_leads_from_the_request_through_both_nodes_to_the_tool_call(tmp_path):
    secrets = new_cluster(system_environment(), "traced")
    async with trio.open_nursery() as nursery:
        b = await _start(nursery, "b", directory=tmp_path, secrets=secrets)
        seeds = [f"127.0.0.1:{b.ready.gossip[1]}"]
        a = await _start(nursery, "a", directory=tmp_path, secrets=secrets, seeds=seeds)
        await b.node.supervisor.deploy(RANKER.read_bytes(), filename=RANKER.name)
        with trio.fail_after(20):
            while not a.node.membership.registry.providers("sales-ranking"):
                await trio.sleep(0.05)
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{a.ready.api[1]}/api/v1", timeout=30
        ) as client:
            answer = await client.post(
                "/messages",
                headers={"traceparent": f"00-{TRACE}-{CALLER}-01"},
                json={
                    "capability": "sales-ranking",
                    "content": {"action": "top", "by": "region", "count": 1},
                    "attachments": [
                        {"name": "s.csv", "media_type": "text/csv", "text": "region,revenue\nn,1\ns,2\n"}
                    ],
                    "wait_s": 20,
                },
            )
        assert answer.status_code == 200, answer.text
        assert answer.json()["reply"]["sender"] == "sales-ranker@b"
        with trio.fail_after(10):
            while not any(span.name.startswith("POST") for span in a.spans()):
                await trio.sleep(0.01)
        for traced in (a, b):
            traced.node.shutdown()

    spans = {
        f"{span.context.span_id:016x}": (traced.node.name, span)
        for traced in (a, b)
        for span in traced.spans()
    }
    [tool] = [span for _, span in spans.values() if span.name.startswith("tools/call ")]
    way = []
    parent = f"{tool.context.span_id:016x}"
    while parent in spans:
        name, span = spans[parent]
        way.append((name, span.name))
        parent = f"{span.parent.span_id:016x}"
    assert parent == CALLER, f"the chain breaks at {parent}: {way}"
    assert way[-1][0] == "a", "it begins at the node that was asked"
    assert way[-1][1].startswith("POST")
    assert way[0][0] == "b", "and ends at the node that has the tool"
    assert ("b", "agent.handle") in way
    for _, span in spans.values():
        assert span.parent is not None, f"{span.name} has no parent, so it is no part of the caller's trace"
        assert f"{span.parent.span_id:016x}" in {*spans, CALLER}, span.name
    stray = [
        span.name
        for traced in (a, b)
        for span in traced.exporter.get_finished_spans()
        if span.name.startswith("tools/")
    ]
    assert stray == [tool.name], "no other trace has a tool call"
