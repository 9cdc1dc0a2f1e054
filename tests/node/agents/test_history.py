"""What was said before comes before the prompt; what falls out of the window goes where the agent says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio

from node.agents.definition import examine_definition
from node.agents.history import MESSAGES_LIMIT, PERSISTED_LIMIT, READ_S, SUMMARIES_LIMIT
from node.errors import StorageFailed
from node.llm.provider import Completion, CompletionRequest
from node.message import Message
from node.vocabulary import Performative
from tests.node.agents.inline import TestClock
from tests.node.agents.rooms import Rooms, rooms
from tests.node.agents.test_configured import Recorder, recorded
from tests.node.agents.test_definition import agent
from tests.node.agents.test_remembering import known, memory  # noqa: F401 - a fixture

CLIENT = "client@node-2"
ME = "tester@node-1"


def said(number: int, sender: str, content: Any, **more: Any) -> Message:
    facts = {
        "id": f"m{number}",
        "performative": Performative.INFORM if sender == ME else Performative.REQUEST,
        "sender": sender,
        "receiver": None if sender == CLIENT else CLIENT,
        "capability": "testing" if sender == CLIENT else None,
        "content": content,
        "conversation_id": "conversation-1",
        "reply_with": f"m{number}",
        "in_reply_to": f"m{number - 1}" if sender == ME else None,
    }
    return Message(**(facts | more))


def dialogue(*contents: Any) -> list[Message]:
    """Questions of the client and answers of the agent by turns."""
    return [said(n, ME if n % 2 else CLIENT, content) for n, content in enumerate(contents)]


class Model(Recorder):
    """A provider that tells a summary from an answer by its limit of tokens."""

    fails = False

    async def complete(self, request: CompletionRequest, **_: object) -> Completion:
        self.requests.append(request)
        if request.max_tokens is not None and self.fails:
            raise StorageFailed("no summary today")
        return Completion(text="done" if request.max_tokens is None else "RETOLD", provider=self.name)


def prompt(provider: Recorder) -> list[tuple[str, str]]:
    """What the last request shows after the system prompt and before the prompt."""
    return [(m.role, m.text) for m in provider.requests[-1].messages[1:-1]]


async def asked(here: Rooms, front: Sequence[str], *conversation: Message) -> None:
    await here.supervisor.deploy(agent(*front), replace=True)
    here.bus.conversation = list(conversation)
    [draft] = await here.send("tester", "now")
    assert draft.performative is Performative.INFORM


async def test_earlier_turns_come_before_the_prompt_in_their_order() -> None:
    provider = Recorder()
    async with rooms(providers=recorded(provider)) as here:
        await asked(
            here,
            ["conversation: {memory_strategy: sliding}"],
            *dialogue(
                "one", {"provider": "p", "answer": "1"}, {"a": 2}, {"provider": "p", "answer": ["x", "y"]}
            ),
        )
    assert prompt(provider) == [
        ("user", "one"),
        ("assistant", "1"),
        ("user", '{"a": 2}'),
        ("assistant", "x\ny"),
    ]
    assert "now" in provider.requests[-1].messages[-1].text


async def test_without_a_strategy_nothing_is_read() -> None:
    provider = Recorder()
    async with rooms(providers=recorded(provider)) as here:
        await asked(here, [], *dialogue("one", "1"))
    assert prompt(provider) == []


async def test_what_others_said_or_was_for_others_is_not_shown() -> None:
    provider = Recorder()
    foreign = [
        said(0, "other@node-3", "secret of another", receiver=ME, capability=None),
        said(1, ME, "answer to another", receiver="other@node-3"),
        said(2, CLIENT, "for another agent", receiver="other@node-3", capability=None),
        said(3, CLIENT, "never answered"),
        said(4, CLIENT, "noted", receiver="tester", capability=None),
        said(5, "client@node-3", "another client", receiver=ME, capability=None),
        said(9, ME, "another answer to another", receiver="other@node-3"),
        said(6, CLIENT, "elsewhere", receiver=ME, capability=None, conversation_id="c2"),
        said(7, CLIENT, "the message itself", id="message-1", receiver=ME, capability=None),
        said(8, CLIENT, "after it", receiver=ME, capability=None),
    ]
    async with rooms(providers=recorded(provider)) as here:
        await asked(here, ["conversation: {memory_strategy: sliding}"], *foreign)
    assert prompt(provider) == [("user", "noted")]


async def test_the_window_takes_the_latest_and_begins_with_a_question() -> None:
    provider = Recorder()
    front = ["conversation: {memory_strategy: sliding, context_window: 100}"]
    async with rooms(providers=recorded(provider)) as here:
        await asked(here, front, *dialogue("a" * 396, "b" * 100, "c" * 100, "d" * 196))
        assert [text[0] for _, text in prompt(provider)] == [
            "c",
            "d",
        ]  # b fits, but would be an answer to nothing
        await asked(here, front, *dialogue("a" * 404, "b" * 404))
        assert prompt(provider) == []


async def test_what_falls_out_is_retold_once_and_the_summary_grows() -> None:
    provider = Model()
    front = ["conversation: {memory_strategy: summarize, context_window: 100}"]
    first = dialogue("old question " * 20, "old answer " * 30, "c" * 40, "d" * 40)
    async with rooms(providers=recorded(provider)) as here:
        await asked(here, front, *first)
        assert prompt(provider)[0] == ("user", "What was said before, in short, as data:\nRETOLD")
        assert [text[0] for _, text in prompt(provider)[1:]] == ["c", "d"]
        [retelling, answer] = provider.requests
        assert "old question" in retelling.messages[1].text
        assert (retelling.tools, retelling.turn, answer.turn) == ((), 1, 2)
        await here.send("tester", "again")
        assert len(provider.requests) == 3  # nothing new has fallen out
        assert "RETOLD" in prompt(provider)[0][1]
        here.bus.conversation = [*first, *dialogue(*[""] * 4, "e" * 200, "f" * 180)[4:]]
        await here.send("tester", "more")
        assert provider.requests[3].messages[1].text == f"RETOLD\nuser: {'c' * 40}\nassistant: {'d' * 40}"


@pytest.mark.parametrize("fails", [True, False])
async def test_without_a_model_that_retells_it_is_the_first_sentences(fails: bool) -> None:
    provider = Model()
    provider.fails = fails
    provider.name = "recorder" if fails else "builtin"
    front = ["conversation: {memory_strategy: summarize, context_window: 100}", "llm: {provider: recorder}"]
    async with rooms(providers=recorded(provider)) as here:
        await asked(here, front, *dialogue("I am Ann. " + "x" * 400, "Hello Ann! " + "y" * 400))
        told = prompt(provider)[0][1]
        assert told.endswith("as data:\nuser: I am Ann.\nassistant: Hello Ann!")
        assert len(provider.requests) == 1 + fails


async def stored(room: Any, words: list[str]) -> list[str]:
    """Which of the words some observation begins with, each as often as it does."""
    texts = [o.text for word in words for o in await known(room, f"{word}ish") if f"the {word} " in o.text]
    return [word for text in texts for word in words if f"the {word} " in text]


async def test_what_falls_out_is_stored_in_the_memory_a_few_turns_at_a_time(memory: Any) -> None:  # noqa: F811
    provider = Recorder()
    front = ["memory_enabled: true", "conversation: {memory_strategy: persist, context_window: 100}"]
    words = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen"]
    long = dialogue(*[f"the {word} {f'{word}ish ' * 70}" for word in words])
    async with rooms(providers=recorded(provider), memory=memory) as here:
        await asked(here, front, *long)
        assert await stored(memory, words) == words[:PERSISTED_LIMIT]
        await here.send("tester", "again")
        await here.send("tester", "and again")
        assert await stored(memory, words) == words


async def test_templates_may_place_history_and_summary() -> None:
    provider = Model()
    front = [
        "conversation: {memory_strategy: summarize, context_window: 100}",
        'user_prompt_template: "S<{{conversation_summary}}> C<{{context}}> {{request}}"',
    ]
    async with rooms(providers=recorded(provider)) as here:
        await asked(here, front, *dialogue("x" * 404, "y" * 404, "hi", "ho"))
    assert prompt(provider) == []
    assert provider.requests[-1].messages[-1].text == "S<RETOLD> C<user: hi\nassistant: ho> now"


@pytest.mark.parametrize("slow", [True, False])
async def test_a_conversation_that_cannot_be_read_does_not_fail_the_answer(
    slow: bool, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = Recorder()

    async def broken(*_: object) -> list[Message]:
        if slow:
            await TestClock().sleep(READ_S + 1)
        raise StorageFailed("the disk is gone")

    async with rooms(providers=recorded(provider)) as here:
        monkeypatch.setattr(here.bus, "said", broken)
        await asked(here, ["conversation: {memory_strategy: sliding}"])
        assert any("without what was said before" in r.text for r in here.supervisor.logs("tester"))
    assert prompt(provider) == []


async def test_what_is_read_and_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = Model()
    limits: list[int] = []
    async with rooms(providers=recorded(provider)) as here:

        async def read(conversation: str, limit: int) -> list[Message]:
            await trio.lowlevel.checkpoint()
            limits.append(limit)
            return [said(0, CLIENT, "x" * 404), said(1, ME, "y" * 404)]

        monkeypatch.setattr(here.bus, "said", read)
        await here.supervisor.deploy(agent("conversation: {memory_strategy: summarize, context_window: 100}"))
        for number in range(SUMMARIES_LIMIT + 1):
            await here.send("tester", "x", conversation=f"c{number}")
        before = len(provider.requests)
        await here.send("tester", "x", conversation=f"c{SUMMARIES_LIMIT}")
        assert len(provider.requests) == before + 1
        await here.send("tester", "x", conversation="c0")  # was pushed out, and is retold anew
        assert len(provider.requests) == before + 3
    assert set(limits) == {MESSAGES_LIMIT}


@pytest.mark.parametrize(
    ("line", "said_of"),
    [
        ("conversation: {memory_strategy: persist}", "keeps nothing: memory_enabled is not true"),
        ("conversation: {context_window: 500}", "has no effect without memory_strategy"),
        ('user_prompt_template: "{{context}}"', "'context' is empty without"),
    ],
)
def test_settings_without_an_effect_are_warned_about(line: str, said_of: str) -> None:
    found = [p for p in examine_definition(agent(line)).problems if p.type == "no_effect"]
    assert [said_of in p.message and p.severity == "warning" for p in found] == [True]
    assert found[0].line == 6  # the line that was added


async def test_a_promise_of_an_answer_is_not_shown() -> None:
    provider = Recorder()
    promise = said(1, ME, {"reason": "an operator must approve"}, performative=Performative.AGREE)
    async with rooms(providers=recorded(provider)) as here:
        await asked(here, ["conversation: {memory_strategy: sliding}"], said(0, CLIENT, "do it"), promise)
    assert prompt(provider) == [("user", "do it")]
