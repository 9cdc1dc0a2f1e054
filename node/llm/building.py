"""Builds the providers that the configuration names, each with its turns, breaker, retries and stand-ins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from node.breaker import Breaker, BreakerLimits
from node.config import LlmConfig, LlmProvider
from node.environment import Environment
from node.errors import ConfigInvalid, ValidationFailed
from node.llm.anthropic import OLDER_VERSION, VERSION, AnthropicDialect
from node.llm.builtin import NAME as BUILTIN
from node.llm.builtin import BuiltinProvider
from node.llm.fallback import FallbackProvider, Standby
from node.llm.openai import OpenAiDialect
from node.llm.patient import PatientProvider
from node.llm.prices import PriceTable
from node.llm.provider import Provider
from node.llm.recorder import RecordProvider, ReplayProvider
from node.llm.retry import RetryPolicy
from node.llm.scripted import NAME as SCRIPTED
from node.llm.scripted import ScriptedProvider
from node.llm.wire import Dialect

if TYPE_CHECKING:
    from node.llm.remote import RemoteProvider, RemoteSettings

_REMOTE: Final = ("openai", "anthropic")


class Counting(Protocol):
    """What tells of itself."""

    def statistics(self) -> dict[str, Any]:
        """Counts and states."""
        ...


@dataclass(slots=True)
class Built:
    """What was built.

    Args:
        providers: By name, as agents are handed them.
        counting: By name, what tells of each, the innermost first.
        remote: What has connections to close.
        models: By name, the models that may answer; none where nothing is paid for.
    """

    providers: dict[str, Provider] = field(default_factory=dict)
    counting: dict[str, list[Counting]] = field(default_factory=dict)
    remote: list[RemoteProvider] = field(default_factory=list)
    models: dict[str, tuple[str, ...]] = field(default_factory=dict)


def build_providers(config: LlmConfig, environment: Environment, more: Mapping[str, LlmProvider]) -> Built:
    """Build every provider there is.

    Args:
        config: The section ``llm``.
        environment: Clock, chance, workers.
        more: Providers besides those of the configuration, by name.

    Raises:
        ConfigInvalid: a script, a recording or a file of certificates cannot be read, or is not valid.
    """
    built = Built({BUILTIN: BuiltinProvider()})
    if config.scripted.path is not None:
        built.providers[SCRIPTED] = _scripted(config, environment)
    entries = {**config.providers, **more}
    secrets = tuple(_secrets(entries.values()))
    for name, entry in entries.items():
        if entry.type in _REMOTE:
            built.providers[name] = _remote(name, entry, config, environment, built)
            paid = (entry, *(entries[other] for other in entry.fallbacks if other in entries))
            built.models[name] = tuple(e.model or e.deployment or "" for e in paid if e.type in _REMOTE)
    for name, entry in entries.items():
        if entry.type == "replay":
            replay = _replay(name, entry)
            built.providers[name], built.counting[name] = replay, [replay]
    alone = dict(built.providers)  # a stand-in has no stand-ins of its own, so none is asked for ever
    for name, entry in entries.items():
        if entry.fallbacks:
            first, *others = (_standby(alone[n], entries.get(n)) for n in (name, *entry.fallbacks))
            chain = FallbackProvider(first, others)
            built.providers[name] = chain
            built.counting.setdefault(name, []).append(chain)
    for name, entry in entries.items():
        if entry.type == "record" and entry.path is not None:
            inner = built.providers[entry.source or BUILTIN]
            record = RecordProvider(name, inner, entry.path, environment.workers, secrets)
            built.providers[name], built.counting[name] = record, [record]
            built.models[name] = built.models.get(entry.source or BUILTIN, ())
    return built


def _remote(
    name: str, entry: LlmProvider, config: LlmConfig, environment: Environment, built: Built
) -> PatientProvider:
    from node.llm.remote import RemoteProvider  # noqa: PLC0415 - imports an HTTP client, which few nodes need

    prices = PriceTable(config.prices)
    remote = RemoteProvider(
        name, _dialect(entry), _settings(entry, config), prices=prices, clock=environment.clock
    )
    limits = BreakerLimits(config.breaker.failures, config.breaker.open_s, config.breaker.probes)
    patient = PatientProvider(
        remote,
        policy=RetryPolicy(config.retry.attempts, config.retry.initial_s, config.retry.max_s),
        breaker=Breaker(limits),
        concurrency=entry.concurrency,
        waiting=entry.waiting,
        clock=environment.clock,
        chance=environment.randomness.stream(f"llm {name}"),
        has_fallback=bool(entry.fallbacks),
    )
    built.remote.append(remote)
    built.counting[name] = [patient]
    return patient


def _settings(entry: LlmProvider, config: LlmConfig) -> RemoteSettings:
    from node.llm.remote import RemoteSettings  # noqa: PLC0415 - as above

    timeouts = config.timeouts
    return RemoteSettings(
        base_url=entry.url,
        connect_s=entry.connect_timeout_s or timeouts.connect_s,
        read_s=entry.read_timeout_s or timeouts.read_s,
        total_s=entry.total_timeout_s or timeouts.total_s,
        answer_bytes=config.max_answer_bytes,
        stream=entry.stream,
        ca_cert=entry.ca_cert,
        secrets=tuple(_secrets([entry])),
    )


def _dialect(entry: LlmProvider) -> Dialect:
    headers = {name.lower(): value.get_secret_value() for name, value in entry.headers.items()}
    if entry.type == "anthropic":
        version = entry.api_version or VERSION
        return AnthropicDialect(
            base_url=entry.url,
            api_key=entry.key,
            default_model=entry.model or "",
            api_version=version,
            key_header=entry.auth == "api_key" or (entry.auth is None and version == OLDER_VERSION),
            max_tokens=entry.max_tokens,
            structured=entry.structured,
            headers_given=headers,
        )
    return OpenAiDialect(
        base_url=entry.url,
        api_key=entry.key,
        default_model=entry.model or entry.deployment or "",
        deployment=entry.deployment or "",
        api_version=entry.api_version or "",
        key_header=entry.auth == "api_key" or (entry.auth is None and entry.deployment is not None),
        max_tokens=entry.max_tokens,
        structured=entry.structured,
        headers_given=headers,
    )


def _secrets(entries: Iterable[LlmProvider]) -> list[str]:
    """The keys of providers, the longest first, so that none is left in part where one begins another."""
    found: list[str] = []
    for entry in entries:
        found += [entry.key, *(value.get_secret_value() for value in entry.headers.values())]
    return sorted({text for text in found if text}, key=lambda text: (-len(text), text))


def _standby(provider: Provider, entry: LlmProvider | None) -> Standby:
    """A provider as a stand-in; where no quota is named, those with one address and one key share one."""
    if entry is None:
        return Standby(provider, provider.name, own_model=False)
    quota = entry.quota or f"{entry.url} {entry.key}"
    return Standby(provider, quota, own_model=entry.model is not None or entry.deployment is not None)


def _scripted(config: LlmConfig, environment: Environment) -> ScriptedProvider:
    path = config.scripted.path
    try:
        return ScriptedProvider(path.read_bytes() if path else b"", environment.clock)
    except OSError as error:
        raise ConfigInvalid(
            f"the script {str(path)!r} cannot be read",
            why=error.strerror or "",
            fix="Correct llm.scripted.path.",
        ) from None
    except ValidationFailed as error:
        raise ConfigInvalid(f"the script {str(path)!r} is not valid", why=error.why) from None


def _replay(name: str, entry: LlmProvider) -> ReplayProvider:
    path = entry.path
    try:
        return ReplayProvider(name, path.read_bytes() if path else b"")
    except OSError as error:
        raise ConfigInvalid(
            f"the recording {str(path)!r} cannot be read",
            why=error.strerror or "",
            fix=f"Correct llm.providers.{name}.path.",
        ) from None
    except ValidationFailed as error:
        raise ConfigInvalid(f"the recording {str(path)!r} is not valid", why=error.why) from None
