"""The section ``llm``: which language models there are, how they are reached, what may be spent on them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from node.config.section import Section
from node.config.units import Bytes, Count, Seconds, Text, Texts

PROVIDERS_LIMIT: Final = 32
"""Most providers of a node."""
PRICES_LIMIT: Final = 256
"""Most models with a price."""
HEADERS_LIMIT: Final = 16
"""Most headers that are added to the requests of a provider."""
BUILT_IN: Final = ("builtin", "scripted")
"""Providers that need no entry under ``providers``."""
AUTO: Final = "auto"
OPENAI_URL: Final = "https://api.openai.com/v1"
ANTHROPIC_URL: Final = "https://api.anthropic.com"
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_HEADER: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_OWN_HEADERS: Final = frozenset(
    {"accept", "accept-encoding", "authorization", "api-key", "content-length", "content-type", "host"}
    | {"transfer-encoding", "x-api-key", "anthropic-version"}
)

Money = Annotated[float, Field(ge=0, le=1_000_000_000, allow_inf_nan=False)]
"""An amount in the currency of the price table."""


class ScriptedConfig(Section):
    """The ``scripted`` provider, which answers from a file.

    Attributes:
        path: The script.
    """

    path: Path | None = None


class LlmTimeouts(Section):
    """How long providers may take, each attempt.

    Attributes:
        connect_s: To connect, TLS included.
        read_s: Longest silence while an answer is waited for or read.
        total_s: For a whole answer.
    """

    connect_s: Seconds = Field(default=10.0, alias="connect")
    read_s: Seconds = Field(default=60.0, alias="read")
    total_s: Seconds = Field(default=120.0, alias="total")


class LlmRetry(Section):
    """Trying again after a failure that may pass.

    Attributes:
        attempts: Requests for one answer, the first included.
        initial_s: Longest pause before the second; it doubles. The pause is drawn from 0 to that.
        max_s: Longest pause, and the longest a provider's own wish for one (Retry-After) is heeded.
    """

    attempts: Annotated[Count, Field(le=10)] = 3
    initial_s: Seconds = Field(default=1.0, alias="initial")
    max_s: Seconds = Field(default=30.0, alias="max")


class LlmBreaker(Section):
    """Leaving a provider alone that fails.

    Attributes:
        failures: Failures in a row after which it is not asked.
        open_s: How long.
        probes: Answers in a row, asked for one at a time, after which it is asked as before.
    """

    failures: Count = 5
    open_s: Seconds = Field(default=60.0, alias="open")
    probes: Count = 3


class LlmPrice(Section):
    """What a model costs, in one currency for a million tokens.

    Attributes:
        input: Tokens of prompts.
        output: Tokens of answers.
        cached_input: Tokens of prompts that come from a cache; as ``input`` where it is not given.
        cache_write: Tokens of prompts that are written to one; as ``input`` where it is not given.
    """

    input: Money
    output: Money
    cached_input: Money | None = None
    cache_write: Money | None = None


class LlmProvider(Section):
    """One provider.

    Attributes:
        type: The language it speaks, or ``record`` and ``replay``.
        base_url: Its address.
        api_key: The key; best written as a reference to a variable.
        auth: Where the key goes: ``Authorization: Bearer``, or ``api-key`` (``x-api-key`` for anthropic).
        model: The model of agents that name none.
        deployment: Azure's name of a deployed model.
        api_version: Azure's ``api-version``, or the version of Anthropic's interface.
        max_tokens: Most tokens of an answer, where the agent sets none.
        stream: Whether answers are read piece by piece.
        structured: What the server can be asked for by a schema.
        headers: More headers of its requests.
        ca_cert: Certificates to trust in place of the well-known ones.
        fallbacks: Providers that are asked, in this order, when this one fails.
        quota: Providers with the same one share a limit: none stands in for another that hit it.
        concurrency: Most requests at once.
        waiting: Most requests that wait for their turn.
        connect_timeout_s: In place of ``llm.timeouts.connect``.
        read_timeout_s: In place of ``llm.timeouts.read``.
        total_timeout_s: In place of ``llm.timeouts.total``.
        allow_plain_http: Whether ``http://`` may lead to other than loopback and private addresses.
        source: The provider that ``record`` asks.
        path: The file that ``record`` writes and ``replay`` reads.
    """

    type: Literal["openai", "anthropic", "record", "replay"]
    base_url: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    api_key: Annotated[SecretStr, Field(max_length=4096)] | None = None
    auth: Literal["bearer", "api_key"] | None = None
    model: Text | None = None
    deployment: Text | None = None
    api_version: Text | None = None
    max_tokens: Count | None = None
    stream: bool = True
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    headers: dict[str, SecretStr] = Field(default_factory=dict, max_length=HEADERS_LIMIT)
    ca_cert: Path | None = None
    fallbacks: Texts = ()
    quota: Text | None = None
    concurrency: Annotated[Count, Field(le=10_000)] = 8
    waiting: Count = 256
    connect_timeout_s: Seconds | None = Field(default=None, alias="connect_timeout")
    read_timeout_s: Seconds | None = Field(default=None, alias="read_timeout")
    total_timeout_s: Seconds | None = Field(default=None, alias="total_timeout")
    allow_plain_http: bool = False
    source: Text | None = None
    path: Path | None = None

    @property
    def url(self) -> str:
        """The address, that of the maker where none is given, without a slash at the end."""
        default = OPENAI_URL if self.type == "openai" else ANTHROPIC_URL
        return (self.base_url or default).rstrip("/")

    @property
    def key(self) -> str:
        """The key in the clear; empty for none."""
        return self.api_key.get_secret_value() if self.api_key is not None else ""

    @field_validator("api_key")
    @classmethod
    def _key_is_a_word(cls, key: SecretStr | None) -> SecretStr | None:
        text = key.get_secret_value() if key is not None else ""
        if not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError("the key must be printable ASCII without spaces")
        return key

    @field_validator("headers")
    @classmethod
    def _headers_are_ours_to_set(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in headers.items():
            text = value.get_secret_value()
            if not (_HEADER.fullmatch(name) and text.isascii() and text.isprintable() and len(text) <= 4096):
                raise ValueError(f"{name[:64]!r} is not a header that can be sent")
            if name.lower() in _OWN_HEADERS:
                raise ValueError(f"the header {name!r} is set by the provider itself")
        return headers

    @model_validator(mode="after")
    def _fits_its_type(self) -> LlmProvider:
        if self.type in ("record", "replay"):
            if self.path is None:
                raise ValueError(f"a provider of type {self.type!r} needs a path")
            if (self.source is None) == (self.type == "record"):
                raise ValueError("source is what 'record' needs, and nothing else has")
            if self.fallbacks:
                raise ValueError(f"a provider of type {self.type!r} has no fallbacks")
            return self
        if self.path is not None or self.source is not None:
            raise ValueError("path and source belong to the types 'record' and 'replay'")
        if self.deployment is not None and (self.base_url is None or self.api_version is None):
            raise ValueError("a deployment (Azure) needs base_url and api_version")
        problem = url_problem(self.url, plain_http=self.allow_plain_http)
        if problem:
            raise ValueError(f"base_url {problem}")
        return self


class LlmBudget(Section):
    """What may be spent; what is not given is not bounded.

    Attributes:
        tokens: Tokens of prompts and answers.
        money: In the currency of the price table; models without a price then cannot be asked.
        tool_calls: Tool calls.
    """

    tokens: Annotated[int, Field(ge=1, le=10**15)] | None = None
    money: Annotated[Money, Field(gt=0)] | None = None
    tool_calls: Annotated[int, Field(ge=1, le=10**12)] | None = None


class LlmBudgets(Section):
    """Bounds of spending.

    Attributes:
        period_s: The time a budget is for, counted from 1970 in Coordinated Universal Time.
        agent: Of each agent on a node.
        conversation: Of each conversation on a node.
        cluster: Of all nodes together.
    """

    period_s: Seconds = Field(default=86_400.0, alias="period")
    agent: LlmBudget = LlmBudget()
    conversation: LlmBudget = LlmBudget()
    cluster: LlmBudget = LlmBudget()

    @property
    def bounded(self) -> bool:
        """Whether anything is bounded at all."""
        return LlmBudgets(period_s=self.period_s) != self


class LlmConfig(Section):
    """Language-model providers.

    Attributes:
        provider: Of agents that name none; ``builtin`` is deterministic and offline, ``auto`` takes what the
            environment's variables name.
        scripted: The ``scripted`` provider.
        providers: The providers by name.
        timeouts: How long they may take.
        retry: Trying again.
        breaker: Leaving one alone that fails.
        max_answer_bytes: Largest answer.
        prices: What models cost, by name.
        budgets: Bounds of spending.
    """

    provider: Text = "builtin"
    scripted: ScriptedConfig = ScriptedConfig()
    providers: dict[str, LlmProvider] = Field(default_factory=dict, max_length=PROVIDERS_LIMIT)
    timeouts: LlmTimeouts = LlmTimeouts()
    retry: LlmRetry = LlmRetry()
    breaker: LlmBreaker = LlmBreaker()
    max_answer_bytes: Bytes = Field(default=4 * 1024**2, alias="max_answer")
    prices: dict[str, LlmPrice] = Field(default_factory=dict, max_length=PRICES_LIMIT)
    budgets: LlmBudgets = LlmBudgets()

    @model_validator(mode="after")
    def _names_are_known(self) -> LlmConfig:
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        known = (*BUILT_IN, *self.providers)
        for name in self.providers:
            if not _NAME.fullmatch(name) or name in (*BUILT_IN, AUTO):
                yield f"{name[:80]!r} cannot name a provider: small letters, digits, _ and -, no built-in one"
        wanted = [("provider", self.provider)]
        for name, provider in self.providers.items():
            wanted += [(f"providers.{name}.fallbacks", fallback) for fallback in provider.fallbacks]
            wanted += [(f"providers.{name}.source", provider.source)] if provider.source else []
            if name in provider.fallbacks:
                yield f"providers.{name}.fallbacks: {name!r} cannot stand in for itself"
            for fallback in provider.fallbacks:
                if fallback in self.providers and self.providers[fallback].type == "record":
                    yield f"providers.{name}.fallbacks: {fallback!r} is of type 'record'"
            inner = self.providers.get(provider.source or "")
            if inner is not None and inner.type in ("record", "replay"):
                yield f"providers.{name}.source: {provider.source!r} is itself of type {inner.type!r}"
        for key, name in wanted:
            if name not in known and (key, name) != ("provider", AUTO):
                yield f"{key}: there is no provider {name[:80]!r}; there are {', '.join(known)}"
        if any(name == "scripted" for _, name in wanted) and self.scripted.path is None:
            yield "the provider 'scripted' needs scripted.path"


def url_problem(url: str, *, plain_http: bool = False) -> str:
    """Why requests cannot, or must not, be sent to ``url``; empty if they can."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "is no URL"
    if parts.scheme not in ("http", "https") or not host or port == 0 or not url.isascii() or " " in url:
        return "must be a URL as https://api.example.org/v1"
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        return "must not hold a password, a query or a fragment; the key goes into api_key"
    if parts.scheme == "http" and not plain_http and not is_near(host):
        return (
            "is not encrypted (http://) and leads beyond loopback and private addresses; use https://, "
            "or set allow_plain_http"
        )
    return ""


def is_near(host: str) -> bool:
    """Whether a host is this machine, or an address of a private network; a name could be anybody's."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or (address.is_private and not address.is_unspecified)
