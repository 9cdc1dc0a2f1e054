"""The server ``text``: what it finds in notes, logs and texts, and what it refuses."""

from __future__ import annotations

import pytest
import trio

from node.errors import ToolFailed, ValidationFailed
from node.telemetry.tracing import Tracing
from node.tools.host import CallContext, ToolHost
from node.tools.log_questions import log_report
from node.tools.text_questions import LINE_LIMIT, LINES_LIMIT, glossary, minutes, summary
from node.tools.text_server import TEXT_BYTES_LIMIT
from tests.node.agents.inline import inline_environment


def action(line: str) -> tuple[str, str | None, str | None, bool]:
    [found] = minutes(line)["actions"]
    return found["task"], found["owner"], found["due"], found["done"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("Action: Ben will profile the search by Friday.", ("profile the search", "Ben", "Friday", False)),
        ("- [ ] Chidi to update it before 18 March 2026", ("update it", "Chidi", "18 March 2026", False)),
        ("* [x] Anna: order cables", ("order cables", "Anna", None, True)),
        ("1. TODO: tell customers (Anna)", ("tell customers", "Anna", None, False)),
        ("Ben will call on 2026-03-19", ("call", "Ben", "2026-03-19", False)),
        ("todo - buy milk", ("buy milk", None, None, False)),
    ],
)
def test_actions_have_owner_date_and_state_where_the_notes_name_them(
    line: str, found: tuple[str, str | None, str | None, bool]
) -> None:
    assert action(line) == found


def test_decisions_questions_and_dates_have_their_lines() -> None:
    found = minutes("Decision: no deploys\n\nWe agreed to wait. Is it late?\nIt will rain on 2026-01-02.\n")
    assert found["decisions"] == [
        {"decision": "no deploys", "line": 1},
        {"decision": "We agreed to wait. Is it late?", "line": 3},
    ]
    assert found["questions"] == [{"question": "Is it late?", "line": 3}]
    assert found["dates"] == [{"date": "2026-01-02", "line": 4}]


def test_notes_that_name_nothing_say_so() -> None:
    assert minutes("It was nice.")["facts"] == ["The notes name no action, decision, question or date."]


def test_a_summary_is_made_of_sentences_of_the_text_in_their_order() -> None:
    text = "# Cache\nThe cache was full. Lunch was good. The cache fills when the cache index grows."
    found = summary(text, 2)
    assert found["summary"] == ["The cache was full.", "The cache fills when the cache index grows."]
    assert (found["sentences"], found["keywords"][0]) == (3, "cache")


def test_the_longest_term_wins_and_whole_words_only() -> None:
    terms = [("port", "Hafen"), ("port number", "Portnummer"), ("", "x"), ("y", "")]
    found = glossary("Port number and port; report.", terms, None)
    assert found["text"] == "Portnummer and Hafen; report."
    assert [(e["term"], e["count"]) for e in found["terms"]] == [("port number", 1), ("port", 1)]
    assert glossary("a port", terms, "ein HAFEN")["missing"] == []
    assert glossary("a port", terms, "ein Tor")["missing"] == ["port"]
    with pytest.raises(ValidationFailed):
        glossary("a", [("", "")], None)


def test_a_log_counts_levels_and_takes_what_varies_out_of_messages() -> None:
    lines = [f"2026-03-12 10:0{n}:00,123 ERROR x: took {n} ms for '{n}'" for n in range(3)]
    found = log_report(
        "\n".join([*lines, "WARN slow", "NOTICE up", '{"level":"fatal","msg":"out","ts":7}', "{"])
    )
    assert found["levels"] == {"ERROR": 3, "FATAL": 1, "INFO": 1, "WARNING": 1}
    assert [(p["level"], p["count"], p["line"]) for p in found["problems"]] == [
        ("fatal", 1, 6),
        ("error", 3, 1),
        ("warning", 1, 4),
    ]
    assert (found["first"], found["last"]) == ("2026-03-12 10:00:00,123", "7")
    assert found["lines"] == 7


@pytest.mark.parametrize(
    "text", ["Ben will " + "x " * 99_000, "[" * 99_000, "1 March " * 50_000, "{" * 9_999]
)
def test_long_lines_are_answered_from_their_beginning(text: str) -> None:
    for answer in (minutes(text), summary(text, 3), log_report(text)):
        assert len(str(answer)) < 10 * LINE_LIMIT


def test_a_text_of_too_many_lines_is_refused() -> None:
    with pytest.raises(ValidationFailed, match="too long"):
        minutes("a\n" * (LINES_LIMIT + 1))


async def test_the_server_reads_attachments_and_texts_and_refuses_the_rest() -> None:
    host = ToolHost(environment=inline_environment(), tracing=Tracing.off())
    files = {
        "n.txt": b"\xef\xbb\xbfDecision: yes",
        "t.csv": b"de\nja\n",
        "big.log": b"x" * (TEXT_BYTES_LIMIT + 1),
    }
    context = CallContext(agent="a", granted=("text",), files=files)
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        found = await host.call("text_minutes", {"file": "n.txt", "text": "Decision: no"}, context)
        assert (found["file"], found["decisions"][0]["decision"]) == ("n.txt", "yes")
        found = await host.call("text_summary", {"text": "All is well here."}, context)
        assert found["words"] == 4
        for tool, arguments, reason in (
            ("text_minutes", {}, "there is no text"),
            ("text_minutes", {"file": "gone.txt"}, "no file 'gone.txt'"),
            ("text_log", {"file": "big.log"}, "too large"),
            ("text_glossary", {"glossary": "t.csv", "text": "ja"}, "two columns"),
            ("text_summary", {"text": "a", "sentences": 0}, "sentences"),
        ):
            with pytest.raises(ToolFailed, match=reason):
                await host.call(tool, arguments, context)
        nursery.cancel_scope.cancel()
