"""The guard before what agents store: no instructions for a later reader, no secrets, nothing oversized.

What an agent remembers is shown to models again, so a text that gives orders would give them for ever, and
a secret would be told to whoever asks well. The rules are patterns: they find what is written plainly, and
they rather refuse a harmless text than keep a harmful one. What people store by the API is not guarded.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

TEXT_BYTES_LIMIT: Final = 4 * 1024
"""Longest text that an agent stores as one observation, in bytes."""

_INVISIBLE: Final = dict.fromkeys((173, *range(8203, 8208), *range(8234, 8239), 8288, 65279))
"""Characters that are not seen, but part words from a pattern."""

_INJECTION: Final = re.compile(
    r"\b(ignore|disregard|forget|override|bypass)\b.{0,40}"
    r"\b(previous|prior|above|earlier|all|any|your|system)\b.{0,40}"
    r"\b(instructions?|prompts?|rules|guidelines|directives|messages?)\b"
    r"|\b(new|updated|secret|hidden) (system )?instructions?\s*:"
    r"|\b(system|developer) (prompt|message|instructions?)\b"
    r"|\byou (are now|must now|must always|will now)\b"
    r"|\bfrom now on,? (you|always|never)\b"
    r"|\b(do not|don't|never) (tell|inform|mention (this|it) to) the (user|operator|sender)\b"
    r"|<\|[a-z_]+\|>|\[/?inst\]|<</?sys>>|</?(system|assistant|tool|instructions?)>"
    r"|^\s*(system|assistant|developer)\s*:",
    re.MULTILINE | re.DOTALL,
)
_SECRET: Final = re.compile(
    r"-----begin [a-z ]*private key"
    r"|\b(akia|asia)[0-9a-z]{16}\b"
    r"|\b(sk|pk|rk)[-_](live|test|ant|proj)?[-_]?[0-9a-z_-]{16,}"
    r"|\bgh[pousr]_[0-9a-z]{20,}|\bgithub_pat_[0-9a-z_]{20,}|\bxox[abeprs]-[0-9a-z-]{10,}"
    r"|\beyj[0-9a-z_-]{8,}\.[0-9a-z_-]{8,}\."
    r"|\bbearer\s+[0-9a-z._~+/-]{16,}"
    r"|\b(password|passwd|passphrase|pwd|secret|api[ _-]?key|access[ _-]?key|(access|auth|api)[ _-]?token)\b"
    r"[\"']?\s*(=|:|\bis\b)\s*[\"']?\S{4,}"
    r"|://[^\s/:@]+:[^\s/@]+@"
)


def refusal(text: str) -> str | None:
    """Why an agent may not store a text, or None when it may.

    Args:
        text: What it would be remembered as; beyond :data:`TEXT_BYTES_LIMIT` it is not read.
    """
    if len(text) > TEXT_BYTES_LIMIT or len(text.encode("utf-8", "replace")) > TEXT_BYTES_LIMIT:
        return f"it has more than {TEXT_BYTES_LIMIT:,} bytes"
    plain = unicodedata.normalize("NFKC", text).translate(_INVISIBLE).casefold()
    if _SECRET.search(plain):
        return "it looks like a secret"
    if _INJECTION.search(plain):
        return "it looks like instructions to a model"
    return None
