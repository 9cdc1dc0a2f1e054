"""An endpoint may be slow, wrong or down: vectors of the model, or a clear error."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import numpy as np
import pytest
import trio
from trio.testing import MockClock

from node.environment import SystemClock, ThreadWorkers, system_environment
from node.errors import EmbeddingFailed
from node.memory.embedding import EmbeddingSettings, make_embedder
from node.memory.embedding.engine import TextRefused
from node.memory.embedding.http_engine import ATTEMPTS, RETRY_AFTER_LIMIT_S, Endpoint, HttpEngine
from simulations.environment import InlineWorkers

CLOCK = SystemClock()
ENDPOINT = Endpoint("http://models.test/v1/", "embed-3", 3, api_key="secret", timeout_s=5)


def item(index: int, *numbers: float) -> dict[str, Any]:
    return {"object": "embedding", "index": index, "embedding": list(numbers)}


def answer(*items: Any) -> httpx.Response:
    return httpx.Response(200, json={"object": "list", "data": list(items), "model": "embed-3"})


def engine(*answers: Any) -> tuple[HttpEngine, list[httpx.Request]]:
    """An engine whose requests get ``answers`` in turn, the last one for ever."""
    asked: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        given = answers[min(len(asked), len(answers)) - 1]
        if isinstance(given, Exception):
            raise given
        found: httpx.Response = given() if callable(given) else given
        return found

    transport = httpx.MockTransport(handle)
    return HttpEngine(ENDPOINT, InlineWorkers(), CLOCK, transport=transport), asked


async def refusal(made: HttpEngine) -> EmbeddingFailed:
    with pytest.raises(EmbeddingFailed) as caught:
        await made.vectors(["a"])
    assert caught.value.fix
    assert "secret" not in str(caught.value) + repr(caught.value.details)
    return caught.value


async def test_vectors_come_in_the_order_of_the_texts_and_have_length_one() -> None:
    made, asked = engine(answer(item(1, 0, 3, 4), item(0, 2, 0, 0)))
    rows = await made.vectors(["a", "b"])
    assert np.allclose(rows, [[1, 0, 0], [0, 0.6, 0.8]])
    assert rows.dtype == np.float32
    assert str(asked[0].url) == "http://models.test/v1/embeddings"
    assert asked[0].headers["authorization"] == "Bearer secret"
    said = json.loads(asked[0].content)
    assert said == {"model": "embed-3", "input": ["a", "b"], "encoding_format": "float"}
    await made.aclose()


async def test_blank_texts_are_not_sent_and_have_zeros() -> None:
    made, asked = engine(answer(item(0, 1, 0, 0)))
    rows = await made.vectors(["", "a", " \n"])
    assert rows.any(1).tolist() == [False, True, False]
    assert json.loads(asked[0].content)["input"] == ["a"]
    assert not (await made.vectors([" "])).any()
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (answer(), "answered with 0"),
        (answer(item(0, 1, 0, 0), item(1, 1, 0, 0)), "answered with 2"),
        (answer(item(1, 1, 0, 0)), "answered with 1"),
        (answer(item(0, 1, 0)), "2 numbers, not 3"),
        (answer(item(0)), "0 numbers, not 3"),
        (answer(item(0, 0, 0, 0)), "without a direction"),
        (
            httpx.Response(200, content=b'{"data": [{"index": 0, "embedding": [NaN, 1, 1]}]}'),
            "without a direction",
        ),
        (
            httpx.Response(200, content=b'{"data": [{"index": 0, "embedding": [1e999, 1, 1]}]}'),
            "without a direction",
        ),
        (answer({"index": 0, "embedding": [[1], [2], [3]]}), "3x1 numbers"),
        (answer({"index": 0, "embedding": [[1], [2, 3]]}), "not a list of embeddings"),
        (answer({"index": 0, "embedding": "AACAPwAAAAAAAAAA"}), "not a list of embeddings"),
        (answer({"index": None, "embedding": [1, 2, 3]}), "not a list of embeddings"),
        (answer(3), "not a list of embeddings"),
        (httpx.Response(200, content=b"<html>"), "not a list of embeddings"),
        (httpx.Response(200, content=b"[" * 50_000), "not a list of embeddings"),
        (httpx.Response(200, content=b"x" * 200_000), "more than"),
        (httpx.Response(404, json={"error": "no such model"}), "status 404"),
        (httpx.Response(302, headers={"location": "http://elsewhere.test"}), "status 302"),
    ],
)
async def test_a_wrong_answer_is_refused_at_once(given: httpx.Response, why: str) -> None:
    made, asked = engine(given)
    error = await refusal(made)
    assert why in error.why
    assert not isinstance(error, TextRefused)
    assert len(asked) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refused_text_is_told_apart(status: int) -> None:
    made, asked = engine(httpx.Response(status, json={"error": "too long"}))
    assert isinstance(await refusal(made), TextRefused)
    assert len(asked) == 1


@pytest.mark.parametrize("trouble", [httpx.Response(503), httpx.Response(429), httpx.ConnectError("refused")])
async def test_trouble_that_passes_is_waited_for(autojump_clock: MockClock, trouble: Any) -> None:
    made, asked = engine(trouble, trouble, answer(item(0, 1, 0, 0)))
    started = CLOCK.now()
    assert (await made.vectors(["a"])).any()
    assert len(asked) == 3
    assert CLOCK.now() - started == pytest.approx(0.5 + 1)
    assert made.statistics() == {"requests": 3, "failed_requests": 2}


async def test_trouble_that_lasts_is_told(autojump_clock: MockClock) -> None:
    made, asked = engine(httpx.ConnectError("refused"))
    assert "refused" in (await refusal(made)).why
    assert len(asked) == ATTEMPTS


@pytest.mark.parametrize(
    ("asked_for", "waited_s"),
    [("3", 3.0), ("1e9", RETRY_AFTER_LIMIT_S), ("-1", 0.5), ("nan", 0.5), ("inf", 0.5), ("Thu, 01 Jan", 0.5)],
)
async def test_the_endpoint_says_when_to_come_again(
    autojump_clock: MockClock, asked_for: str, waited_s: float
) -> None:
    busy = httpx.Response(429, headers={"retry-after": asked_for})
    made, _ = engine(busy, answer(item(0, 1, 0, 0)))
    started = CLOCK.now()
    await made.vectors(["a"])
    assert CLOCK.now() - started == pytest.approx(waited_s)


class SlowBody(httpx.AsyncByteStream):
    """An answer that never ends, a byte every second."""

    async def __aiter__(self) -> Any:
        while True:
            await CLOCK.sleep(1)
            yield b" "


async def test_an_answer_that_never_ends_is_given_up(autojump_clock: MockClock) -> None:
    endless: Callable[[], httpx.Response] = lambda: httpx.Response(200, stream=SlowBody())  # noqa: E731
    made, asked = engine(endless)
    started = CLOCK.now()
    assert "within 5 s" in (await refusal(made)).why
    assert len(asked) == ATTEMPTS
    assert CLOCK.now() - started == pytest.approx(3 * 5 + 0.5 + 1)


async def test_a_connection_whose_answer_is_too_long_is_left() -> None:
    async def pour(stream: trio.SocketStream) -> None:
        await stream.receive_some(65_536)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"2710\r\n" + b"x" * 10_000 + b"\r\n")

    async with trio.open_nursery() as nursery:
        listener = (await nursery.start(trio.serve_tcp, pour, 0))[0]
        port = listener.socket.getsockname()[1]
        made = HttpEngine(Endpoint(f"http://127.0.0.1:{port}", "m", 3), ThreadWorkers(), CLOCK)
        assert "more than" in (await refusal(made)).why
        await made.aclose()
        nursery.cancel_scope.cancel()


async def test_the_identity_is_the_provider_the_name_and_the_dimension() -> None:
    def digest(**other: Any) -> str:
        given = {"url": "http://a.test", "model": "m", "dimension": 3} | other
        return HttpEngine(Endpoint(**given), ThreadWorkers(), CLOCK).model.digest

    assert digest() == digest(url="http://b.test", api_key="k", timeout_s=1)
    assert len({digest(), digest(model="n"), digest(dimension=4), digest(provider="other")}) == 4


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("url", ""),
        ("url", "models.test"),
        ("url", "file:///etc"),
        ("url", "http://["),
        ("model", ""),
        ("dimension", 0),
    ],
)
async def test_settings_that_do_not_say_enough_are_refused(setting: str, value: Any) -> None:
    settings = {"provider": "http", "url": "http://models.test", "model": "m", "dimension": 3} | {
        setting: value
    }
    with pytest.raises(EmbeddingFailed) as caught:
        await make_embedder(EmbeddingSettings(**settings), system_environment())
    assert caught.value.details == {"setting": setting}


async def test_an_embedder_for_an_endpoint_contacts_nobody_before_the_first_text() -> None:
    settings = EmbeddingSettings(
        provider="http", url="http://127.0.0.1:1", model="m", dimension=3, api_key="secret"
    )
    embedder = await make_embedder(settings, system_environment())
    assert embedder.statistics()["requests"] == 0
    assert "secret" not in repr(settings)
    await embedder.aclose()
