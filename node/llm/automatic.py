"""``llm.provider: auto``: the provider that the variables of the environment name, or ``builtin``.

Only where the configuration says ``auto`` are these variables read at all, so a key that lies about sends
nothing out. In order: Caxton's own, OpenAI's, Anthropic's; the first of them that is set decides, whatever
the others say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import SecretStr, ValidationError

from node.config import LlmConfig, LlmProvider
from node.errors import ConfigInvalid, nearest
from node.llm.builtin import NAME as BUILTIN
from node.wording import said_of

OWN: Final = "CAXTON_LLM_"
_TYPES: Final = ("openai", "anthropic")
Type = Literal["openai", "anthropic"]


@dataclass(frozen=True, slots=True)
class Chosen:
    """What ``auto`` stands for.

    Args:
        name: The provider.
        provider: Its configuration, where the environment gives one.
        variable: The variable that decided; empty where none is set.
    """

    name: str
    provider: LlmProvider | None = None
    variable: str = ""


def choose(config: LlmConfig, environ: Mapping[str, str]) -> Chosen:
    """What ``auto`` stands for in this environment.

    Raises:
        ConfigInvalid: the variable that decides has a value that cannot be.
    """
    for find in (_own, _openai, _anthropic):
        found = find(config, environ)
        if found is not None:
            return found
    return Chosen(BUILTIN)


def _own(config: LlmConfig, environ: Mapping[str, str]) -> Chosen | None:
    names = [OWN + word for word in ("PROVIDER", "MODEL", "BASE_URL", "API_KEY")]
    wanted, model, base_url, key = (environ.get(name, "") for name in names)
    decided = next((name for name in names if environ.get(name)), None)
    if decided is None:
        return None
    known = [BUILTIN, *_TYPES, *config.providers, *(["scripted"] if config.scripted.path else [])]
    if wanted and wanted not in known:
        guess = nearest(wanted, known)
        raise ConfigInvalid(
            f"{names[0]} names no provider",
            why=f"{wanted[:80]!r} is none of {', '.join(known)}",
            fix=f"Did you mean {guess!r}?" if guess else "Name one of them, or unset it.",
            details={"variable": names[0]},
        )
    if wanted and wanted not in _TYPES:
        return Chosen(wanted, variable=decided)
    kind: Type = "anthropic" if wanted == "anthropic" else "openai"
    return _remote(config, kind, decided, model=model, base_url=base_url, api_key=key)


def _openai(config: LlmConfig, environ: Mapping[str, str]) -> Chosen | None:
    names = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE")
    decided = next((name for name in names if environ.get(name)), None)
    if decided is None:
        return None
    headers = {
        header: SecretStr(environ[name])
        for name, header in (
            ("OPENAI_ORG_ID", "OpenAI-Organization"),
            ("OPENAI_PROJECT_ID", "OpenAI-Project"),
        )
        if environ.get(name)
    }
    return _remote(
        config,
        "openai",
        decided,
        model=environ.get("OPENAI_MODEL") or environ.get("OPENAI_MODEL_NAME", ""),
        base_url=environ.get("OPENAI_BASE_URL") or environ.get("OPENAI_API_BASE", ""),
        api_key=environ.get("OPENAI_API_KEY", ""),
        headers=headers,
    )


def _anthropic(config: LlmConfig, environ: Mapping[str, str]) -> Chosen | None:
    names = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL")
    key, token, base_url = (environ.get(name, "") for name in names)
    decided = next((name for name in names if environ.get(name)), None)
    if decided is None:
        return None
    model = environ.get("ANTHROPIC_MODEL", "")
    more: dict[str, Any] = {"auth": "bearer"} if token and not key else {}
    return _remote(config, "anthropic", decided, model=model, base_url=base_url, api_key=key or token, **more)


def _remote(
    config: LlmConfig, kind: Type, variable: str, *, model: str, base_url: str, api_key: str, **more: Any
) -> Chosen:
    """A provider of this type, named by it unless the configuration has given that name away."""
    given: dict[str, Any] = {"model": model, "base_url": base_url, "api_key": api_key}
    try:
        provider = LlmProvider.model_validate({"type": kind, **{k: v for k, v in given.items() if v}, **more})
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise ConfigInvalid(
            f"the provider that {variable} stands for cannot be used",
            why=f"{where}: {said_of(problem)}".removeprefix(": "),
            fix="Correct the variables, or name a provider in the configuration.",
            details={"variable": variable},
        ) from None
    return Chosen(kind if kind not in config.providers else "auto", provider, variable)
