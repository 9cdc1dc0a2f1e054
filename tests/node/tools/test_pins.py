"""What was approved of tools: trusted on first use, and compared by the whole of what a model reads."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.tools.pins import Described, Pins
from tests.node.tools.test_external import store

OBJECT: dict[str, Any] = {"type": "object"}


def tool(name: str = "a", description: str = "Does it.", schema: Any = OBJECT) -> Described:
    return Described(name, description, schema)


async def test_a_server_is_trusted_when_it_is_first_seen_and_not_again() -> None:
    kept = store()
    pins = Pins(kept, lambda: 1.0)
    approved, pending = await pins.sort("s", [tool()])
    assert (list(approved), pending) == (["a"], {})
    pins = Pins(kept, lambda: 2.0)
    approved, pending = await pins.sort("s", [tool(), tool("b")])
    assert (list(approved), list(pending)) == (["a"], ["b"])
    assert pending["b"].pinned is None
    assert pins.statistics() == {"servers": 1, "tools": 1}


async def test_a_server_without_tools_was_seen_too() -> None:
    kept = store()
    await Pins(kept, lambda: 1.0).sort("s", [])
    approved, pending = await Pins(kept, lambda: 2.0).sort("s", [tool()])
    assert (approved, list(pending)) == ({}, ["a"])


async def test_approving_nothing_is_no_first_sight() -> None:
    pins = Pins(None, lambda: 1.0)
    await pins.approve("s", {}, {})
    approved, _ = await pins.sort("s", [tool()])
    assert list(approved) == ["a"]


@pytest.mark.parametrize(
    "changed",
    [
        tool(description="Does it"),
        tool(schema=OBJECT | {"properties": {}}),
        tool(schema=OBJECT | {"required": [True]}),
        tool(description="Does it.\u200b"),
    ],
)
async def test_any_change_is_one_until_it_is_undone(changed: Described) -> None:
    pins = Pins(None, lambda: 1.0)
    await pins.sort("s", [tool()])
    _, pending = await pins.sort("s", [changed])
    assert [change["part"] for change in pending["a"].changes()] in (["description"], ["inputSchema"])
    assert (await pins.sort("s", [tool()]))[1] == {}


async def test_the_order_of_keys_is_no_change() -> None:
    pins = Pins(None, lambda: 1.0)
    await pins.sort("s", [tool(schema={"type": "object", "title": "t"})])
    assert (await pins.sort("s", [tool(schema={"title": "t", "type": "object"})]))[1] == {}


texts = st.text(max_size=20)


@given(texts, texts, texts, texts)
def test_two_descriptions_have_one_hash_only_if_they_are_the_same(a: str, b: str, c: str, d: str) -> None:
    first, second = tool(a, b), tool(c, d)
    assert (first.digest() == second.digest()) == ((a, b) == (c, d))
