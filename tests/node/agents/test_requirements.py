"""What an agent requires of others: a warning while nobody offers it, never a refusal."""

from typing import Any

import pytest

from node.agents.definition import parse_definition
from tests.node.agents.rooms import rooms
from tests.node.agents.test_definition import agent, problems


async def test_what_nobody_offers_is_told_as_long_as_nobody_does() -> None:
    offered: dict[str, None] = {"sums": None}
    async with rooms(offered=offered.__contains__) as here:
        info = await here.supervisor.deploy(agent("requires: [sums, translation, translation]"))
        assert (info.status, info.waiting_for) == ("running", ("translation",))
        [warning] = info.as_json()["warnings"]
        assert (warning["type"], warning["field"]) == ("absent_provider", "requires")
        assert warning["message"].startswith("translation: nobody in the cluster offers it now")
        assert any("translation" in r.text for r in here.supervisor.logs("tester", level="warning"))
        offered["translation"] = None
        [shown] = here.supervisor.list()
        assert (shown.requires[:2], shown.waiting_for, shown.warnings) == (("sums", "translation"), (), ())
        del offered["sums"]
        assert here.supervisor.list()[0].as_json()["waiting_for"] == ["sums"]


async def test_labels_are_announced_and_shown() -> None:
    async with rooms() as here:
        await here.supervisor.deploy(agent("labels: {region: eu, specialization: [tax, law]}"))
        assert here.supervisor.list()[0].as_json()["labels"] == {
            "region": ["eu"],
            "specialization": ["law", "tax"],
        }
        assert here.registry.labels["tester"] == (
            ("region", "eu"),
            ("specialization", "law"),
            ("specialization", "tax"),
        )


@pytest.mark.parametrize(
    "given", ["eu", "[eu]", "{Region: eu}", "{region: 3}", "{region: [3]}", "{node: b}", "{region: ''}"]
)
def test_labels_that_are_none_are_errors(given: Any) -> None:
    [problem] = problems(agent(f"labels: {given}"))
    assert problem["field"].startswith("labels")


def test_what_is_required_must_be_capabilities() -> None:
    assert problems(agent("requires: [Not A Capability]"))[0]["field"] == "requires[0]"
    assert parse_definition(agent("requires: ['sums:v2']")).requires == ("sums:v2",)
