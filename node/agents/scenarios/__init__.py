"""Scenarios of agents: what is sent to one, and what must come of it (``caxton agent test``)."""

from node.agents.scenarios.file import SUFFIX, Scenario, read_scenarios, scenarios_schema
from node.agents.scenarios.trial import AgentFiles, Make, Trial, Verdict

__all__ = [
    "SUFFIX",
    "AgentFiles",
    "Make",
    "Scenario",
    "Trial",
    "Verdict",
    "read_scenarios",
    "scenarios_schema",
]
