"""Nodes of a simulated cluster hear each other's user events, and answer the questions they know."""

import pytest

from node.cluster.user_traffic import RECENT_USER_EVENTS
from node.errors import ResourceLimitExceeded, ValidationFailed
from node.telemetry.version import software_version
from swim.queries import MAX_OPEN
from tests.node.cluster.test_membership import simulate, until


async def two(cluster):
    nodes = [await cluster.start("alpha"), await cluster.start("beta", "alpha")]
    await until(lambda: all(len(node.membership.alive_nodes()) == 2 for node in nodes))
    return [node.membership.traffic for node in nodes]


def test_an_event_is_heard_by_every_node_once_and_the_oldest_makes_room(tmp_path):
    async def scenario(cluster):
        alpha, beta = await two(cluster)
        fired = alpha.fire("deploy", "42 ü")
        await until(beta.recent_events)
        [heard] = beta.recent_events()
        assert [heard[k] for k in ("name", "payload", "author")] == ["deploy", "42 ü", "alpha"]
        assert heard["lamport_time"] == fired["lamport_time"]
        assert alpha.recent_events() == [fired]
        for number in range(RECENT_USER_EVENTS):
            beta.fire("count", str(number))
        kept = [event["payload"] for event in beta.recent_events()]
        assert kept == [str(number) for number in range(RECENT_USER_EVENTS)]

    simulate(scenario, tmp_path)


def test_every_node_answers_ping_and_uptime_and_nobody_another_name(tmp_path):
    async def scenario(cluster):
        alpha, beta = await two(cluster)
        version = software_version()
        everybody = [{"node": name, "answer": f"{name} {version}"} for name in ("alpha", "beta")]
        assert await alpha.ask("ping", "") == {"name": "ping", "finished": True, "answers": everybody}
        named = await alpha.ask("uptime", "", nodes=["beta"], timeout_s=20.0)
        [answer] = named["answers"]
        assert (answer["node"], float(answer["answer"]) > 0.0) == ("beta", True)
        assert (await alpha.ask("ping", "", nodes=["alpha"]))["answers"] == everybody[:1]
        assert (await alpha.ask("mood", "good?", timeout_s=2.0))["answers"] == []
        assert beta.statistics() == {
            "answered": 2, "unanswered": 1, "answers_late": 0, "events_kept": 0, "queries_waited": 0,
        }  # fmt: skip

    simulate(scenario, tmp_path)


def test_what_is_too_long_or_too_much_is_refused(tmp_path):
    async def scenario(cluster):
        alpha, _ = await two(cluster)
        for name, payload in (("", ""), ("x" * 65, ""), ("a\nb", ""), ("x", "ü" * 257)):
            with pytest.raises(ValidationFailed):
                alpha.fire(name, payload)
        with pytest.raises(ValidationFailed):
            await alpha.ask("ping", "ü" * 513)
        for _ in range(MAX_OPEN):
            alpha._swim.traffic.ask("ping", b"", alpha._clock.now(), timeout_s=60.0)
        with pytest.raises(ResourceLimitExceeded):
            await alpha.ask("ping", "")

    simulate(scenario, tmp_path)
