"""Chooses the provider of an agent: the agent's own setting first, then the node's; never another one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Self

from node.config import LlmConfig
from node.environment import Clock
from node.errors import ConfigInvalid, ProviderFailed, ValidationFailed, nearest
from node.llm.builtin import BuiltinProvider
from node.llm.provider import Provider
from node.llm.scripted import NAME as SCRIPTED
from node.llm.scripted import ScriptedProvider

DEFAULT: Final = "builtin"


class ProviderRegistry:
    """The providers of a node, by name.

    Args:
        default: Name of the provider of agents that name none (``llm.provider``).
        providers: What is configured besides ``builtin``, which is always there.

    Raises:
        ProviderFailed: the default is not among them.
    """

    def __init__(self, *, default: str = DEFAULT, providers: Mapping[str, Provider] | None = None) -> None:
        self._providers: dict[str, Provider] = {DEFAULT: BuiltinProvider(), **(providers or {})}
        self._default = default
        self.choose(None)

    @classmethod
    def from_config(cls, config: LlmConfig, clock: Clock) -> Self:
        """The providers that the configuration's section ``llm`` asks for; reads the script, if there is one.

        Raises:
            ConfigInvalid: the script cannot be read or is not valid.
        """
        providers: dict[str, Provider] = {}
        path = config.scripted.path
        if path is not None:
            try:
                providers[SCRIPTED] = ScriptedProvider(path.read_bytes(), clock)
            except OSError as error:
                raise ConfigInvalid(
                    f"the script {str(path)!r} cannot be read",
                    why=error.strerror or "",
                    fix="Correct llm.scripted.path.",
                ) from None
            except ValidationFailed as error:
                raise ConfigInvalid(f"the script {str(path)!r} is not valid", why=error.why) from None
        return cls(default=config.provider, providers=providers)

    def around(self, wrap: Callable[[Provider], Provider]) -> None:
        """Put something around every provider, for agents that are taken up from now on."""
        self._providers = {name: wrap(provider) for name, provider in self._providers.items()}

    def choose(self, name: str | None) -> Provider:
        """The provider of that name, or the node's default when ``name`` is None.

        Raises:
            ProviderFailed: there is none of that name; a named provider is never replaced by another.
        """
        wanted = name or self._default
        found = self._providers.get(wanted)
        if found is None:
            guess = nearest(wanted, self._providers)
            raise ProviderFailed(
                f"there is no language-model provider {wanted[:80]!r}",
                why="configured are " + ", ".join(sorted(self._providers)),
                fix=f"Did you mean {guess!r}?" if guess else "Configure it, or name one that is.",
                details={"provider": wanted[:80], "available": sorted(self._providers)},
            )
        return found

    def statistics(self) -> dict[str, Any]:
        """The providers there are and which one is the default."""
        return {"default": self._default, "providers": sorted(self._providers)}
