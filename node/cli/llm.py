"""``caxton llm``: try the language models of a configuration, or show those of a node."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.client import Client, find_target
from node.cli.options import Where, json_option, node_options
from node.cli.output import print_json, print_table, safe

if TYPE_CHECKING:
    from node.config import LlmConfig

QUESTION: Final = "Reply with the word pong."
MAX_TOKENS: Final = 16
"""Most tokens that a check asks for."""
MICROS: Final = 1_000_000


@click.group("llm")
def command() -> None:
    """Try the language models of a configuration, or show those of a node."""


@command.command("check", epilog="For example: caxton llm check --config node.yaml --provider main")
@click.option(
    "--config", "path", type=click.Path(path_type=Path, dir_okay=False), help="Configuration (YAML)."
)
@click.option("--provider", metavar="NAME", help="Which provider; the configuration's own choice without it.")
@click.option("--model", metavar="NAME", help="Which model; that of the provider without it.")
@json_option
def check(path: Path | None, provider: str | None, model: str | None, as_json: bool) -> None:
    """Ask a provider for one tiny answer, from here and with this configuration; it costs a few tokens.

    The exit status is 0 if it answered, 1 if it did not, and 2 if the configuration is wrong.
    """
    import trio  # noqa: PLC0415 - not for --help

    from node.config import load_config  # noqa: PLC0415

    config = load_config(path, environ=os.environ).llm
    found = trio.run(_check, config, provider, model)
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        click.echo(safe(f"{name.replace('_', ' ')}: {'unknown' if value is None else shown}"))


@command.command("show", epilog="For example: caxton llm show --json")
@node_options
def show(
    as_json: bool,
    where: Where,
) -> None:
    """Show the providers of a node, the states of their breakers, and what was spent."""
    target = find_target(where)
    with Client(target) as client:
        found = client.get("/llm")
    if as_json:
        print_json(found)
        return
    chosen = f", by {found['automatic']}" if found["automatic"] else ""
    click.echo(safe(f"{found['node']}: agents that name no provider use {found['default']}{chosen}"))
    columns = ("provider", "type", "model", "breaker", "requests", "answered", "tokens", "cost")
    print_table("Providers", columns, [_row(provider) for provider in found["providers"]])
    rows = [(who, *row) for who, row in _spending(found["budgets"])]
    if rows:
        click.echo()
        print_table("Spent", ("by", "tokens", "money", "tool calls"), rows)


async def _check(config: LlmConfig, name: str | None, model: str | None) -> dict[str, Any]:
    from node.environment import system_environment  # noqa: PLC0415 - not for --help
    from node.llm.provider import ChatMessage, CompletionRequest, Delta, Subject  # noqa: PLC0415
    from node.llm.registry import ProviderRegistry  # noqa: PLC0415

    environment = system_environment()
    registry = ProviderRegistry.from_config(config, environment, os.environ)
    provider = registry.choose(name)
    request = CompletionRequest(
        messages=(ChatMessage("user", QUESTION),),
        subject=Subject("request", content=QUESTION),
        model=model,
        max_tokens=MAX_TOKENS,
    )
    pieces: list[str] = []

    def shown(delta: Delta) -> None:
        if delta.anew:
            pieces.clear()
        pieces.append(delta.text)

    started = environment.clock.now()
    try:
        completion = await provider.complete(request, on_delta=shown)
    finally:
        await registry.aclose()
    latency_s = environment.clock.now() - started
    told = registry.describe()
    described: dict[str, Any] = next(p for p in told["providers"] if p["name"] == provider.name)
    cost = completion.cost_micros
    return {
        "provider": provider.name,
        "answered_by": completion.provider,
        "model": completion.model or None,
        "base_url": described.get("base_url"),
        "chosen_by": told["automatic"] or ("--provider" if name else "llm.provider"),
        "answer": completion.text[:200],
        "latency_s": round(latency_s, 3),
        "attempts": completion.attempts,
        "features": _features(described, pieces, completion.usage.estimated),
        "input_tokens": completion.usage.input_tokens,
        "output_tokens": completion.usage.output_tokens,
        "cost": None if cost is None else cost / MICROS,
    }


def _features(described: dict[str, Any], pieces: list[str], estimated: bool) -> list[str]:
    """What was seen to work, and what is configured."""
    seen = ["streaming"] if described.get("stream") and pieces else []
    seen += [] if estimated else ["usage"]
    return seen + (["fallbacks"] if described.get("fallbacks") else [])


def _row(provider: dict[str, Any]) -> tuple[object, ...]:
    state = provider["state"]
    tokens = state.get("input_tokens", 0) + state.get("output_tokens", 0)
    return (
        provider["name"],
        provider["type"],
        provider.get("model") or "",
        state.get("breaker", {}).get("state", ""),
        state.get("requests", ""),
        state.get("answered", ""),
        tokens,
        f"{state.get('cost_micros', 0) / MICROS:.4f}",
    )


def _spending(budgets: dict[str, Any]) -> list[tuple[str, tuple[object, ...]]]:
    """What was spent by whom, each with its bound."""
    if not budgets:
        return []
    cluster = budgets["cluster"]
    total = {kind: cluster["own"][kind] + cluster["others"][kind] for kind in cluster["own"]}
    rows = [("the cluster", _amounts(total, cluster["limits"])), ("this node", _amounts(cluster["own"], {}))]
    return rows + [(name, _amounts(s, budgets["agent_limits"])) for name, s in budgets["agents"].items()]


def _amounts(spent: dict[str, int], limits: dict[str, int]) -> tuple[object, ...]:
    def bounded(kind: str, amount: float, limit: float | None) -> str:
        shown = f"{amount:.4f}" if kind == "money" else f"{amount:.0f}"
        return shown if limit is None else f"{shown} of {limit:g}"

    money = limits.get("money")
    return (
        bounded("tokens", spent["tokens"], limits.get("tokens")),
        bounded("money", spent["money_micros"] / MICROS, None if money is None else money / MICROS),
        bounded("tool_calls", spent["tool_calls"], limits.get("tool_calls")),
    )
