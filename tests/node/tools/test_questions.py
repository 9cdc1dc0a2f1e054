"""Questions in plain words reach the right CSV tool with the right columns, or are refused."""

from __future__ import annotations

import pytest
import trio

from node.errors import ToolFailed
from node.llm.builtin import BuiltinProvider
from node.llm.provider import CompletionRequest, FileInfo, Subject, ToolSpec
from node.telemetry.tracing import Tracing
from node.tools.host import CallContext, ToolHost
from tests.node.agents.inline import inline_environment

SALES = b"""region,product,quantity,revenue
North,Tent,1,100
South,Tent,2,200
South,Lamp,9,45
West,Stove,3,150
"""
RANKER = ("csv_parser/csv_top", "csv_parser/csv_aggregate")


async def answer(question: str, granted: tuple[str, ...], capability: str) -> list[str]:
    """What the offline provider has the tools say."""
    host = ToolHost(environment=inline_environment(), tracing=Tracing.off())
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        specs = [ToolSpec(t.name, t.description, t.input_schema) for t in await host.tools_for(granted)]
        subject = Subject("request", capability, question, files=(FileInfo("s.csv", "text/csv", len(SALES)),))
        completion = await BuiltinProvider().complete(
            CompletionRequest(messages=(), tools=tuple(specs), subject=subject)
        )
        [call] = completion.tool_calls
        context = CallContext("tester", granted, files={"s.csv": SALES})
        try:
            result = await host.call(call.name, call.arguments, context)
        except ToolFailed as error:
            result = {"facts": [error.why]}
        nursery.cancel_scope.cancel()
    return [str(fact) for fact in result["facts"]]


@pytest.mark.parametrize(
    ("question", "fact"),
    [
        ("which region sold most?", "top region by revenue: South (245), West (150), North (100)"),
        ("top 2 products by quantity", "top product by quantity: Lamp (9), Stove (3)"),
        ("top 2 regions", "top region by revenue: South (245), West (150)"),
        ("the best-selling products", "top product by revenue: Tent (300), Stove (150), Lamp (45)"),
        ("rank by region", "top region by revenue: South (245), West (150), North (100)"),
        ("average quantity by region", "average of quantity by region: South: 5.5, West: 3, North: 1"),
        ("total quantity per product", "sum of quantity by product: Lamp: 9, Stove: 3, Tent: 3"),
        ("total sales by region", "sum of revenue by region: South: 245, West: 150, North: 100"),
        ("average margin by region", "there is no column 'margin'"),
    ],
)
async def test_a_question_is_answered_as_it_was_asked_or_refused(question: str, fact: str) -> None:
    [found] = await answer(question, RANKER, "sales-ranking")
    assert fact in found


async def test_an_agent_with_all_tools_ranks_when_asked_which_and_describes_what_is_missing() -> None:
    [found] = await answer("which region sold most?", ("csv_parser",), "data-analysis")
    assert found.startswith("top region by revenue: South (245)")
    found, *_ = await answer("which products have missing values?", ("csv_parser",), "data-analysis")
    assert found.startswith("4 rows and 4 columns")
