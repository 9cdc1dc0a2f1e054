"""The names of tools and of their servers, as front matter may write them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence


class KnownTools(Collection[str]):
    """The names that an agent's front matter may grant: servers, and ``server/tool``.

    Which tools the server of another program has is known only when it answers, so any name of a tool under
    such a server is one.
    """

    def __init__(self, names: Sequence[str], open_servers: Collection[str]) -> None:
        self._names, self._open = tuple(names), frozenset(open_servers)

    def __contains__(self, name: object) -> bool:
        if name in self._names:
            return True
        server, slash, tool = str(name).partition("/")
        return bool(slash and tool) and server in self._open

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
