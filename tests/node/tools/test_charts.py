"""Charts are real pictures, the same bytes each time; what cannot be drawn is refused before it is tried."""

from __future__ import annotations

import base64
import hashlib
import sys
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import trio

from node.errors import CaxtonError, ResourceLimitExceeded, ToolFailed, ValidationFailed
from node.telemetry.tracing import Tracing
from node.tools import charts as module
from node.tools.artifacts import CONTENT, Produced, artifact_of
from node.tools.builtin_servers import builtin_servers
from node.tools.charts import BARS_LIMIT, POINTS_LIMIT, Chart, Series, draw
from node.tools.host import CallContext, ToolHost
from tests.node.agents.inline import inline_environment

KINDS = {
    "bar": Chart(kind="bar", series=(Series((1, 2), "a"), Series((3, -1.5), "b")), labels=("x", "y")),
    "line": Chart(kind="line", series=(Series((1, 2, 3)),), title="Cost in $, up to 5 \\$ or $6"),
    "pie": Chart(kind="pie", series=(Series((1, 0, 2)),), labels=("x", "y", "z")),
    "scatter": Chart(kind="scatter", series=(Series((1, 2), x=(5, 6)),), x_label="x"),
    "histogram": Chart(kind="histogram", series=(Series((1, 2, 2, 3)),), bins=3),
}


def size(png: bytes) -> tuple[int, int]:
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn_the_same_each_time(kind: str) -> None:
    chart = KINDS[kind]
    chart.check()
    png = draw(chart, "png")
    assert (png[:8], size(png)) == (b"\x89PNG\r\n\x1a\n", (800, 480))
    assert draw(chart, "png") == png
    svg = draw(chart, "svg")
    assert ET.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert draw(chart, "svg") == svg


def test_what_is_drawn_depends_on_the_numbers() -> None:
    other = Chart(kind="line", series=(Series((1, 2, 4)),), title=KINDS["line"].title)
    assert draw(other, "png") != draw(KINDS["line"], "png")


def test_any_letters_are_a_title() -> None:
    for title in ("$", "$x^{", "a\n\x00b", "茶 ☕ שלום", "<script>", "x" * 5_000):
        draw(Chart(kind="bar", series=(Series((1,)),), labels=(title,), title=title), "svg")


@pytest.mark.parametrize(
    ("chart", "error"),
    [
        (Chart(kind="bar", series=()), ValidationFailed),
        (Chart(kind="bar", series=(Series(()),)), ValidationFailed),
        (Chart(kind="bar", series=(Series((1, 2)),), labels=("x",)), ValidationFailed),
        (Chart(kind="bar", series=(Series((1,)), Series((1, 2))), labels=("x",)), ValidationFailed),
        (Chart(kind="bar", series=(Series((float("nan"),)),)), ValidationFailed),
        (Chart(kind="line", series=(Series((1e200,)),)), ValidationFailed),
        (Chart(kind="line", series=(Series((1,)),) * 13), ResourceLimitExceeded),
        (Chart(kind="line", series=(Series((1.0,) * (POINTS_LIMIT + 1)),)), ResourceLimitExceeded),
        (Chart(kind="bar", series=(Series((1.0,) * (BARS_LIMIT + 1)),)), ResourceLimitExceeded),
        (Chart(kind="pie", series=(Series((1,)), Series((1,)))), ValidationFailed),
        (Chart(kind="pie", series=(Series((1, -1)),)), ValidationFailed),
        (Chart(kind="pie", series=(Series((0, 0)),)), ValidationFailed),
        (Chart(kind="pie", series=(Series((1.0,) * 25),)), ResourceLimitExceeded),
        (Chart(kind="scatter", series=(Series((1, 2)),)), ValidationFailed),
        (Chart(kind="scatter", series=(Series((1, 2), x=(1,)),)), ValidationFailed),
        (Chart(kind="scatter", series=(Series((1,), x=(float("inf"),)),)), ValidationFailed),
        (Chart(kind="histogram", series=(Series((1,)), Series((1,)))), ValidationFailed),
        (Chart(kind="histogram", series=(Series((2, 2)),)), ValidationFailed),
    ],
)
def test_what_cannot_be_drawn_is_refused(chart: Chart, error: type[CaxtonError]) -> None:
    with pytest.raises(error):
        chart.check()


def test_a_picture_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PICTURE_LIMIT", 1_000)
    with pytest.raises(ResourceLimitExceeded, match="too large"):
        draw(KINDS["bar"], "png")


def test_without_matplotlib_the_tool_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ToolFailed) as caught:
        draw(KINDS["bar"], "png")
    assert "pip install 'caxton[charts]'" in caught.value.fix


async def test_the_tool_gives_a_picture_with_its_description() -> None:
    environment = inline_environment()
    host = ToolHost(environment=environment, tracing=Tracing.off(), servers=builtin_servers())

    async def ask(**arguments: Any) -> Any:
        return await host.call("chart", arguments, CallContext("a", ("chart_generator",)))

    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        answer = await ask(kind="bar", data={"North": 100, "South": 245}, title="Revenue by region!")
        artifact = answer["artifact"]
        png = base64.b64decode(artifact[CONTENT])
        assert (artifact["name"], artifact["mime"]) == ("revenue-by-region.png", "image/png")
        assert (artifact["bytes"], artifact["sha256"]) == (len(png), hashlib.sha256(png).hexdigest())
        assert answer["alt"] == "A bar chart “Revenue by region!” with 2 values from 100 to 245"
        series = [{"name": "a", "values": [1, 2], "x": [1, 2]}]
        answer = await ask(kind="scatter", series=series, labels=["left", "out"], format="svg")
        assert answer["artifact"]["name"] == "scatter.svg"
        for wrong in ({}, {"data": {"a": 1}, "series": series}, {"data": {}}, {"series": []}):
            with pytest.raises(ToolFailed):
                await ask(kind="bar", **wrong)
        nursery.cancel_scope.cancel()


def test_a_file_leaves_the_result_and_the_model_is_told_the_rest() -> None:
    produced = Produced()
    result = {"artifact": artifact_of("a.png", "image/png", b"one"), "alt": "A chart"}
    told = produced.take(result)
    assert told["alt"] == "A chart"
    assert told["artifact"] == {key: value for key, value in result["artifact"].items() if key != CONTENT}
    again = produced.take({"artifact": artifact_of("a.png", "image/png", b"two")})
    assert again["artifact"]["name"] == "a-2.png"
    assert [(f.name, f.data) for f in produced.attachments] == [("a.png", b"one"), ("a-2.png", b"two")]


@pytest.mark.parametrize(
    "result",
    [None, "text", {"artifact": None}, {"artifact": {"name": "x"}}, {"facts": []}, ["artifact"]],
)
def test_a_result_without_a_file_stays_as_it_is(result: Any) -> None:
    produced = Produced()
    assert produced.take(result) is result
    assert produced.attachments == ()


@pytest.mark.parametrize(
    "change",
    [
        {CONTENT: "%"},
        {CONTENT: 3.5},
        {"name": None},
        {"name": ".."},
        {"name": ""},
        {"mime": ""},
        {"name": "a\nb"},
    ],
)
def test_what_is_no_file_is_not_attached_and_its_content_not_told(change: dict[str, Any]) -> None:
    produced = Produced()
    told = produced.take({"artifact": artifact_of("a.png", "image/png", b"one") | change})
    assert CONTENT not in told["artifact"]
    assert "cannot be read" in told["artifact"]["note"]
    assert produced.attachments == ()


def test_a_path_of_a_tool_is_a_plain_name_and_files_are_bounded() -> None:
    produced = Produced(limit_bytes=5)
    produced.take({"artifact": artifact_of("../../etc/x", "text/plain", b"123")})
    assert produced.attachments[0].name == ".._.._etc_x"
    with pytest.raises(ResourceLimitExceeded):
        produced.take({"artifact": artifact_of("y", "text/plain", b"123")})
    many = Produced()
    for _ in range(16):
        many.take({"artifact": artifact_of("y", "text/plain", b"")})
    with pytest.raises(ResourceLimitExceeded, match="16 files"):
        many.take({"artifact": artifact_of("y", "text/plain", b"")})
