"""The composition root in a simulated cluster: what starts, what ends, what the rooms tell each other."""

import errno
import json

import pytest
import trio

from node.cluster.membership import Membership
from node.config import load_config
from node.errors import AddressInUse, CaxtonError, ConfigInvalid, NoReply, SecurityMaterialInvalid
from node.message import Attachment, Message
from node.messaging.tender import Award, Prefer
from node.node import Node
from node.process import run_node
from node.samples import sample
from node.security.authority import create_cluster, issue_node
from node.vocabulary import Performative, RoutingStrategy
from simulations.cluster import SimulatedCluster
from simulations.environment import simulated_environment
from simulations.kernel import run
from simulations.network import HostNetwork, VirtualNetwork

ECHO = sample("agents/echo.md").read_bytes()
ECHO_FILES = {"echo.wat": sample("agents/echo.wat").read_bytes()}


def simulate(scenario, directory):
    async def in_cluster(world):
        async with trio.open_nursery() as nursery:
            result = await scenario(SimulatedCluster(world, directory, nursery))
            nursery.cancel_scope.cancel()
        return result

    return run(in_cluster, 1, limit_s=600.0)


def request(cluster, name, content, **fields):
    environment = cluster.nodes[name].environment
    identifier = environment.new_id()
    address = fields if "receiver" in fields else {"capability": "echo"} | fields
    return Message(
        id=identifier,
        performative=Performative.REQUEST,
        sender=f"client@{name}",
        content=content,
        conversation_id=identifier,
        reply_with=identifier,
        timestamp_s=environment.clock.wall(),
        **address,
    )


async def until(question, within_s=60.0):
    with trio.fail_after(within_s):
        while not question():
            await trio.sleep(0.05)


async def asker_and_echo(cluster):
    """Two nodes; the second has the echo agent, and the first knows it."""
    alpha = await cluster.start("alpha")
    beta = await cluster.start("beta", "alpha")
    await beta.supervisor.deploy(ECHO, artifacts=ECHO_FILES)
    await until(lambda: alpha.membership.registry.providers("echo"))
    return alpha, beta


def links_of(cluster, name):
    return cluster.nodes[name].node.links.statistics()["outbound"]


def test_a_request_is_answered_on_another_node_and_the_reply_comes_back(tmp_path):
    async def scenario(cluster):
        alpha, _ = await asker_and_echo(cluster)
        reply = await alpha.bus.request(request(cluster, "alpha", {"x": 1}), timeout_s=10)
        return reply.performative, reply.sender, reply.content["echo"]

    assert simulate(scenario, tmp_path) == (Performative.INFORM, "echo-agent@beta", {"x": 1})


def test_a_dead_node_is_not_dialled_and_gets_what_was_addressed_to_it_when_it_is_back(tmp_path):
    async def scenario(cluster):
        alpha, _ = await asker_and_echo(cluster)
        first = request(cluster, "alpha", 1, receiver="echo-agent@beta")
        await alpha.bus.request(first, timeout_s=10)
        assert links_of(cluster, "alpha") == 1
        await cluster.crash("beta")
        await until(lambda: not alpha.membership.is_alive("beta"))
        await trio.sleep(1)
        assert links_of(cluster, "alpha") == 0
        replies = []

        async def ask():
            second = request(cluster, "alpha", 2, receiver="echo-agent@beta")
            replies.append(await alpha.bus.request(second, timeout_s=120))

        async with trio.open_nursery() as clients:
            clients.start_soon(ask)
            await trio.sleep(2)
            await cluster.start("beta", "alpha")
        return replies[0].content["echo"]

    assert simulate(scenario, tmp_path) == 2


def test_a_node_that_is_asked_to_end_says_goodbye_and_is_known_to_have_left(tmp_path):
    async def scenario(cluster):
        await cluster.start("alpha")
        beta = await cluster.start("beta", "alpha")
        alpha = cluster.nodes["alpha"].node
        await until(lambda: alpha.membership.is_alive("beta"))
        beta.shutdown()
        await cluster.nodes["beta"].ended.wait()
        await until(lambda: not alpha.membership.is_alive("beta"))
        return {view.name: view.state for view in alpha.membership.members()}, str(
            alpha.membership.partition().side
        )

    assert simulate(scenario, tmp_path) == ({"alpha": "alive", "beta": "left"}, "majority")


def test_a_node_cut_off_from_the_others_says_so(tmp_path):
    async def scenario(cluster):
        nodes = [await cluster.start("alpha")]
        nodes += [await cluster.start(name, "alpha") for name in ("beta", "gamma")]
        await until(lambda: all(len(node.membership.alive_nodes()) == 3 for node in nodes))
        assert [str(node.membership.partition().side) for node in nodes] == ["majority"] * 3
        cluster.network.partition(("alpha", "beta"), ("gamma",))
        await until(lambda: [len(node.membership.alive_nodes()) for node in nodes] == [2, 2, 1])
        apart = [str(node.membership.partition().side) for node in nodes]
        cluster.network.heal()
        await until(lambda: all(len(node.membership.alive_nodes()) == 3 for node in nodes), within_s=120)
        return apart

    assert simulate(scenario, tmp_path) == ["majority", "majority", "isolated"]


def test_a_restarted_node_publishes_under_a_higher_generation_and_keeps_its_agents(tmp_path):
    async def scenario(cluster):
        alpha, beta = await asker_and_echo(cluster)
        before = beta.membership.replicated.generation
        await cluster.crash("beta")
        beta = await cluster.start("beta", "alpha")
        await until(lambda: alpha.membership.is_alive("beta") and beta.membership.replicated.generation)
        await until(lambda: alpha.membership.registry.providers("echo"))
        reply = await alpha.bus.request(request(cluster, "alpha", "again"), timeout_s=30)
        return beta.membership.replicated.generation > before, reply.content["echo"]

    assert simulate(scenario, tmp_path) == (True, "again")


def refusal(directory, overrides, taken=None):
    """The error with which ``run_node`` of a bundle ends under these settings."""

    async def scenario(world):
        network = VirtualNetwork(world)
        environment, host = simulated_environment(world, network, "alpha")
        create_cluster(directory / "cluster", environment=environment)
        bundle = issue_node(directory / "cluster", "alpha", environment=environment)
        settings = {"cluster.bind_host": host.ip, "storage.data_dir": str(directory / "data")} | overrides
        config = load_config(bundle.config, environ={}, overrides=settings)
        if taken is not None:
            await environment.network.listen(host.ip, taken)
        try:
            await run_node(config, environment=environment, on_ready=lambda ready: pytest.fail(str(ready)))
        except CaxtonError as error:
            return error

    return run(scenario, 1, limit_s=60.0)


def test_a_node_bound_to_every_address_needs_one_to_tell(tmp_path):
    error = refusal(tmp_path, {"cluster.bind_host": "0.0.0.0"})
    assert isinstance(error, ConfigInvalid)
    assert error.details == {"key": "cluster.advertise_host"}


def test_a_bundle_of_another_name_is_refused(tmp_path):
    error = refusal(tmp_path, {"cluster.node_name": "beta"})
    assert isinstance(error, SecurityMaterialInvalid)
    assert "beta" in str(error)


@pytest.mark.parametrize(
    ("port", "key"), [(7946, "cluster.bind_port"), (7947, "cluster.link_port"), (8080, "server.port")]
)
def test_a_taken_port_is_named_with_its_key(tmp_path, port, key):
    error = refusal(tmp_path, {}, taken=port)
    assert isinstance(error, AddressInUse)
    assert key in json.dumps(error.as_json())


def test_a_request_waits_for_the_only_provider_to_come_back_from_its_death(tmp_path):
    async def scenario(cluster):
        alpha, _ = await asker_and_echo(cluster)
        await cluster.crash("beta")
        await until(lambda: not alpha.membership.is_alive("beta"))
        replies = []

        async def ask():
            replies.append(await alpha.bus.request(request(cluster, "alpha", "patient"), timeout_s=120))

        async with trio.open_nursery() as clients:
            clients.start_soon(ask)
            await trio.sleep(30)
            assert replies == []
            await cluster.start("beta", "alpha")
        return replies[0].performative, replies[0].content["echo"]

    assert simulate(scenario, tmp_path) == (Performative.INFORM, "patient")


def test_a_request_whose_only_provider_has_left_fails_soon_and_says_so(tmp_path):
    async def scenario(cluster):
        alpha, beta = await asker_and_echo(cluster)
        beta.shutdown()
        await cluster.nodes["beta"].ended.wait()
        await until(lambda: not alpha.membership.is_alive("beta"))
        reply = await alpha.bus.request(request(cluster, "alpha", "x"), timeout_s=20)
        return reply.performative, reply.content["code"]

    assert simulate(scenario, tmp_path) == (Performative.FAILURE, "CAPABILITY_NOT_FOUND")


SLOW = b"""---
name: Worker
version: 1.0.0
capabilities: [slow-work]
tools: []
llm: {provider: scripted}
system_prompt: Take your time.
---
"""


def test_a_node_that_ends_finishes_or_gives_back_its_work_and_none_is_done_twice(tmp_path):
    script = tmp_path / "script.yaml"
    script.write_text("strict: true\nrules:\n  - times: 0\n    latency_s: 1.0\n    content: {done: true}\n")
    settings = {"llm.scripted.path": str(script), "runtime.agent_concurrency": 4}

    async def scenario(cluster):
        await cluster.start("alpha")
        for name in ("beta", "gamma"):
            node = await cluster.start(name, "alpha", settings=settings)
            await node.supervisor.deploy(SLOW)
        alpha = cluster.nodes["alpha"].node
        await until(lambda: len(alpha.membership.registry.providers("slow-work")) == 2)
        replies = []

        async def ask(number):
            asked = request(
                cluster,
                "alpha",
                number,
                capability="slow-work",
                routing_strategy=RoutingStrategy.LOAD_BALANCED,
            )
            replies.append(await alpha.bus.request(asked, timeout_s=120))

        async with trio.open_nursery() as clients:
            for number in range(40):
                clients.start_soon(ask, number)
            await trio.sleep(1.5)
            cluster.nodes["gamma"].node.shutdown()
            await cluster.nodes["gamma"].ended.wait()
            assert alpha.bus.unsettled_by_node().get("gamma", 0) == 0
        counts = alpha.bus.statistics()
        return [reply.performative for reply in replies], counts["outbox"]["late"], counts["inbox"]["late"]

    assert simulate(scenario, tmp_path / "cluster") == ([Performative.INFORM] * 40, 0, 0)


def test_a_port_that_may_not_be_bound_is_named_with_its_key(tmp_path, monkeypatch):
    listen = HostNetwork.listen

    async def guarded(self, host, port):
        if port == 7946:
            raise PermissionError(errno.EACCES, "Permission denied")
        return await listen(self, host, port)

    monkeypatch.setattr(HostNetwork, "listen", guarded)
    error = refusal(tmp_path, {})
    assert isinstance(error, ConfigInvalid)
    assert (error.why, error.details) == ("Permission denied", {"key": "cluster.bind_port"})


def test_the_admin_api_is_built_before_membership_could_take_that_for_a_stall(tmp_path, monkeypatch):
    happened = []
    run_membership = Membership.run

    async def membership(self, *, task_status):
        happened.append("membership")
        await run_membership(self, task_status=task_status)

    async def serve(self, application, *, task_status):
        happened.append(application)
        task_status.started(("10.0.0.9", 1))

    monkeypatch.setattr(Membership, "run", membership)
    monkeypatch.setattr(Node, "_create_application", lambda self: happened.append("built") or "application")
    monkeypatch.setattr(Node, "_serve", serve)
    init = Node.__init__
    monkeypatch.setattr(
        Node, "__init__", lambda self, *args, **options: init(self, *args, **{**options, "serve_http": True})
    )

    async def scenario(cluster):
        await cluster.start("alpha")

    simulate(scenario, tmp_path)
    assert happened == ["built", "membership", "application"]


def test_three_nodes_one_cut_off_each_capability_by_its_policy(tmp_path):
    policies = ("serve", "queue", "refuse")

    def agent_of(policy):
        lines = f"name: {policy}-agent\nversion: 1.0.0\ncapabilities: [{policy}-work]\nminority: {policy}\n"
        return f"---\n{lines}runtime: wasm\nmodule: echo.wat\n---\n".encode()

    async def scenario(cluster):
        nodes = [await cluster.start(name, *seeds) for name, *seeds in
                 (("alpha",), ("beta", "alpha"), ("gamma", "alpha"))]  # fmt: skip
        for node in nodes:
            for policy in policies:
                await node.supervisor.deploy(agent_of(policy), artifacts=ECHO_FILES)
        for node in nodes:
            await until(
                lambda n=node: all(len(n.membership.registry.providers(f"{p}-work")) == 3 for p in policies)
            )
        cluster.network.partition(("alpha", "beta"), ("gamma",))
        await until(lambda: str(nodes[2].membership.partition().side) != "majority", 120)
        await until(lambda: not nodes[0].membership.is_alive("gamma"), 120)

        async def ask(name, policy):
            message = request(cluster, name, policy, capability=f"{policy}-work")
            try:
                reply = await cluster.nodes[name].node.bus.request(message, timeout_s=15)
            except NoReply:
                return message, "none"
            return message, reply.content.get("code", reply.performative.value)

        told = {(name, policy): await ask(name, policy) for name in ("alpha", "gamma") for policy in policies}
        cluster.network.heal()
        waiting = told["gamma", "queue"][0]
        gamma = nodes[2]
        with trio.fail_after(240):
            while (await gamma.bus.history(waiting.id)).as_json()["status"] != "settled":
                await trio.sleep(1)
        return {where: how for where, (_, how) in told.items()}

    assert simulate(scenario, tmp_path) == {
        ("alpha", "serve"): "inform", ("alpha", "queue"): "inform", ("alpha", "refuse"): "inform",
        ("gamma", "serve"): "inform", ("gamma", "queue"): "none", ("gamma", "refuse"): "MINORITY_REFUSED",
    }  # fmt: skip


def test_a_configured_agent_bids_and_does_what_its_bid_was_accepted_for(tmp_path):
    def agent_of(name, cost):
        lines = f"name: {name}\nversion: 1.0.0\ncapabilities: [summing]\nbids: {{cost: {cost}}}\n"
        return f"---\n{lines}system_prompt: You sum up.\ntools: [csv_parser]\n---\n".encode()

    async def scenario(cluster):
        alpha = await cluster.start("alpha")
        beta, gamma = [await cluster.start(name, "alpha") for name in ("beta", "gamma")]
        await beta.supervisor.deploy(agent_of("dear-agent", 9))
        await gamma.supervisor.deploy(agent_of("cheap-agent", 2))
        await until(lambda: len(alpha.membership.registry.providers("summing")) == 2)
        file = Attachment("s.csv", "text/csv", b"product,revenue\na,1\nb,2.5\n")
        task = {"action": "analyze", "file": "s.csv"}
        outcome = await alpha.bus.call_for_proposals(
            request(cluster, "alpha", task, capability="summing", attachments=(file,)),
            deadline_s=10,
            result_s=30,
            award=Award(by="content.cost", prefer=Prefer.LOWEST),
        )
        found = outcome.as_json()
        bids = [(bid["from"], bid["value"], bid["state"]) for bid in found["bids"]]
        return found["status"], bids, outcome.results[0].performative, outcome.results[0].sender

    assert simulate(scenario, tmp_path) == (
        "done",
        [("cheap-agent@gamma", 2.0, "done"), ("dear-agent@beta", 9.0, "rejected")],
        Performative.INFORM,
        "cheap-agent@gamma",
    )


def test_a_budget_of_the_cluster_is_spent_by_all_nodes_and_remembered_after_a_crash(tmp_path):
    script = tmp_path / "script.yaml"
    script.write_text(
        "rules:\n  - {times: 0, content: {done: true}, input_tokens: 400, output_tokens: 100}\n"
    )
    settings = {"llm.scripted.path": str(script), "llm.budgets.cluster.tokens": 8_000}

    async def scenario(cluster):
        for name, *seeds in (("alpha",), ("beta", "alpha")):
            node = await cluster.start(name, *seeds, settings=settings)
            await node.supervisor.deploy(SLOW)

        async def ask(name):
            asked = request(cluster, name, 1, receiver=f"worker@{name}")
            reply = await cluster.nodes[name].node.bus.request(asked, timeout_s=60)
            return reply.performative, reply.content.get("details", {}).get("spent")

        def others(name):
            return cluster.nodes[name].node.providers.statistics()["budgets"]["cluster"]["others"]["tokens"]

        answers = [await ask("beta") for _ in range(7)]
        await until(lambda: others("alpha") == 3_500)
        told = [await ask("alpha"), await ask("alpha"), await ask("alpha")]
        await until(lambda: others("beta") == 500)
        await cluster.crash("beta")
        await cluster.start("beta", "alpha", settings=settings)
        await until(lambda: others("beta") == 500)
        return answers, told, await ask("beta")

    answers, told, after = simulate(scenario, tmp_path)
    assert answers == [(Performative.INFORM, None)] * 7
    assert told == [(Performative.INFORM, None)] + [(Performative.FAILURE, 4_000)] * 2
    assert after == (Performative.FAILURE, 4_000)
