"""From a method and a path to the row of the permission table that governs it.

The table (``node.security.permissions.ROUTES``) is the only list of routes that are reachable: what it
does not name is refused before the application sees it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from node.security.permissions import ROUTES

API: Final = "/api/v1"
STREAMED: Final = frozenset(
    {("POST", "/messages/stream"), ("PUT", "/blobs/{digest}"), ("POST", "/memory/import/stream")}
)
"""Routes that read their body themselves while it arrives; that of any other is complete before."""
DEPLOYMENTS: Final = frozenset({("POST", "/agents"), ("POST", "/config-agents"), ("POST", "/deployments")})
"""Routes whose body may be as large as ``server.deploy_limit``: it carries a module."""
_PARAMETER: Final = re.compile(r"\\\{(\w+)\\\}")


@dataclass(frozen=True, slots=True)
class Match:
    """The routes of one path.

    Args:
        template: Path template below ``/api/v1``, or None when no route has this path.
        methods: The methods it has, sorted.
    """

    template: str | None
    methods: tuple[str, ...] = ()


class RouteTable:
    """Finds the template of a path; a literal segment wins over a parameter.

    Args:
        routes: (method, template) of every route that may be called.
    """

    def __init__(self, routes: Iterable[tuple[str, str]] = ROUTES) -> None:
        methods: dict[str, list[str]] = {}
        for method, template in sorted(routes):
            methods.setdefault(template, []).append(method)
        self._literal = {t: Match(t, tuple(m)) for t, m in methods.items() if "{" not in t}
        self._patterns = [(_pattern(t), Match(t, tuple(m))) for t, m in sorted(methods.items()) if "{" in t]

    def match(self, path: str) -> Match:
        """The routes of ``path``."""
        if not path.startswith(API + "/"):
            return Match(None)
        below = path[len(API) :]
        found = self._literal.get(below)
        if found is not None:
            return found
        return next((match for pattern, match in self._patterns if pattern.fullmatch(below)), Match(None))


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(_PARAMETER.sub("[^/]+", re.escape(template)), re.DOTALL)
