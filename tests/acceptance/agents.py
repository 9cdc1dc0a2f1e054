"""Agent files that the acceptance tests deploy besides the samples."""

from tests.acceptance.processes import CONFIGS

SAMPLES = CONFIGS / "agents"
ECHO = SAMPLES / "echo.md"
RANKER = SAMPLES / "sales_ranker.md"
LATENCY_S = 0.4

SCRIPT = f"""\
strict: true
rules:
  - times: 0
    latency_s: {LATENCY_S}
    content: {{done: true}}
"""


def write_worker(directory, name="Worker", capability="slow-work", priority=50):
    """An agent that takes its time: each answer waits for a script; needs :func:`scripted` on its node."""
    path = directory / f"{name}-{priority}.md"
    path.write_text(
        f"---\nname: {name}\nversion: 1.0.0\ncapabilities: [{capability}]\ntools: []\npriority: {priority}\n"
        "llm: {provider: scripted}\nsystem_prompt: Take your time.\n---\n"
    )
    return path


def scripted(directory, script=SCRIPT):
    """The settings of a node that offers the scripted provider."""
    path = directory / "script.yaml"
    path.write_text(script)
    return [("llm.scripted.path", path)]
