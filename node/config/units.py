"""Durations and sizes as people write them: ``30s``, ``200ms``, ``1h``, ``1MB``, or plain numbers."""

from __future__ import annotations

import ipaddress
import math
import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)?")
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KB|KiB|MB|MiB|GB|GiB)?", re.IGNORECASE)
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_BYTES: Final = {"b": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
_DOMAIN: Final = re.compile(r"\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|[0-9a-f:]+:[0-9a-f:.]*", re.IGNORECASE)
_NUMBER_LENGTH: Final = 32
"""Longest text that is read as a number."""
LONGEST_S: Final = 10 * 366 * 86_400
"""Longest duration, in seconds: ten years."""


def seconds(value: Any) -> float:
    """Read a duration: a number of seconds, or text with the unit ms, s, m (or min), h or d.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip()) if len(value) <= _NUMBER_LENGTH else None
        if match is None:
            raise ValueError("must be a duration as 30s, 200ms, 5m, 1h or 7d")
        return float(match[1]) * _SECONDS[match[2] or "s"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("must be a duration as 30s, 200ms, 5m, 1h or 7d")
    return float(value)


def size_bytes(value: Any) -> int:
    """Read a size: a number of bytes, or text with B, KB, MB or GB (powers of 1024, as KiB, MiB, GiB).

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip()) if len(value) <= _NUMBER_LENGTH else None
        if match is None:
            raise ValueError("must be a size as 65536, 256KB or 1MB")
        return int(float(match[1]) * _BYTES[(match[2] or "b")[0].lower()])
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a size as 65536, 256KB or 1MB")  # noqa: TRY004 - pydantic reports only this type
    return value


def number(value: Any) -> Any:
    """Let anything pass but yes and no, which would be read as 1 and 0, and what has no value.

    Raises:
        ValueError: it is one of them.
    """
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError("must be a number")
    return value


def _list(value: Any) -> Any:
    """Environment variables hold one text: commas separate the items."""
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    return value


def _no_network(text: str) -> str:
    """Why a text is no network, with the one that was meant if it can be told."""
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return f"the network {text!r} must be in CIDR notation, as 10.0.0.0/8 or fd00::/8"
    return f"the network {text!r} has bits set below its prefix; write {str(meant)!r}"


def _checked_networks(networks: tuple[str, ...]) -> tuple[str, ...]:
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise ValueError(_no_network(network)) from None
    return networks


def checked_domains(domains: tuple[str, ...]) -> tuple[str, ...]:
    """Domains as ``example.org``, ``*.example.org`` for all below it, or ``*`` for all.

    Raises:
        ValueError: one is none.
    """
    for domain in domains:
        if len(domain) > 253 or not _DOMAIN.fullmatch(domain):
            raise ValueError(f"{domain[:80]!r} must be a domain as example.org, *.example.org, or * for all")
    return domains


Seconds = Annotated[float, BeforeValidator(seconds), Field(gt=0, le=LONGEST_S)]
"""A positive duration in seconds, at most ten years."""
Bytes = Annotated[int, BeforeValidator(size_bytes), Field(gt=0, le=2**40)]
"""A positive number of bytes."""
Count = Annotated[int, BeforeValidator(number), Field(ge=1, le=10_000_000)]
"""A positive whole number of things."""
Port = Annotated[int, BeforeValidator(number), Field(ge=0, le=65_535)]
"""A port; 0 lets the system choose a free one."""
Share = Annotated[float, BeforeValidator(number), Field(ge=0, le=1)]
"""A part of the whole, 0 to 1."""
Text = Annotated[str, Field(min_length=1, max_length=255)]
"""A short text."""
Texts = Annotated[tuple[Text, ...], BeforeValidator(_list), Field(max_length=64)]
"""A list of short texts, also written with commas."""
Networks = Annotated[Texts, AfterValidator(_checked_networks)]
"""A list of networks in CIDR notation, also written with commas."""
Domains = Annotated[Texts, AfterValidator(checked_domains)]
"""A list of patterns of domains, also written with commas."""
PublicKeys = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...], BeforeValidator(_list), Field(max_length=64)
]
"""Raw Ed25519 public keys, each as 64 hexadecimal digits; also written with commas."""
