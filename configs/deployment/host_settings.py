"""What a machine needs to reach its packages, carried into a root file system for the time of a build.

Behind a mirror or a proxy, apt and pip work only with the machine's own settings: package sources, proxies,
credentials, certificate authorities, package indexes. They are read from where the tools keep them and
put below ``/run/host`` of the root, which is a file system in memory: no image and no file of this project
ever has them.
"""

# Subprocesses and arguments are this program's own; it runs as root on purpose.
# ruff: noqa: S603, S607

from __future__ import annotations

import configparser
import io
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

DEFAULT_MIRROR: Final = "http://deb.debian.org/debian"
CARRIED: Final = "/run/host"
"""Where the settings are inside the root."""

_CA_FILE: Final = Path("/etc/ssl/certs/ca-certificates.crt")
_CA_VARIABLES: Final = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_PLACES: Final = ("target", "prefix", "root", "user", "cache-dir", "python", "log", "src")
"""Settings of pip that say where it installs and writes: the build's own business."""

_APT_OPTION: Final = re.compile(r"Acquire::(https?|Retries|Check-|Force|AllowInsecure|Languages)")
_PATH: Final = re.compile(r"(?<![\w./:])(?:/[\w.@+-]+)+")


@dataclass(frozen=True, slots=True)
class Source:
    """One package archive: where it is, and one suite in it."""

    uri: str
    suite: str


@dataclass(slots=True)
class Settings:
    """Settings on their way into a root.

    Args:
        root: The root file system; its ``/run`` is in memory already.
        paths: Host paths that are bound read-only below ``/run/host``, so far.
    """

    root: Path
    paths: list[Path] = field(default_factory=list)

    def carry(self, text: str) -> str:
        """``text`` with the host's paths in it replaced by where the root finds the same things."""

        def replace(match: re.Match[str]) -> str:
            path = Path(match[0])
            if len(path.parts) < 3 or not path.exists():
                return match[0]
            if path not in self.paths:
                self.paths.append(path)
                self._bind(path)
            return CARRIED + match[0]

        return _PATH.sub(replace, text)

    def environment(self) -> dict[str, str]:
        """The environment variables that a build step needs besides the image's own."""
        wanted = {name: value for name, value in os.environ.items() if _is_wanted(name)}
        if _CA_FILE.exists():
            wanted = dict.fromkeys(_CA_VARIABLES, str(_CA_FILE)) | wanted
        found = {name: self.carry(value) for name, value in wanted.items()}
        found["PIP_CONFIG_FILE"] = self._write("pip.conf", self.carry(pip_settings(_pip_files())))
        found["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
        found["APT_CONFIG"] = self._write("apt.conf", self.carry(apt_settings(_apt_dump())))
        return found | {"DEBIAN_FRONTEND": "noninteractive"}

    def _write(self, name: str, text: str) -> str:
        path = self.root / CARRIED.lstrip("/") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return f"{CARRIED}/{name}"

    def _bind(self, path: Path) -> None:
        place = self.root / (CARRIED + str(path)).lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            place.mkdir(exist_ok=True)
        else:
            place.touch()
        subprocess.run(["mount", "--bind", "-o", "ro", path, place], check=True)


def sources(suite: str, directory: Path = Path("/etc/apt")) -> list[Source]:
    """The archives from which this machine gets ``suite``, that of the suite itself first.

    Args:
        suite: For example ``bookworm``; its updates and its security fixes belong to it.
        directory: Where apt's settings are.
    """
    files = [directory / "sources.list", *sorted((directory / "sources.list.d").glob("*"))]
    found: list[Source] = []
    for file in files:
        if file.is_file() and file.suffix in (".list", ".sources"):
            text = file.read_text(encoding="utf-8", errors="replace")
            found += _deb822(text) if file.suffix == ".sources" else _one_line(text)
    ours = [s for s in dict.fromkeys(found) if s.suite == suite or s.suite.startswith(f"{suite}-")]
    if not any(source.suite == suite for source in ours):
        return [Source(DEFAULT_MIRROR, suite)]
    return sorted(ours, key=lambda source: source.suite != suite)


def sources_list(archives: Iterable[Source]) -> str:
    """A ``sources.list``."""
    return "".join(f"deb {source.uri} {source.suite} main\n" for source in archives)


def proxies() -> dict[str, str]:
    """The proxies of apt as environment variables, for tools that do not read apt's settings."""
    found = {}
    for line in _apt_dump().splitlines():
        match = re.fullmatch(r'Acquire::(https?)::Proxy "([^"]+)";', line)
        if match and match[2] != "DIRECT":
            found[f"{match[1]}_proxy"] = match[2]
    return found


def apt_settings(dump: str) -> str:
    """What ``apt-config dump`` says about fetching, and where the credentials for it are."""
    lines = [line for line in dump.splitlines() if _APT_OPTION.match(line)]
    lines += ['Dir::Etc::netrc "/etc/apt/auth.conf";', 'Dir::Etc::netrcparts "/etc/apt/auth.conf.d";']
    return "\n".join(lines) + "\n"


def pip_settings(files: Iterable[Path]) -> str:
    """The settings in pip's files, later files winning, without those that say where pip installs."""
    parser = configparser.RawConfigParser()
    parser.read(files, encoding="utf-8")
    for section in parser.sections():
        for name in _PLACES:
            parser.remove_option(section, name)
    out = io.StringIO()
    parser.write(out)
    return out.getvalue()


def _is_wanted(name: str) -> bool:
    if name.startswith("PIP_"):
        option = name.removeprefix("PIP_").lower().replace("_", "-")
        return option not in (*_PLACES, "config-file")
    return name in _CA_VARIABLES or name.lower() in ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


def _pip_files() -> list[Path]:
    home = Path.home()
    named = os.environ.get("PIP_CONFIG_FILE")
    usual = [Path("/etc/pip.conf"), home / ".pip/pip.conf", home / ".config/pip/pip.conf"]
    return [path for path in [*usual, *([Path(named)] if named else [])] if path.is_file()]


def _apt_dump() -> str:
    try:
        done = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout


def _one_line(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[[^]]*]\s+)?(\S+)\s+(\S+)", line.strip())
        if match:
            yield Source(match[1].rstrip("/"), match[2])


def _deb822(text: str) -> Iterator[Source]:
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [line for line in paragraph.splitlines() if not line.startswith("#")]
        unfolded = re.sub(r"\n[ \t]+", " ", "\n".join(lines))
        pairs = [line.partition(":") for line in unfolded.splitlines()]
        fields = {name.strip().lower(): value.split() for name, _, value in pairs}
        if "deb" in fields.get("types", []) and fields.get("enabled") != ["no"]:
            yield from (
                Source(u.rstrip("/"), s) for u in fields.get("uris", []) for s in fields.get("suites", [])
            )
