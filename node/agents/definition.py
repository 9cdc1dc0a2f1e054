"""Agent definitions: one Markdown file with YAML front matter becomes one frozen :class:`AgentDefinition`.

All problems of a file are found in one pass, each with line and column, so that a user corrects a file
once. The Markdown body is documentation for people and is not sent to a model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from node.agents.fields import GROUPS, NAME_PATTERN, NOT_FOR_WASM, VERSION_PATTERN, check_fields
from node.agents.frontmatter import FrontMatter, Path, Problem, read_front_matter
from node.agents.grants import Grant
from node.agents.template import (
    HISTORY_VARIABLES,
    LATER_VARIABLES,
    MESSAGE_VARIABLES,
    check_template,
    variables,
)
from node.cluster.provider import Minority
from node.errors import AgentInvalid, ValidationFailed, nearest
from node.labels import Labels
from node.message import check_capability
from node.tools.approval import EVERY

DEFAULT_VERSION: Final = "1.0.0"
DEFAULT_PRIORITY: Final = 50
_NAME = re.compile(NAME_PATTERN)
_SEMVER = re.compile(VERSION_PATTERN)
_WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentDefinition:
    """What an agent file says, checked and normalised.

    Args:
        id: The name in kebab-case: the agent's address on its node.
        name: The name as written.
        version: Semantic version.
        capabilities: What it offers, kebab-case, possibly with a version.
        topics: (pattern, group) of the topics it subscribes to; the group is empty for none.
        accepts: The expression that a content must meet (``node.predicates``); empty for any content.
        minority: What becomes of messages for its capabilities on the smaller side of a partition.
        labels: What messages may require of it.
        tools: Tool servers (``csv_parser``) or single tools (``csv_parser/csv_top``) it may use.
        system_prompt: What it is told before every message.
        runtime: ``config`` or ``wasm``.
        module: File name of its WebAssembly module, when the runtime is ``wasm``.
        parameters: Values for templates, also told to the model.
        requires: Capabilities of others it may ask.
        restricted_tools: Tools it may not use although ``tools`` would grant them.
        templates: Prompt template by performative; ``request`` is the general one.
        groups: The checked groups of fields, for example ``groups["conversation"]["max_turns"]``.
        memory_enabled: Whether it searches its memory before it answers, and stores what is worth it.
        memory_scope: Where it remembers.
        data: Fields that are carried and shown only: author, license, tags ...
        documentation: The Markdown body.
        warnings: What is worth knowing but not wrong.
    """

    id: str
    name: str
    version: str = DEFAULT_VERSION
    description: str = ""
    capabilities: tuple[str, ...] = ()
    topics: tuple[tuple[str, str], ...] = ()
    accepts: str = ""
    minority: Minority = "serve"
    labels: Labels = ()
    tools: tuple[str, ...] = ()
    system_prompt: str = ""
    runtime: str = "config"
    module: str | None = None
    priority: int = DEFAULT_PRIORITY
    parameters: Mapping[str, Any] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    restricted_tools: tuple[str, ...] = ()
    templates: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    memory_enabled: bool = False
    memory_scope: str = "agent-only"
    output_schema: Mapping[str, Any] | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    documentation: str = ""
    warnings: tuple[Problem, ...] = ()

    def setting(self, group: str, name: str, default: Any = None) -> Any:
        """A value of a group of fields, or ``default`` when the file does not give it."""
        return self.groups.get(group, {}).get(name, default)


def normalise_name(name: str) -> str:
    """``DataAnalyzer`` and ``data-analyzer`` both as ``data-analyzer``.

    Raises:
        ValidationFailed: the name breaks the rule for names.
    """
    if not 3 <= len(name) <= 64 or not _NAME.fullmatch(name):
        raise ValidationFailed(
            f"{name[:80]!r} is not an agent name",
            why="names have 3 to 64 letters, digits and hyphens, begin with a letter and end with none",
            fix="Write data-analyzer or DataAnalyzer.",
            details={"field": "name"},
        )
    words = [word for part in name.split("-") for word in _WORDS.findall(part)]
    return "-".join(word.lower() for word in words)


def is_version(text: str) -> bool:
    """Whether it is a semantic version (semver.org, 2.0.0)."""
    return _SEMVER.fullmatch(text) is not None


def parse_definition(
    content: bytes, *, known_tools: Collection[str] | None = None, strict: bool = False
) -> AgentDefinition:
    """Read an agent file.

    Args:
        content: The file.
        known_tools: Tools and tool servers there are; one that is not among them is a warning. None
            checks nothing.
        strict: Warnings are errors.

    Raises:
        AgentInvalid: ``details["problems"]`` lists every error and warning with line and column.
    """
    found = examine_definition(content, known_tools=known_tools)
    problems = found.problems
    errors = [p for p in problems if strict or p.severity == "error"]
    if errors or found.definition is None:
        raise _invalid(problems, len(errors))
    return found.definition


@dataclass(frozen=True, slots=True)
class Examined:
    """What an agent file says, and what is wrong with it.

    Args:
        definition: As far as it could be read; None where there is no front matter. To be used only if
            no problem is an error.
        front: The front matter, with the place of every value; what is noted there is a problem, too.
    """

    definition: AgentDefinition | None
    front: FrontMatter

    @property
    def problems(self) -> list[Problem]:
        """Errors and warnings, in the order of the file."""
        return sorted(self.front.problems, key=lambda p: (p.line, p.column, p.field))


def examine_definition(content: bytes, *, known_tools: Collection[str] | None = None) -> Examined:
    """Read an agent file, whatever it holds.

    Args:
        content: The file.
        known_tools: As for :func:`parse_definition`.
    """
    front = read_front_matter(content)
    readable = bool(front.values) or not front.problems
    return Examined(_build(front, check_fields(front), known_tools) if readable else None, front)


def _invalid(problems: list[Problem], errors: int) -> AgentInvalid:
    first = next((p for p in problems if p.severity == "error"), problems[0])
    where = f"line {first.line}, column {first.column}"
    name = f"{first.field} " if first.field else ""
    return AgentInvalid(
        f"the agent file has {errors} problem{'s' if errors != 1 else ''}",
        why=f"{where}: {name}{first.message}",
        fix="Correct every problem listed and deploy again.",
        details={"problems": [p.as_json() for p in problems]},
    )


def _build(
    front: FrontMatter, fields: dict[str, Any], known_tools: Collection[str] | None
) -> AgentDefinition:
    given = front.values
    name = fields.get("name", "")
    identifier = _check_name(front, name) if "name" in given else _missing(front, "name")
    runtime = fields.get("runtime", "config")
    if "version" not in given:
        message = f"no version is given; {DEFAULT_VERSION} is assumed"
        front.add("missing_field", ("version",), message, severity="warning")
    elif "version" in fields and not is_version(fields["version"]):
        front.add("invalid_value", ("version",), "must be a semantic version such as 1.2.0")
    if not given.get("capabilities") and not given.get("topics"):
        _missing(front, "capabilities")
    for list_name in ("capabilities", "requires"):
        _check_capabilities(front, list_name, fields.get(list_name, ()))
    if runtime == "wasm":
        _check_wasm(front, fields)
    else:
        if "system_prompt" not in given:
            _missing(front, "system_prompt")
        if fields.get("wasm"):
            front.add("invalid_value", ("wasm",), "has a meaning for a wasm agent only; remove it")
    restricted = fields.get("security", {}).get("restricted_tools", ())
    if known_tools is not None:
        _check_tools(front, ("tools",), fields.get("tools", ()), known_tools)
        plain = [tool.rpartition("/")[2] for tool in known_tools]
        _check_tools(front, ("security", "restricted_tools"), restricted, known_tools, plain)
    _check_marked(front, fields, known_tools)
    parameters = fields.get("parameters", {})
    _check_parameters(front, parameters)
    _check_history(front, fields)
    templates = _templates(front, fields, parameters)
    groups = {key: fields[key] for key in GROUPS if key in fields}
    carried = ("author", "license", "tags", "created", "updated", "capability_metadata")
    return AgentDefinition(
        id=identifier,
        name=name,
        version=fields.get("version", DEFAULT_VERSION),
        description=fields.get("description", ""),
        capabilities=tuple(dict.fromkeys(fields.get("capabilities", ()))),
        topics=fields.get("topics", ()),
        accepts=fields.get("accepts", ""),
        minority=fields.get("minority", "serve"),
        labels=fields.get("labels", ()),
        tools=tuple(dict.fromkeys(fields.get("tools", ()))),
        system_prompt=fields.get("system_prompt", ""),
        runtime=runtime,
        module=fields.get("module"),
        priority=fields.get("priority", DEFAULT_PRIORITY),
        parameters=parameters,
        requires=fields.get("requires", ()),
        restricted_tools=restricted,
        templates=templates,
        groups=groups,
        memory_enabled=fields.get("memory_enabled") is True,
        memory_scope=fields.get("memory_scope", "agent-only"),
        output_schema=fields.get("output_schema"),
        data={key: fields[key] for key in carried if key in fields},
        documentation=front.body,
        warnings=tuple(
            sorted(
                (p for p in front.problems if p.severity == "warning"),
                key=lambda p: (p.line, p.column, p.field),
            )
        ),
    )


def _missing(front: FrontMatter, name: str) -> str:
    front.add("missing_field", (name,), "is required")
    return ""


def _check_name(front: FrontMatter, name: str) -> str:
    if not name:
        return ""  # its form was already refused
    try:
        return normalise_name(name)
    except ValidationFailed as error:
        front.add("invalid_value", ("name",), error.why)
        return ""


def _check_capabilities(front: FrontMatter, list_name: str, names: tuple[str, ...]) -> None:
    for index, name in enumerate(names):
        path: Path = (list_name, index)
        try:
            check_capability(name)
        except ValidationFailed:
            front.add("invalid_capability", path, f"{name[:80]!r} is not kebab-case, such as data-analysis")
            continue
        if name.startswith("system:") and list_name == "capabilities":
            front.add("invalid_capability", path, "the namespace 'system:' belongs to Caxton")


def _check_wasm(front: FrontMatter, fields: dict[str, Any]) -> None:
    module = fields.get("module")
    if "module" not in front.values:
        front.add("missing_field", ("module",), "a wasm agent names its module, for example echo.wat")
    elif module and (re.search(r"[/\\\x00]", module) or not module.endswith((".wasm", ".wat"))):
        front.add("invalid_value", ("module",), "must be a plain file name that ends in .wasm or .wat")
    for name in NOT_FOR_WASM:
        if fields.get(name):
            front.add("invalid_value", (name,), "has no meaning for a wasm agent; remove it")
    _check_waits(front, fields)


def _check_waits(front: FrontMatter, fields: dict[str, Any]) -> None:
    """Hold what says which memory and which tools a module has against its grants."""
    group = fields.get("wasm", {})
    grants = group.get("grants", ())
    granted: list[str] = [grant for grant in (Grant.MEMORY, Grant.TOOLS) if grant in grants]
    if granted and group.get("deterministic") is True:
        message = f"a deterministic agent is granted neither memory nor tools: take away {', '.join(granted)}"
        front.add("invalid_value", ("wasm", "deterministic"), message)
    for path, given, grant in (
        (("tools",), fields.get("tools"), Grant.TOOLS),
        (("wasm", "memory_read"), group.get("memory_read"), Grant.MEMORY),
    ):
        if given and grant not in grants:
            message = f"has no effect unless wasm.grants has {grant}"
            front.add("no_effect", path, message, severity="warning")
    if Grant.TOOLS in grants and not fields.get("tools"):
        message = "grants no tool: name them in the field tools"
        front.add("no_effect", ("wasm", "grants"), message, severity="warning")


def _check_tools(
    front: FrontMatter,
    path: Path,
    tools: tuple[str, ...],
    known: Collection[str],
    plain: Collection[str] = (),
) -> None:
    """Warn of names that grant or restrict nothing here.

    ``known`` may hold more names than it lists: those of a server whose tools are not known yet.
    """
    effect = "the agent goes without it" if path == ("tools",) else "nothing is restricted"
    for index, tool in enumerate(tools):
        if tool not in known and tool not in plain:
            guess = nearest(tool, (*known, *plain))
            hint = f"; did you mean {guess!r}?" if guess else ""
            message = f"there is no tool {tool!r} here, so {effect}{hint}"
            others = (guess,) if guess else tuple(sorted({*known, *plain}))
            front.add("unknown_tool", (*path, index), message, severity="warning", alternatives=others)


def _check_marked(front: FrontMatter, fields: dict[str, Any], known: Collection[str] | None) -> None:
    """Refuse names in ``security.require_approval`` that mark nothing, as a slip of the pen would.

    A tool of a server that is not known here cannot be judged; ``tools`` has a warning of it already.
    """
    granted = fields.get("tools", ())
    servers = {name.partition("/")[0] for name in granted}
    for index, name in enumerate(fields.get("security", {}).get("require_approval", ())):
        path: Path = ("security", "require_approval", index)
        server = name.partition("/")[0]
        if name == EVERY:
            continue
        if server not in servers:
            guess = nearest(name, (*granted, *servers))
            hint = f"; did you mean {guess!r}?" if guess else ""
            message = f"marks nothing: {name[:80]!r} is neither a server nor a server/tool of `tools`{hint}"
            front.add("unknown_tool", path, message, alternatives=(guess,) if guess else ())
        elif known is not None and server in known and name not in known:
            guess = nearest(name, tuple(known))
            hint = f"; did you mean {guess!r}?" if guess else ""
            message = f"there is no tool {name[:80]!r}, so nothing is marked{hint}"
            front.add("unknown_tool", path, message, alternatives=(guess,) if guess else ())


def _check_parameters(front: FrontMatter, parameters: dict[str, Any]) -> None:
    for name in parameters:
        if name in (*MESSAGE_VARIABLES, *LATER_VARIABLES):
            message = f"{name!r} is a variable of every template and cannot be redefined"
            front.add("reserved_name", ("parameters", name), message)


def _check_history(front: FrontMatter, fields: dict[str, Any]) -> None:
    """Warn of what has no effect without something else."""
    conversation = fields.get("conversation", {})
    strategy = conversation.get("memory_strategy")
    if strategy == "persist" and fields.get("memory_enabled") is not True:
        message = "keeps nothing: memory_enabled is not true"
        front.add("no_effect", ("conversation", "memory_strategy"), message, severity="warning")
    if strategy is None and "context_window" in conversation:
        message = "has no effect without memory_strategy, which is sliding, summarize or persist"
        front.add("no_effect", ("conversation", "context_window"), message, severity="warning")


_TEMPLATE_FIELDS: Final[tuple[tuple[str, Path], ...]] = (
    ("system", ("system_prompt",)),
    ("request", ("user_prompt_template",)),
    ("request", ("prompt_templates", "request_handler")),
    ("query", ("prompt_templates", "query_handler")),
    ("inform", ("prompt_templates", "inform_handler")),
)
"""What each template is for, and its field; the last one of a kind wins."""


def _templates(front: FrontMatter, fields: dict[str, Any], parameters: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    remembers = fields.get("conversation", {}).get("memory_strategy") is not None
    for performative, path in _TEMPLATE_FIELDS:
        value: Any = fields
        for part in path:
            value = value.get(part, {}) if isinstance(value, dict) else {}
        if isinstance(value, str):
            found[performative] = value
            _check_template(front, path, value, parameters, remembers=remembers)
    return found


def _check_template(
    front: FrontMatter, path: Path, template: str, parameters: dict[str, Any], *, remembers: bool
) -> None:
    known = (*MESSAGE_VARIABLES, *LATER_VARIABLES, *parameters)
    for problem in check_template(template, parameters):
        guess = nearest(problem.variable, known) if problem.variable else None
        line = template.count("\n", 0, problem.offset) + 1
        where = f" (line {line} of the text)" if "\n" in template else ""
        hint = f"; did you mean {{{{{guess}}}}}?" if guess else ""
        others = ((guess,) if guess else tuple(sorted(known))) if problem.variable else ()
        front.add("template", path, f"{problem.message}{where}{hint}", alternatives=others)
    for name in dict.fromkeys(name for _, name in variables(template)):
        if name in LATER_VARIABLES and name not in parameters:
            message = f"the variable {name!r} is documented but empty in this version"
            front.add("not_supported_yet", path, message, severity="warning")
        if name in HISTORY_VARIABLES and not remembers:
            message = f"the variable {name!r} is empty without conversation.memory_strategy"
            front.add("no_effect", path, message, severity="warning")
