"""Pictures that tools make leave with the agent's answer; the model sees only what they are."""

from __future__ import annotations

from node.agents.settings import AgentSettings
from node.llm.registry import ProviderRegistry
from node.vocabulary import Performative
from tests.node.agents.rooms import rooms
from tests.node.agents.test_configured import scripted
from tests.node.agents.test_definition import agent

DRAW = "{name: chart, arguments: {kind: bar, data: {a: 1, b: 2}}}"
ARTIST = agent("tools: [chart_generator]")


async def test_a_chart_is_an_attachment_of_the_answer() -> None:
    providers = scripted(
        f"tool_calls: [{DRAW}, {DRAW.replace('bar', 'line')}]",
        'match: {tool_result: "content_base64"}, text: it saw the bytes',
        'match: {tool_result: "line.png"}, text: here you are',
    )
    async with rooms(providers=providers) as here:
        await here.supervisor.deploy(ARTIST)
        [draft] = await here.send("tester", "draw")
        assert draft.content["answer"] == "here you are"
        assert [(a.name, a.media_type, a.data[1:4]) for a in draft.attachments] == [
            ("bar.png", "image/png", b"PNG"),
            ("line.png", "image/png", b"PNG"),
        ]


async def test_the_offline_model_draws_from_plain_words() -> None:
    async with rooms(providers=ProviderRegistry()) as here:
        await here.supervisor.deploy(ARTIST)
        [draft] = await here.send("tester", "draw a pie chart of North 100, South 245 and West 150")
        assert draft.performative is Performative.INFORM
        [picture] = draft.attachments
        assert picture.name == "pie.png"
        assert "pie.png" in draft.content["answer"][0]
        assert "content_base64" not in str(draft.content)


async def test_a_file_too_many_is_an_error_that_the_model_is_told() -> None:
    providers = scripted(f"tool_calls: [{DRAW}]", 'match: {tool_result: "cannot carry"}, text: too large')
    async with rooms(providers=providers, settings=AgentSettings(max_produced_bytes=100)) as here:
        await here.supervisor.deploy(ARTIST)
        [draft] = await here.send("tester", "draw")
        assert (draft.content["answer"], draft.attachments) == ("too large", ())


async def test_a_failure_carries_no_files() -> None:
    providers = scripted(f"tool_calls: [{DRAW}]")  # the script has no answer to the result
    async with rooms(providers=providers) as here:
        await here.supervisor.deploy(ARTIST)
        [draft] = await here.send("tester", "draw")
        assert (draft.performative, draft.attachments) == (Performative.FAILURE, ())
