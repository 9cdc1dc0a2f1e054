"""Scenarios of an agent: a YAML file beside it that says what is sent to it and what must come of that.

    scenarios:
      - name: totals of a sales file
        input:
          content: {action: analyze, file: sales.csv}
          attachments: [../demo/sales.csv]
        expect:
          tools: [csv_analyze]
          results: [{tool: csv_analyze, at: /rows, equals: 1500}]
          content: [{contains: "1500"}]
        script:
          - {tool_calls: [{name: csv_analyze, arguments: {file: sales.csv}}]}
          - {text: "The file has 1500 rows."}

The form is strict: an unknown key is an error with the nearest known one, and every problem has its line and
column. How scenarios are run, and judged, is in :mod:`node.agents.trial` and :mod:`node.agents.judging`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal, Self, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from node.agents.frontmatter import FrontMatter, Path, Problem, read_yaml
from node.agents.schema import DIALECT
from node.errors import AgentInvalid, ValidationFailed, nearest
from node.llm.schema import schema_problem
from node.llm.scripted import Rule
from node.vocabulary import Performative
from node.wording import said_of

SUFFIX: Final = ".scenarios.yaml"
"""Of the file of scenarios of an agent: ``analyst.scenarios.yaml`` beside ``analyst.md``."""
SCHEMA_ID: Final = "urn:caxton:schema:scenarios:1"
"""The ``$id`` of their schema."""
SCENARIOS_LIMIT: Final = 100
"""Most scenarios of one file."""
CHECKS_LIMIT: Final = 50
"""Most checks of one kind in one scenario."""
PAGES_LIMIT: Final = 50
"""Most pages that one scenario serves."""
NONE: Final = "none"
"""What ``expect.performative`` says where no reply may come."""

ProviderKind = Literal["builtin", "scripted", "recording"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InlineFile(_Strict):
    """A file that the scenario itself holds."""

    name: Annotated[str, Field(min_length=1, max_length=255)]
    text: str
    media_type: Annotated[str, Field(max_length=100)] | None = None


class Sent(_Strict):
    """A message to the agent."""

    performative: str = "request"
    capability: str | None = None
    content: Any = None
    attachments: Annotated[list[str | InlineFile], Field(max_length=16)] = []

    @field_validator("performative")
    @classmethod
    def _known(cls, value: str) -> str:
        return _performative(value).value


class Input(Sent):
    """The message that is judged, after those that came before it in the same conversation."""

    history: Annotated[list[Sent], Field(max_length=20)] = []


class Check(_Strict):
    """What must be at a place: exactly one of ``equals``, ``contains``, ``matches`` and ``follows``."""

    at: Annotated[str, Field(pattern=r"^(/.*)?$", max_length=500)] = ""
    equals: Any = None
    contains: str | None = None
    matches: str | None = None
    follows: dict[str, Any] | None = None

    @field_validator("matches")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return value

    @field_validator("follows")
    @classmethod
    def _is_schema(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        problem = schema_problem(value or {})
        if problem:
            raise ValueError(f"is no JSON Schema: {problem}")
        return value

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        said = self.model_fields_set & {"equals", "contains", "matches", "follows"}
        if len(said) != 1:
            raise ValueError("needs exactly one of equals, contains, matches and follows")
        return self


class ResultCheck(Check):
    """What some call of a tool must have answered."""

    tool: Annotated[str, Field(min_length=1, max_length=128)]


class Expect(_Strict):
    """What must come of it."""

    performative: str = "inform"
    tools: Annotated[list[str], Field(max_length=CHECKS_LIMIT)] = []
    not_tools: Annotated[list[str], Field(max_length=CHECKS_LIMIT)] = []
    results: Annotated[list[ResultCheck], Field(max_length=CHECKS_LIMIT)] = []
    content: Annotated[list[Check], Field(max_length=CHECKS_LIMIT)] = []
    max_turns: Annotated[int, Field(ge=1, le=50)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None

    @field_validator("performative")
    @classmethod
    def _known(cls, value: str) -> str:
        return value if value == NONE else _performative(value).value


class Page(_Strict):
    """A page that is served while a scenario runs."""

    text: str
    media_type: Annotated[str, Field(pattern=r"^[\x20-\x7e]{1,100}$")] = "text/html; charset=utf-8"
    status: Annotated[int, Field(ge=200, le=599)] = 200

    @field_validator("status")
    @classmethod
    def _exists(cls, value: int) -> int:
        HTTPStatus(value)  # raises ValueError
        return value


def _inside(name: str) -> str:
    """A relative path that leads nowhere else."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or not name.isprintable() or "\\" in name:
        raise ValueError(f"{name[:80]!r} is no path of a file below the folder")
    return name


FileBelow = Annotated[str, Field(max_length=255), AfterValidator(_inside)]
ToolName = Annotated[str, Field(min_length=1, max_length=128)]
DenialReason = Annotated[str, Field(max_length=500)]
FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class Scenario(_Strict):
    """One scenario."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    agents: Annotated[list[str], Field(max_length=16)] = []
    serve: Annotated[dict[str, Page], Field(max_length=PAGES_LIMIT)] = {}
    folders: Annotated[dict[FolderName, dict[FileBelow, str]], Field(max_length=16)] = {}
    approve: Annotated[list[ToolName], Field(max_length=CHECKS_LIMIT)] = []
    deny: Annotated[dict[ToolName, DenialReason], Field(max_length=CHECKS_LIMIT)] = {}
    input: Input
    expect: Expect = Expect()
    script: Annotated[list[Rule], Field(min_length=1, max_length=100)] | None = None
    recording: str | None = None
    providers: list[ProviderKind] | None = None

    @model_validator(mode="after")
    def _has_what_its_providers_need(self) -> Self:
        wanted = self.providers or []
        if "scripted" in wanted and self.script is None:
            raise ValueError("providers has scripted, so a script is needed")
        if "recording" in wanted and self.recording is None:
            raise ValueError("providers has recording, so the file of one is needed")
        return self

    @property
    def script_text(self) -> str:
        """The script as :class:`node.llm.scripted.ScriptedProvider` takes it."""
        return yaml.safe_dump({"rules": [rule.model_dump(exclude_unset=True) for rule in self.script or ()]})

    @property
    def kinds(self) -> list[ProviderKind]:
        """The providers that it runs with by itself: those named, else all that it has something for."""
        if self.providers is not None:
            return self.providers
        has: dict[ProviderKind, bool] = {
            "builtin": True,
            "scripted": self.script is not None,
            "recording": self.recording is not None,
        }
        return [kind for kind, given in has.items() if given]


class ScenarioFile(_Strict):
    """A whole file."""

    scenarios: Annotated[list[Scenario], Field(min_length=1, max_length=SCENARIOS_LIMIT)]

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [scenario.name for scenario in self.scenarios]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two scenarios have the name {twice!r}")
        return self


@dataclass(frozen=True, slots=True)
class ReadScenarios:
    """What a file says, or every problem of it."""

    scenarios: tuple[Scenario, ...]
    problems: tuple[Problem, ...]

    def whole(self, name: str) -> tuple[Scenario, ...]:
        """The scenarios of a file without problems.

        Raises:
            AgentInvalid: it has some; all are listed.
        """
        if not self.problems:
            return self.scenarios
        first, count = self.problems[0], len(self.problems)
        raise AgentInvalid(
            f"{name} has {count} problem{'s' if count != 1 else ''}",
            why=f"line {first.line}, column {first.column}: {first.field} {first.message}",
            fix="Correct every problem listed.",
            details={"problems": [problem.as_json() for problem in self.problems]},
        )


def read_scenarios(content: bytes) -> ReadScenarios:
    """Read a file of scenarios, whatever it holds."""
    front = read_yaml(content)
    if front.problems:
        return ReadScenarios((), tuple(front.problems))
    try:
        found = ScenarioFile.model_validate(front.values)
    except ValidationError as error:
        for entry in error.errors(include_url=False, include_input=False):
            _note(front, entry["type"], tuple(entry["loc"]), said_of(entry))
        return ReadScenarios((), tuple(sorted(front.problems, key=lambda p: (p.line, p.column, p.field))))
    return ReadScenarios(tuple(found.scenarios), ())


def scenarios_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a file of scenarios, for editors."""
    found = ScenarioFile.model_json_schema()
    return {"$schema": DIALECT, "$id": SCHEMA_ID} | found | {"title": "Caxton scenarios"}


def _performative(value: str) -> Performative:
    try:
        return Performative.parse(value)
    except ValidationFailed as error:
        raise ValueError(f"{error.why or error.what}. {error.fix}") from None


def _note(front: FrontMatter, kind: str, path: Path, message: str) -> None:
    """A finding of pydantic as a problem at its place."""
    known: Path = ()  # pydantic names the member of a union within the path; the file does not
    for part in path:
        if (*known, part) in front.places:
            known = (*known, part)
    message = message.removeprefix("it ")  # it stands behind the name of its field
    message = message[:1].lower() + message[1:]
    if kind == "extra_forbidden":
        guess = nearest(str(path[-1]), _keys_beside(path))
        hint = f"; did you mean {guess!r}?" if guess else ""
        front.add(
            "unknown_field",
            known,
            f"is not a field of a scenario{hint}",
            alternatives=(guess,) if guess else (),
        )
    elif kind == "missing":
        front.add("missing_field", known, f"{path[-1]!r} is required")
    else:
        front.add("invalid_value", known, message)


def _keys_beside(path: Path) -> list[str]:
    """The keys that are known where the last of ``path`` stands."""
    models: list[type[BaseModel]] = [ScenarioFile]
    for part in path[:-1]:
        if isinstance(part, int):
            continue
        inner = [model.model_fields[part].annotation for model in models if part in model.model_fields]
        named = [model for model in models if model.__name__ == part]
        models = [m for annotation in inner for m in _models(annotation)] or named or models
    return [name for model in models for name in model.model_fields]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
