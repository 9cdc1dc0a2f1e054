"""The bounds of what is wanted of a deployment; loads nothing, for the command line."""

from __future__ import annotations

from typing import Final

REPLICAS_LIMIT: Final = 100
PRIORITY_LIMIT: Final = 1000
