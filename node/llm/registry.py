"""Chooses the provider of an agent: the agent's own setting first, then the node's; never another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from node.errors import ProviderFailed, nearest
from node.llm.builtin import BuiltinProvider
from node.llm.provider import Provider

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
