"""The parameters of membership that a configuration may change, one by one: ``cluster.swim``.

They are those of :class:`swim.config.SwimConfig`, under their own names and with its checks, so there is no
second list to keep: a parameter that swim gains can be set here. Left out are those that have a key of their
own, and sizes that a node's own data must fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BeforeValidator, Field, create_model

from node.config.section import Section
from node.config.units import LONGEST_S, number, seconds, size_bytes
from swim.config import ProfileName, SwimConfig

NOT_PARAMETERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "label": "the name of the cluster, which its authority gives",
        "allowed_networks": "cluster.allowed_networks",
        "stream_probes": "cluster.stream_probes",
        "max_meta_bytes": "what a node tells of itself must fit",
        "max_map_frame_bytes": "entries and credentials must fit",
    }
)
"""Fields of ``SwimConfig`` that ``cluster.swim`` does not take, and what decides about them instead."""

_KINDS: Final[Mapping[type, Any]] = MappingProxyType(
    {
        float: Annotated[float, BeforeValidator(number), Field(ge=0, le=1_000)],
        int: Annotated[int, BeforeValidator(number), Field(ge=0, le=10_000_000)],
        bool: bool,
    }
)
_SECONDS: Final = Annotated[float, BeforeValidator(seconds), Field(ge=0, le=LONGEST_S)]
_BYTES: Final = Annotated[int, BeforeValidator(size_bytes), Field(ge=1, le=2**40)]


def _kind(name: str, declared: Any) -> Any:
    """How a parameter is written: by the unit that ends its name, else by its type."""
    if name.endswith("_s"):
        return _SECONDS
    return _BYTES if name.endswith("_bytes") else _KINDS[declared]


class SwimSettings(Section):
    """Single parameters of membership on top of ``cluster.profile``; what is absent is the profile's."""

    def changes(self) -> dict[str, Any]:
        """The parameters that are set, in the order in which ``SwimConfig`` has them."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if value is not None}


if not TYPE_CHECKING:
    SwimSettings = create_model(
        "SwimSettings",
        __base__=SwimSettings,
        **{
            field.name: (_kind(field.name, field.type) | None, None)
            for field in fields(SwimConfig)
            if field.name not in NOT_PARAMETERS
        },
    )


def culprit(profile: ProfileName, changes: Mapping[str, Any]) -> str | None:
    """The parameter to blame when a profile with these changes is refused; None if no single one is."""
    for name in changes:
        if _is_accepted(profile, {other: value for other, value in changes.items() if other != name}):
            return name
    return next((name for name, value in changes.items() if not _is_accepted(profile, {name: value})), None)


def _is_accepted(profile: ProfileName, changes: Mapping[str, Any]) -> bool:
    try:
        SwimConfig.profile(profile, **changes)
    except ValueError:
        return False
    return True
