"""How a configured agent answers a proposal: by the rules of its file, without asking the model."""

from __future__ import annotations

from typing import Final

from node.agents.definition import AgentDefinition
from node.agents.journal import Journal
from node.message import Message
from node.messaging.delivery import Draft
from node.vocabulary import Performative

_ACTION_KEYS: Final = ("action", "proposal", "operation", "task")


def consider(definition: AgentDefinition, message: Message, journal: Journal) -> Draft:
    """Accept or reject a proposal by the agent's rules; one that no rule names is not understood."""
    topic = message.content
    if isinstance(topic, dict):
        topic = next((topic[key] for key in _ACTION_KEYS if key in topic), None)
    word = topic.strip().casefold() if isinstance(topic, str) else ""
    for performative, rule in (
        (Performative.REJECT_PROPOSAL, "reject"),
        (Performative.ACCEPT_PROPOSAL, "accept"),
    ):
        named = [entry.casefold() for entry in definition.setting("proposals", rule, ())]
        if word and (word in named or "*" in named):
            journal.log("info", f"{performative.value}: {word[:80]}")
            content = {"proposal": message.content, "rule": rule}
            return Draft(performative, content, protocol=message.protocol)
    rules = definition.groups.get("proposals", {})
    reason = "no rule of the agent names this proposal"
    content = {"reason": reason, "rules": {k: list(v) for k, v in rules.items()}}
    return Draft(Performative.NOT_UNDERSTOOD, content, protocol=message.protocol)
