"""Fills a tool's arguments from a message by the tool's JSON schema; it invents no value.

Where a value may come from, in order: a content key with the argument's name or one of its aliases
(``x-aliases`` in the schema), the name of an attachment for a file argument (``x-file``), a word of the
request that is one of the argument's permitted values, the whole message for an argument that takes it
(``x-content``, ``x-files``), a value in the text that has the argument's own shape (``format``: a URL, a
moment, :mod:`node.llm.shapes`), and the word or number that follows one of the argument's ``x-after`` words
in the text ("by region", "top 3"). What is left out falls to the tool's own default.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from node.llm.lexical import TEXT_LIMIT, texts, words
from node.llm.provider import FileInfo, Subject, ToolSpec
from node.llm.shapes import only, shaped

CALLS_LIMIT: Final = 4
"""Most files one request is answered for, one call each."""
_FILLERS: Final = (
    "of",
    "the",
    "all",
    "a",
    "an",
    "by",
    "per",
    "is",
    "are",
    "was",
    "were",
    "sold",
    "sells",
    "selling",
)
"""Words that name nothing; some may stand between an ``x-after`` word and the value."""
_TELLING: Final = frozenset({"uri", "labelled-numbers"})
"""Shapes that nothing else has: a tool that asks for one is meant."""
_FILE_KEYS: Final = ("file", "files", "filename", "path", "attachment", "data_url", "url", "source", "csv")


@dataclass(slots=True)
class Filling:
    """The argument sets to call a tool with, or what is missing for a call."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    in_prose: list[str] = field(default_factory=list)
    """Arguments found by an ``x-after`` word or a shape that much has: weaker evidence than a key."""
    whole: list[str] = field(default_factory=list)
    """Arguments that take the message as it is, which is no evidence at all."""


def fill(tool: ToolSpec, subject: Subject) -> Filling:
    """The calls of ``tool`` that the message gives all required arguments for."""
    schema = tool.input_schema
    properties: Mapping[str, Any] = schema.get("properties", {})
    required = list(schema.get("required", ()))
    content = _flat(subject.content)
    arguments: dict[str, Any] = {}
    file_argument: str | None = None
    filling = Filling()
    for name, rule in properties.items():
        if "x-file" in rule and file_argument is None:
            file_argument = name
            continue
        found = _value(name, rule, content, subject.content)
        if found is None:
            found = _whole(rule, subject)
            filling.whole += [] if found is None else [name]
        if found is None:
            found = _by_shape(rule, subject, arguments)
            if found is None and "format" not in rule:
                found = _in_prose(rule, subject.content)
            weak = rule.get("format") not in _TELLING
            filling.in_prose += [name] if found is not None and weak else []
        if found is not None:
            arguments[name] = found
    filling.missing = [f"a value for {n!r}" for n in required if n not in arguments and n != file_argument]
    if file_argument is None:
        filling.calls = [] if filling.missing else [arguments]
        return filling
    files, unknown = _files(file_argument, properties[file_argument], content, subject)
    filling.missing += [f"the file {name!r}, which is not attached" for name in unknown]
    if not files and not unknown and file_argument in required:
        filling.missing.append("an attached file of a kind that it reads")
    if not filling.missing and not files:
        filling.calls = [arguments]  # a file that may be left out
    elif not filling.missing:
        filling.calls = [{file_argument: name, **arguments} for name in files[:CALLS_LIMIT]]
        if len(files) > CALLS_LIMIT:
            filling.missing = [f"time for more than {CALLS_LIMIT} of the {len(files)} files"]
    return filling


def fits(rule: Mapping[str, Any], file: FileInfo) -> bool:
    """Whether a file argument's rule accepts this attachment, by media type or by ending."""
    accepted = rule.get("x-file", {})
    media_type = file.media_type.split(";")[0].strip().lower()
    if media_type in accepted.get("media_types", ()):
        return True
    return file.name.lower().endswith(tuple(accepted.get("suffixes", ())))


def _flat(content: Any) -> dict[str, Any]:
    """Content keys by folded name; those of inner objects count where the outer has none of that name."""
    found: dict[str, Any] = {}
    for level in _levels(content):
        for key, value in level.items():
            found.setdefault(_fold(key), value)
    return found


def _levels(content: Any) -> Iterator[Mapping[str, Any]]:
    level = [content]
    while level:
        maps = [item for item in level if isinstance(item, Mapping)]
        yield from maps
        level = [value for item in maps for value in item.values()]


def _fold(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _value(name: str, rule: Mapping[str, Any], content: Mapping[str, Any], raw: Any) -> Any:
    aliases = [str(alias) for alias in rule.get("x-aliases", ())]
    for key in (name, *aliases):
        folded = _fold(key)
        if folded in content:
            value = _coerce(content[folded], rule)
            if value is not None:
                return value
    request = words(" ".join(texts(raw)))
    for choice in _permitted(rule):
        if choice.isalpha() and words(choice) and words(choice)[0] in request:
            return choice
    return None


def _whole(rule: Mapping[str, Any], subject: Subject) -> Any:
    """The files, or the content, of the whole message, for an argument that takes them."""
    if rule.get("x-files"):
        return [file.name for file in subject.files] or None
    wanted = rule.get("x-content")
    if wanted == "any" or (wanted and isinstance(subject.content, str)):
        return subject.content
    return None


def _in_prose(rule: Mapping[str, Any], raw: Any) -> Any:
    """The number, or else the name, that follows one of the rule's ``x-after`` words within one text.

    A number may also precede one of its ``x-before`` words ("3 days").
    """
    units = "|".join(re.escape(str(word)) for word in rule.get("x-before", ()))
    if units:
        text = "\n".join(texts(raw))[:TEXT_LIMIT]
        number = re.search(rf"\b(\d{{1,6}})[ \t]+(?:{units})\b", text, re.IGNORECASE)
        if number:
            return int(number.group(1))
    cues = "|".join(re.escape(str(word)) for word in rule.get("x-after", ()))
    if not cues:
        return None
    text = "\n".join(texts(raw))[:TEXT_LIMIT]
    if any(option.get("type") == "integer" for option in _rules(rule)):
        number = re.search(rf"\b(?:{cues})[ \t]+(\d{{1,6}})\b", text, re.IGNORECASE)
        return int(number.group(1)) if number else None
    fillers = "|".join(_FILLERS)
    between = r"(?:(?:of|the|all|a|an|is|are|was|were|\d{1,6})[ \t]+){0,3}"
    name = rf"[\"'`]?(?!(?:{cues}|{fillers})\b)([A-Za-z][A-Za-z0-9_-]*)"
    found = re.search(rf"\b(?:{cues})[ \t]+{between}{name}", text, re.IGNORECASE)
    return found.group(1) if found else None


def _by_shape(rule: Mapping[str, Any], subject: Subject, taken: Mapping[str, Any]) -> Any:
    """A value with the argument's own shape; the one attachment for a file that is not named."""
    text = "\n".join(texts(subject.content))[:TEXT_LIMIT]
    found = shaped(rule, text, list(taken.values()))
    if found is None and rule.get("format") == "file-path":
        found = only([file.name for file in subject.files])
    return found


def _rules(rule: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [rule, *rule.get("anyOf", ())]


def _permitted(rule: Mapping[str, Any]) -> list[str]:
    return [str(choice) for option in _rules(rule) for choice in option.get("enum", ())]


def _coerce(value: Any, rule: Mapping[str, Any]) -> Any:
    """``value`` as the rule's type, or None when it does not fit."""
    types = [option.get("type") for option in _rules(rule)]
    permitted = _permitted(rule)
    if permitted:
        return next((choice for choice in permitted if str(value).lower() == choice.lower()), None)
    if not any(types):
        return value  # the schema takes anything
    if "boolean" in types and isinstance(value, bool):
        return value
    if isinstance(value, bool):
        return None
    if "integer" in types:
        if isinstance(value, str) and re.fullmatch(r"-?\d{1,15}", value.strip()):
            return int(value)
        return value if isinstance(value, int) else None
    if "number" in types:
        return value if isinstance(value, int | float) else None
    if "string" in types and isinstance(value, str | int | float):
        return str(value)
    if ("array" in types and isinstance(value, list)) or ("object" in types and isinstance(value, dict)):
        return value
    return None


def _files(
    name: str, rule: Mapping[str, Any], content: Mapping[str, Any], subject: Subject
) -> tuple[list[str], list[str]]:
    """The attachments to use, and the names the message gives that are not attached."""
    attached = {file.name: file for file in subject.files}
    named: list[str] = []
    for key in dict.fromkeys((name, *rule.get("x-aliases", ()), *_FILE_KEYS)):
        value = content.get(_fold(key))
        items = value if isinstance(value, list) else [value]
        named += [item for item in items if isinstance(item, str) and item]
    if rule.get("x-file", {}).get("paths"):
        paths = [item for item in named if _is_path(rule, item) and item not in attached]
        if paths:
            return list(dict.fromkeys(paths)), []
        if not named and not attached:
            found = shaped({"format": "file-path"}, "\n".join(texts(subject.content))[:TEXT_LIMIT], ())
            if found is not None and _is_path(rule, found):
                return [found], []
    if named:
        plain = [re.split(r"[/\\]", item)[-1] if item not in attached else item for item in named]
        known = [item for item in dict.fromkeys(plain) if item in attached]
        return known, [given for given, item in zip(named, plain, strict=True) if item not in attached]
    mentioned = [file for file in attached if any(file in text for text in texts(subject.content))]
    if mentioned:
        return mentioned, []
    return [file.name for file in subject.files if fits(rule, file)], []


def _is_path(rule: Mapping[str, Any], name: str) -> bool:
    """Whether a name is a file in a folder of the node, of a kind that the tool reads."""
    suffixes = tuple(rule["x-file"].get("suffixes", ()))
    return "/" in name.strip("/") and not name.startswith("/") and name.lower().endswith(suffixes)
