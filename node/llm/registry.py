"""Chooses the provider of an agent: the agent's own setting first, then the node's; never another one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

from node.config import LlmConfig
from node.config.llm import AUTO
from node.environment import Environment
from node.errors import ProviderNotFound, nearest
from node.llm.automatic import Chosen, choose
from node.llm.budgets import Budgets
from node.llm.building import Built, build_providers
from node.llm.builtin import BuiltinProvider
from node.llm.provider import Provider

_log = logging.getLogger(__name__)

DEFAULT: Final = "builtin"


class ProviderRegistry:
    """The providers of a node, by name.

    Args:
        default: Name of the provider of agents that name none (``llm.provider``).
        providers: What is configured besides ``builtin``, which is always there.
        built: What was built of the configuration, to tell of and to close.
        config: The configuration it was built of.
        chosen: What ``auto`` stood for, where it was asked for.

    Raises:
        ProviderNotFound: the default is not among them.
    """

    def __init__(
        self,
        *,
        default: str = DEFAULT,
        providers: Mapping[str, Provider] | None = None,
        built: Built | None = None,
        config: LlmConfig | None = None,
        chosen: Chosen | None = None,
    ) -> None:
        self._providers: dict[str, Provider] = {DEFAULT: BuiltinProvider(), **(providers or {})}
        self._default = default
        self._built = built or Built()
        self._config = config or LlmConfig()
        self._chosen = chosen
        self._budgets: Budgets | None = None
        self.choose(None)

    @classmethod
    def from_config(
        cls, config: LlmConfig, environment: Environment, environ: Mapping[str, str] | None = None
    ) -> Self:
        """The providers that the configuration's section ``llm`` asks for; reads scripts and recordings.

        Args:
            config: The section.
            environment: Clock, chance, workers.
            environ: Variables, read only where the configuration says ``auto``.

        Raises:
            ConfigInvalid: a file cannot be read or is not valid, or a variable has a wrong value.
        """
        chosen, default = None, config.provider
        if config.provider == AUTO:
            chosen = choose(config, environ or {})
            default = chosen.name
            why = f"{chosen.variable} is set" if chosen.variable else "no variable names another"
            _log.info("llm.provider auto is %s: %s", chosen.name, why)
        extra = {chosen.name: chosen.provider} if chosen is not None and chosen.provider is not None else {}
        built = build_providers(config, environment, extra)
        return cls(default=default, providers=built.providers, built=built, config=config, chosen=chosen)

    def around(self, wrap: Callable[[Provider], Provider]) -> None:
        """Put something around every provider, for agents that are taken up from now on."""
        self._providers = {name: wrap(provider) for name, provider in self._providers.items()}

    def choose(self, name: str | None) -> Provider:
        """The provider of that name, or the node's default when ``name`` is None.

        Raises:
            ProviderNotFound: there is none of that name; a named provider is never replaced by another.
        """
        wanted = name or self._default
        found = self._providers.get(wanted)
        if found is None:
            guess = nearest(wanted, self._providers)
            raise ProviderNotFound(
                f"there is no language-model provider {wanted[:80]!r}",
                why="configured are " + ", ".join(sorted(self._providers)),
                fix=f"Did you mean {guess!r}?" if guess else "Configure it, or name one that is.",
                details={"provider": wanted[:80], "available": sorted(self._providers)},
            )
        return found

    @property
    def models(self) -> Mapping[str, tuple[str, ...]]:
        """By provider, the models that may answer in its name; none where nothing is paid for."""
        return self._built.models

    def within(self, budgets: Budgets) -> None:
        """Ask every provider only within ``budgets``, for agents that are taken up from now on."""
        self._budgets = budgets
        self.around(budgets.around)

    async def aclose(self) -> None:
        """Close the connections to providers."""
        for remote in self._built.remote:
            await remote.aclose()

    def describe(self) -> dict[str, Any]:
        """What is configured and how it does, free of secrets: for the admin API."""
        return {
            "default": self._default,
            "automatic": self._automatic(),
            "providers": [self._described(name) for name in sorted(self._providers)],
            "prices": sorted(self._config.prices),
            "budgets": self._spending(),
        }

    def statistics(self) -> dict[str, Any]:
        """The providers there are, which one is the default, and the states of those that have one."""
        return {
            "default": self._default,
            "automatic": self._automatic(),
            "providers": {name: self._counted(name) for name in sorted(self._providers)},
            "budgets": self._spending(),
        }

    def _spending(self) -> dict[str, Any]:
        return {} if self._budgets is None else self._budgets.statistics()

    def _automatic(self) -> str:
        """The variable that ``auto`` went by; empty unless it did."""
        return self._chosen.variable if self._chosen is not None else ""

    def _counted(self, name: str) -> dict[str, Any]:
        counted: dict[str, Any] = {}
        for part in self._built.counting.get(name, ()):
            counted |= part.statistics()
        return counted

    def _described(self, name: str) -> dict[str, Any]:
        entry = self._config.providers.get(name)
        if entry is None and self._chosen is not None and self._chosen.name == name:
            entry = self._chosen.provider
        facts: dict[str, Any] = {"name": name, "type": name if entry is None else entry.type}
        if entry is not None:
            remote = entry.type in ("openai", "anthropic")
            facts |= {
                "base_url": entry.url if remote else None,
                "model": entry.model or entry.deployment,
                "has_key": bool(entry.key),
                "stream": entry.stream if remote else None,
                "fallbacks": list(entry.fallbacks),
            }
        return facts | {"state": self._counted(name)}
