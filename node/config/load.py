"""Find, read, merge and check the configuration; report every problem at once, with its place.

Layers, the later ones win: defaults, the file, ``CAXTON_SECTION__KEY`` variables, explicit overrides.
Each layer's keys are brought to their one spelling first, so that an override of ``storage.path`` meets
the file's ``storage.data_dir``; relative paths belong to the layer that wrote them (a file's are relative
to the file, the others' to the working directory). ``${NAME}`` is replaced after parsing, so a value from
the environment can never add keys.

pydantic-settings is not used: it costs more import time than everything else here together, merges before
it can say where a value came from, and has no answer for places, duplicate keys or misspelt names.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from node.config.model import KEY_ALIASES, NodeConfig, is_loopback
from node.config.swim_settings import culprit
from node.config.yaml_source import MAX_FILE_BYTES, Place, parse
from node.errors import ConfigInvalid, InsecureListener, nearest
from node.wording import said_of
from swim.networks import AllowedNetworks

SYSTEM_CONFIG: Final = Path("/etc/caxton/config.yaml")
VARIABLE_PREFIX: Final = "CAXTON_"
MAX_PROBLEMS: Final = 100
"""Problems that are listed; a file with more is not a configuration."""

_REFERENCE: Final = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{")

KeyPath = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from: a file and a place in it, or the name of a variable or an option."""

    name: str
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the configuration."""

    origin: Origin
    key: str
    what: str
    nearest: str | None = None

    def __str__(self) -> str:
        """``file:line:column: key: what, did you mean ...``."""
        where = self.origin.name
        if self.origin.place is not None:
            where += f":{self.origin.place.line}:{self.origin.place.column}"
        text = f"{where}: {self.key}: {self.what}" if self.key else f"{where}: {self.what}"
        return f"{text} (did you mean {self.nearest!r}?)" if self.nearest else text

    def as_json(self) -> dict[str, Any]:
        """The problem for programs."""
        place = self.origin.place
        return {
            "source": self.origin.name,
            "line": place.line if place else None,
            "column": place.column if place else None,
            "key": self.key,
            "what": self.what,
            "nearest": self.nearest,
        }


@dataclass(slots=True)
class _Merge:
    """The layers merged so far, in the one spelling of each key."""

    environ: Mapping[str, str]
    data: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, origin: Origin, key: KeyPath, what: str, guess: str | None = None) -> None:
        self.problems.append(Problem(origin, ".".join(key), what, guess))

    def origin_of(self, key: KeyPath) -> Origin:
        """Where the value at ``key`` comes from, or the nearest key above it."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.origins:
                return self.origins[key[:length]]
        return Origin("the configuration")


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer being merged: where its values come from and what its relative paths are relative to."""

    merge: _Merge
    origins: Mapping[KeyPath, Origin]
    fallback: Origin
    directory: Path

    def origin(self, key: KeyPath) -> Origin:
        return self.origins.get(key, self.fallback)

    def add(self, values: Mapping[str, Any]) -> None:
        self._section(NodeConfig, values, self.merge.data, (), ())

    def _section(
        self,
        model: type[BaseModel],
        values: Mapping[str, Any],
        target: dict[str, Any],
        written: KeyPath,
        canonical: KeyPath,
    ) -> None:
        """Merge ``values`` of one section.

        Args:
            model: The section's model.
            values: What this layer says.
            target: What the layers below have said; changed.
            written: The section's path as this layer spells it, which its places go by.
            canonical: The same path in the one spelling.
        """
        spellings = _spellings(model, canonical)
        seen: dict[str, str] = {}
        for key, value in values.items():
            here = (*written, key)
            origin = self.origin(here)
            name = spellings.get(key)
            if name is None:
                self.merge.problem(origin, here, "there is no such key", nearest(key, spellings))
                continue
            if name in seen:
                self.merge.problem(origin, here, f"the key is given twice, as {seen[name]!r} before")
                continue
            seen[name] = key
            path = (*canonical, name)
            self.merge.origins[path] = origin
            info = _field(model, name)
            section, entries = _section_of(info), _entries_of(info)
            if entries is not None and value is None:
                continue  # as an empty section
            if entries is not None and isinstance(value, Mapping):
                self._entries(entries, value, target.setdefault(name, {}), here, path)
            elif section is None:
                target[name] = self._leaf(info, value, here, path)
            elif isinstance(value, Mapping):
                self._section(section, value, target.setdefault(name, {}), here, path)
            elif value is not None:  # an empty section keeps its defaults
                self.merge.problem(origin, here, "this is a section: it must hold keys")

    def _entries(
        self,
        model: type[BaseModel],
        values: Mapping[str, Any],
        target: dict[str, Any],
        written: KeyPath,
        canonical: KeyPath,
    ) -> None:
        """Merge sections that have names of the user's choice."""
        for entry, value in values.items():
            here, path = (*written, entry), (*canonical, entry)
            self.merge.origins[path] = self.origin(here)
            if isinstance(value, Mapping):
                self._section(model, value, target.setdefault(entry, {}), here, path)
            else:
                self.merge.problem(self.origin(here), here, "this is a section: it must hold keys")

    def _leaf(self, info: FieldInfo, value: Any, written: KeyPath, canonical: KeyPath) -> Any:
        if isinstance(value, Mapping):
            return {
                key: self._text(item, (*written, key)) if isinstance(item, str) else item
                for key, item in value.items()
            }
        if isinstance(value, list):
            for number in range(len(value)):
                item = (*written, str(number))
                self.merge.origins[(*canonical, str(number))] = self.origin(item)
            found = [self._text(item, written) if isinstance(item, str) else item for item in value]
            return [self._path(item) for item in found] if _is_path(info) else found
        if isinstance(value, Path):
            value = str(value)
        if isinstance(value, str):
            value = self._text(value, written)
            if value and _is_path(info):
                if get_origin(info.annotation) is tuple:  # environment variables hold one text
                    return [self._path(item.strip()) for item in value.split(",") if item.strip()]
                return self._path(value)
        return value

    def _path(self, value: Any) -> Any:
        """A path of this layer, which is relative to the layer's directory; what is no text is left alone."""
        if not isinstance(value, str) or not value:
            return value
        return str(self.directory / _expand_home(value, self.merge.environ))

    def _text(self, value: str, written: KeyPath) -> str:
        """Replace ``${NAME}`` and ``${NAME:-default}``; ``$${`` is a literal ``${``."""

        def replace(match: re.Match[str]) -> str:
            name, default = match[1], match[2]
            if match[0] == "$${":
                return "${"
            if name is None:
                self.merge.problem(
                    self.origin(written), written, "'${' begins no ${NAME}; write $${ for a literal one"
                )
                return ""
            found = self.merge.environ.get(name) or default
            if found is None:
                self.merge.problem(
                    self.origin(written),
                    written,
                    f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}",
                    nearest(name, self.merge.environ),
                )
                return ""
            return found

        return _REFERENCE.sub(replace, value)


def load_config(
    path: Path | None = None,
    *,
    environ: Mapping[str, str],
    overrides: Mapping[str, object] | None = None,
) -> NodeConfig:
    """Read the configuration of a node.

    Args:
        path: The file; None looks at ``CAXTON_CONFIG``, then ``~/.config/caxton/config.yaml``, then
            ``/etc/caxton/config.yaml``, and takes the defaults where there is none.
        environ: Environment variables (``os.environ``).
        overrides: Dotted keys -> values, from the command line; they win.

    Raises:
        ConfigInvalid: lists every problem with its place, in ``details["problems"]`` too.
        InsecureListener: it asks to be reached from other machines without security material.
    """
    merge = _Merge(environ)
    found = path if path is not None else _find(environ)
    if found is not None:
        _add_file(merge, found)
    _add_variables(merge)
    _add_overrides(merge, overrides or {})
    merge.data.setdefault("storage", {}).setdefault("data_dir", str(default_data_dir(environ)))
    config = _validate(merge, found)
    _check_listeners(config)
    return config


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """Where a node keeps its data if nothing else is said: the user's state directory."""
    state = environ.get("XDG_STATE_HOME")
    if state and Path(state).is_absolute():  # the XDG specification: relative ones are ignored
        return Path(state) / "caxton"
    return _home(environ) / ".local" / "state" / "caxton"


def _find(environ: Mapping[str, str]) -> Path | None:
    if environ.get("CAXTON_CONFIG"):
        return Path(environ["CAXTON_CONFIG"])
    for candidate in (_home(environ) / ".config" / "caxton" / "config.yaml", SYSTEM_CONFIG):
        if candidate.exists():
            return candidate
    return None


def _add_file(merge: _Merge, path: Path) -> None:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigInvalid(
            f"cannot read the configuration {path}",
            why=reason,
            fix="Name a file that exists and that you may read.",
            details={"problems": [Problem(Origin(str(path)), "", reason).as_json()]},
        ) from None
    source = parse(raw)
    name = str(path)
    for problem in source.problems:
        merge.problem(Origin(name, problem.place), problem.key, problem.what)
    origins = {key: Origin(name, place) for key, place in source.places.items()}
    _Layer(merge, origins, Origin(name), path.absolute().parent).add(source.data)


def _add_variables(merge: _Merge) -> None:
    for name in sorted(merge.environ):
        if name.startswith(VARIABLE_PREFIX) and "__" in name:
            keys = tuple(name.removeprefix(VARIABLE_PREFIX).lower().split("__"))
            layer = _Layer(merge, {}, Origin(f"environment variable {name}"), Path.cwd())
            layer.add(_nested(keys, merge.environ[name]))


def misspelt_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that mean no setting, but would with two underscores after the section -> that spelling.

    They are no errors: others set such variables too, as Kubernetes does for a service `caxton-server`.
    """
    found = {}
    for name in sorted(environ):
        rest = name.removeprefix(VARIABLE_PREFIX)
        section, underscore, key = rest.partition("_")
        info = NodeConfig.model_fields.get(section.lower())
        model = None if info is None else _section_of(info)
        if rest == name or "__" in rest or not underscore or model is None:
            continue
        if key.lower() in _spellings(model, (section.lower(),)):
            found[name] = f"{VARIABLE_PREFIX}{section}__{key}"
    return found


def _add_overrides(merge: _Merge, overrides: Mapping[str, object]) -> None:
    for key, value in overrides.items():
        layer = _Layer(merge, {}, Origin(f"option {key}"), Path.cwd())
        layer.add(_nested(tuple(key.split(".")), list(value) if isinstance(value, tuple) else value))


def _nested(keys: KeyPath, value: object) -> dict[str, Any]:
    nested: Any = value
    for key in reversed(keys):
        nested = {key: nested}
    return dict(nested)


def _validate(merge: _Merge, path: Path | None) -> NodeConfig:
    config = None
    try:
        config = NodeConfig.model_validate(merge.data)
    except ValidationError as error:
        for entry in error.errors(include_url=False, include_context=True, include_input=False):
            key = tuple(str(part) for part in entry["loc"])
            if any(p.key == ".".join(key) for p in merge.problems):
                continue  # what made the value unusable has been said
            what = said_of(entry)
            choices = re.findall(r"'([^']*)'", str(entry.get("ctx", {}).get("expected", "")))
            guess = nearest(str(_value_at(merge.data, key)), choices) if choices else None
            merge.problem(merge.origin_of(key), key, what[:1].lower() + what[1:], guess)
    if config is not None:
        _check_membership(merge, config)
    if config is None or merge.problems:
        raise _invalid(merge.problems, path)
    return config


def _check_membership(merge: _Merge, config: NodeConfig) -> None:
    """Let swim judge its parameters together, and find the place of the one that is to blame."""
    cluster = config.cluster

    def problem(key: str, what: str) -> None:
        path = ("cluster", *key.split("."))
        merge.problem(merge.origin_of(path), path, what)

    try:
        found = cluster.swim_config("checked")
    except ValueError as error:
        name = culprit(cluster.profile, cluster.swim.changes())
        problem(f"swim.{name}" if name else "swim", f"{error} (with the profile {cluster.profile!r})")
        return
    if len(cluster.seeds) > found.max_seeds:
        problem(
            "swim.max_seeds", f"it is {found.max_seeds}, but cluster.seeds has {len(cluster.seeds)} seeds"
        )
    host = cluster.advertise_host or cluster.bind_host
    if _is_certain(host) and not AllowedNetworks(cluster.allowed_networks).allows(host):
        problem(
            "allowed_networks", f"none of them has {host}, this node's own address: no other would hear it"
        )


def _is_certain(host: str) -> bool:
    """Whether this is what peers are told; a name is looked up when the node starts."""
    try:
        return not ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _invalid(problems: list[Problem], path: Path | None) -> ConfigInvalid:
    count = f"{len(problems)} problems" if len(problems) != 1 else "one problem"
    listed = problems[:MAX_PROBLEMS]
    return ConfigInvalid(
        f"the configuration{f' {path}' if path else ''} has {count}",
        why="; ".join(str(problem) for problem in listed),
        fix="Correct each place and start again.",
        details={"problems": [problem.as_json() for problem in listed]},
    )


def _check_listeners(config: NodeConfig) -> None:
    places = (("server.host", config.server.host), ("cluster.bind_host", config.cluster.bind_host))
    for key, host in places:
        if not is_loopback(host) and not config.security.present:
            raise InsecureListener(
                f"{key} is {host}, which other machines can reach, but there is no security material",
                why="without it anybody who reaches the port could join or command this node",
                fix="Run `caxton init DIR --node NAME` and start with the node.yaml it writes, or listen on "
                "127.0.0.1.",
                details={"key": key},
            )
    if config.server.dev_mode and not is_loopback(config.server.host):
        raise InsecureListener(
            f"server.dev_mode lets everybody in, and server.host {config.server.host} is not loopback",
            fix="Switch server.dev_mode off, or listen on 127.0.0.1.",
            details={"key": "server.dev_mode"},
        )


def _spellings(model: type[BaseModel], section: KeyPath) -> dict[str, str]:
    """Every accepted spelling of the keys of ``model`` -> the one spelling."""
    found: dict[str, str] = {}
    for name, info in model.model_fields.items():
        found[name] = found[info.alias or name] = info.alias or name
    prefix = ".".join(section) + "."
    for alias, key in KEY_ALIASES.items():
        if alias.startswith(prefix):
            found[alias.removeprefix(prefix)] = found[key.removeprefix(prefix)]
    return found


def _field(model: type[BaseModel], key: str) -> FieldInfo:
    return next(i for n, i in model.model_fields.items() if (i.alias or n) == key)


def _section_of(info: FieldInfo) -> type[BaseModel] | None:
    annotation = info.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _entries_of(info: FieldInfo) -> type[BaseModel] | None:
    """The model of the sections in a mapping of them."""
    if get_origin(info.annotation) is not dict:
        return None
    model = get_args(info.annotation)[1]
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def _is_path(info: FieldInfo) -> bool:
    return any(part is Path for part in _parts(info.annotation))


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    yield from get_args(annotation)


def _value_at(data: Any, key: KeyPath) -> Any:
    for part in key:
        data = data.get(part) if isinstance(data, dict) else None
    return data


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ["HOME"]) if environ.get("HOME") else Path.home()


def _expand_home(text: str, environ: Mapping[str, str]) -> Path:
    return _home(environ) / text[2:] if text.startswith("~/") else Path(text)
