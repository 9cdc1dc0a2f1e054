"""The client library against real nodes: on Trio, on asyncio, and without an event loop."""

import re
import subprocess
import sys

import anyio
import pytest

from node.client import AsyncClient, Client
from node.errors import NoReply, Unauthorized
from tests.acceptance.agents import ECHO
from tests.acceptance.processes import CONFIGS, clean_environment, eventually

ROOT = CONFIGS.parent


@pytest.fixture
def node(cluster):
    [found] = cluster.start("a")
    found.deploy(ECHO)
    cluster.wait_for_providers([found], echo=["a"])
    return found


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_all_of_it_works_over_a_restart_of_the_node(cluster, node, backend):
    async def use():
        async with AsyncClient(node.url, token=cluster.token) as client:
            reply = await client.request({"n": 1}, capability="echo")
            assert reply["sender"] == "echo-agent@a"
            assert len(await client.gather(1, capability="echo")) == 1
            batch = await client.batch([{"capability": "echo", "content": n} for n in range(5)])
            assert len({receipt.message_id for receipt in batch}) == 5
            talk = client.conversation(capability="echo")
            await talk.request("a")
            await talk.request("b")
            assert (await talk.shown())["message_count"] == 4
            with pytest.raises(NoReply):
                await client.request(1, receiver="nobody@elsewhere", timeout_s=0.3)
            mailbox = await client.mailbox("orders", topics=["orders.#"])
            for n in range(4):
                await client.send(n, topic="orders.eu", performative="inform", conversation_id="o")
            async with mailbox.subscribe() as deliveries:
                found = [await anext(deliveries) for _ in range(2)]
                assert await deliveries.ack(found[0]) == 1
                await anyio.to_thread.run_sync(node.kill)
                await anyio.to_thread.run_sync(node.start)
                found += [await anext(deliveries) for _ in range(2)]
                assert [delivery.content for delivery in found] == [0, 1, 2, 3]
                assert await deliveries.ack(*found) == 3
            await mailbox.delete()
        async with AsyncClient(node.url, token="caxton_wrong") as stranger:
            with pytest.raises(Unauthorized):
                await stranger.send(1, capability="echo")

    anyio.run(use, backend=backend)


def test_without_an_event_loop(cluster, node):
    with Client(node.url, token=cluster.token) as client:
        assert client.request(7, capability="echo")["sender"] == "echo-agent@a"
        mailbox = client.mailbox("letters")
        receipt = client.send(1, receiver=mailbox.address, performative="inform")
        with mailbox.subscribe() as deliveries:
            delivery = next(deliveries)
            assert delivery.message["message_id"] == receipt.message_id
            assert mailbox.ack(delivery) == 1
        eventually(lambda: client.message(receipt.message_id)["status"] == "settled")


def test_the_examples_of_the_documentation_run(cluster, node, tmp_path):
    text = (ROOT / "docs" / "client.md").read_text()
    examples = re.findall(r"^```python run\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(examples) >= 2
    for n, example in enumerate(examples):
        script = tmp_path / f"example_{n}.py"
        script.write_text(example)
        environment = clean_environment(tmp_path, CAXTON_API=node.url, CAXTON_TOKEN=cluster.token)
        done = subprocess.run(
            [sys.executable, str(script)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_an_application_loads_no_room_of_the_node():
    heavy = "{m.split('.')[1] for m in sys.modules if m.startswith('node.')} - {'client', 'errors'}"
    program = f"import sys, node.client; print({heavy} or '-', 'trio' in sys.modules, 'apsw' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == ["-", "False", "False"]
