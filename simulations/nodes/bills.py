"""What language models were asked, and what that costs: the outside of a node, which takes nothing back.

The bill is written at the model, so it knows nothing of what a node has counted, reserved or heard of others.
Models that a node would ask over a network are simulated: they answer after a while, and their answer has as
many tokens as chance wants.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from node.config import LlmConfig
from node.environment import Clock
from node.errors import ProviderFailed
from node.llm.budget import Spent
from node.llm.budgets import OUTPUT_RESERVED
from node.llm.builtin import NAME as BUILTIN
from node.llm.failures import RequestFailed
from node.llm.prices import PriceTable
from node.llm.provider import Completion, CompletionRequest, OnDelta, Provider, Usage
from node.llm.recording import asked
from node.llm.wire import estimate

ANSWER_S: Final = 0.4
"""Mean of the exponentially distributed time a simulated model takes."""
PROMPT_SHARE: Final = (0.6, 1.2)
"""Tokens that a prompt really has, as a part of those that are reserved for it."""


@dataclass(slots=True)
class Bill:
    """What one request to a model costs.

    Attributes:
        node: Who asked.
        boot: In which of its lives.
        agent: On whose behalf.
        conversation: In which conversation.
        began_s: When the request came, in seconds of the run.
        wall_s: The same by the node's own clock, which decides the period.
        promised: The most it was to cost: a token for every four bytes of prompt, and the longest answer.
        cost: What it costs; the most, where the answer never came back to whoever had asked.
        ended_s: When that was known.
    """

    node: str
    boot: int
    agent: str
    conversation: str
    began_s: float
    wall_s: float
    promised: Spent
    cost: Spent
    ended_s: float = math.inf


@dataclass(slots=True)
class Bills:
    """The bills of a run.

    Attributes:
        all: In the order of the requests.
    """

    all: list[Bill] = field(default_factory=list)


@dataclass(slots=True)
class Payer:
    """Who is billed: one life of a node.

    Attributes:
        name: The node's name.
        boot: How often it was started before.
        config: Its section ``llm``.
        clock: Its clock.
        chance: Draws what models answer.
    """

    name: str
    boot: int
    config: LlmConfig
    clock: Clock
    chance: random.Random


class MeteredProvider:
    """Another provider; what it is asked for is billed.

    Args:
        inner: Answers.
        payer: Who is billed.
        bills: Where bills go.
    """

    def __init__(self, inner: Provider, payer: Payer, bills: Bills) -> None:
        self._inner, self._payer, self._bills = inner, payer, bills
        self._prices = PriceTable(payer.config.prices)

    @property
    def name(self) -> str:
        """That of the other one."""
        return self._inner.name

    async def complete(self, request: CompletionRequest, *, on_delta: OnDelta | None = None) -> Completion:
        """Answer, and write the bill.

        Raises:
            ProviderFailed: the other one says so.
        """
        payer = self._payer
        most = Usage(prompt_tokens(request), request.max_tokens or OUTPUT_RESERVED)
        price = self._prices.cost_micros(most, model_of(payer.config, self.name, request)) or 0
        promised = Spent(most.total_tokens, price)
        bill = Bill(
            payer.name, payer.boot, request.agent, request.subject.conversation_id, payer.clock.now(),
            payer.clock.wall(), promised, promised,
        )  # fmt: skip
        self._bills.all.append(bill)
        try:
            completion = await self._inner.complete(request, on_delta=on_delta)
        except ProviderFailed as error:
            failed = error if isinstance(error, RequestFailed) else RequestFailed("rejected")
            bill.cost = Spent(failed.usage.total_tokens, failed.cost_micros)
            bill.ended_s = payer.clock.now()
            raise
        usage = completion.usage + completion.wasted
        bill.cost, bill.ended_s = Spent(usage.total_tokens, completion.cost_micros or 0), payer.clock.now()
        return completion


class SimulatedModel:
    """A model behind a network that there is not: it answers after a while, and counts its tokens.

    Args:
        name: Of the provider.
        payer: Who asks.
    """

    def __init__(self, name: str, payer: Payer) -> None:
        self.name = name
        self._payer = payer
        self._prices = PriceTable(payer.config.prices)

    async def complete(self, request: CompletionRequest, *, on_delta: OnDelta | None = None) -> Completion:
        """Answer in some words, of which there may be as many as the request allows."""
        del on_delta
        payer = self._payer
        await payer.clock.sleep(payer.chance.expovariate(1 / ANSWER_S))
        usage = Usage(
            math.ceil(prompt_tokens(request) * payer.chance.uniform(*PROMPT_SHARE)),
            payer.chance.randint(1, request.max_tokens or OUTPUT_RESERVED),
        )
        cost = self._prices.cost_micros(usage, model_of(payer.config, self.name, request))
        return Completion(text="Done.", usage=usage, provider=self.name, cost_micros=cost)


def around(payer: Payer, bills: Bills, provider: Provider) -> Provider:
    """A provider as a simulated node has it: what is free is left alone, what is far away simulated."""
    if provider.name == BUILTIN:
        return provider
    entry = payer.config.providers.get(provider.name)
    is_far = entry is not None and entry.type in ("openai", "anthropic")
    return MeteredProvider(SimulatedModel(provider.name, payer) if is_far else provider, payer, bills)


def prompt_tokens(request: CompletionRequest) -> int:
    """Tokens of a prompt, where nobody has counted them."""
    return estimate(len(str(asked(request)).encode(errors="replace")))


def model_of(config: LlmConfig, provider: str, request: CompletionRequest) -> str:
    """The model that answers."""
    entry = config.providers.get(provider)
    return request.model or (entry.model if entry is not None and entry.model else "")


def total(bills: Sequence[Bill]) -> Spent:
    """What some bills come to."""
    return sum((bill.cost for bill in bills), Spent())
