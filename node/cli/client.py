"""Talks to the admin API of a node for the verbs, and finds that node."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import quote, urlsplit

import httpx

from node.cli.errors import AmbiguousNode, Refused
from node.cli.local_nodes import local_nodes
from node.cli.options import Where
from node.errors import BlobNotFound, NodeUnreachable, SecurityMaterialInvalid, ValidationFailed, nearest
from node.sse import Event, EventReader

TIMEOUT_S: Final = 10.0
"""Longest time a node may take to answer, beyond what it was asked to wait, in seconds."""
DOWNLOAD_S: Final = 60.0
"""Longest silence while content comes that a node fetches from another first, in seconds."""
TOKEN_LIMIT_BYTES: Final = 4096
PART_BYTES: Final = 4 * 1024**2
"""Most bytes of a large file that are sent at once."""


@dataclass(frozen=True, slots=True)
class Target:
    """A node to talk to.

    Args:
        api: Base URL, without ``/api/v1``.
        token: Bearer token, if any.
        pid: Its process, when it runs on this machine.
        node: Its name, when it runs on this machine.
    """

    api: str
    token: str | None = None
    pid: int | None = None
    node: str | None = None


def find_target(where: Where) -> Target:
    """The node that a user means, else the one that runs on this machine.

    Raises:
        NodeUnreachable: none runs here.
        AmbiguousNode: several do.
        ValidationFailed: the address is not one.
        SecurityMaterialInvalid: the token file cannot be read, or the token is none.
    """
    token = where.token
    if token is not None and not _is_token(token):
        raise SecurityMaterialInvalid(
            "what was given as --token is no token",
            why="a token is one line of letters, digits and signs, without blanks",
            fix="Give it as it stands in admin.token, or name the file with --token-file.",
        )
    if token is None and where.token_file is not None:
        token = _read_token(where.token_file)
    if where.api is not None:
        return Target(_checked(where.api), token)
    running = local_nodes()
    chosen = [node for node in running if where.node_name in (None, node.node)]
    if len(chosen) == 1:
        [node] = chosen
        if token is None and node.token_file is not None:
            token = _read_token(Path(node.token_file))
        return Target(_checked(node.api), token, node.pid, node.node)
    names = ", ".join(node.node for node in running)
    if not chosen and where.node_name is not None:
        guess = nearest(where.node_name, [node.node for node in running])
        raise NodeUnreachable(
            f"no node {where.node_name!r} runs on this machine",
            why=f"running: {names}" if names else "no node is running here",
            fix=f"Did you mean {guess!r}?" if guess else "Start it, or name its address with --api URL.",
        )
    if not chosen:
        raise NodeUnreachable(
            "no node is running on this machine",
            why="none has announced itself to this user",
            fix="Start one with `caxton start`, or name a node's address with --api URL.",
        )
    raise AmbiguousNode(
        "several nodes are running on this machine",
        why=f"they are {names}",
        fix=f"Choose one, for example --node {chosen[0].node}.",
    )


class Client:
    """One connection to a node; a context manager.

    Args:
        target: The node.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        headers = {} if target.token is None else {"authorization": f"Bearer {target.token}"}
        self._http = httpx.Client(
            base_url=f"{target.api}/api/v1", headers=headers, timeout=TIMEOUT_S, trust_env=False
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **query: object) -> Any:
        """The JSON of a route."""
        return self.call("GET", path, query=query)

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, object] | None = None,
        wait_s: float = 0.0,
    ) -> Any:
        """Call a route.

        Args:
            method: HTTP method.
            path: Below ``/api/v1``.
            body: JSON object to send.
            query: Parameters; those that are None are left out.
            wait_s: How long the node was asked to wait, on top of :data:`TIMEOUT_S`.

        Returns:
            The JSON of the answer, or None when it has no body.

        Raises:
            NodeUnreachable: nobody answers, or somebody else does.
            Refused: the node says no.
        """
        try:
            answer = self._http.request(
                method, path, json=body, params=_parameters(query or {}), timeout=TIMEOUT_S + wait_s
            )
        except httpx.HTTPError as error:
            raise self._silent(error) from error
        return self._read(answer)

    def upload(self, path: Path) -> str:
        """Bring a file to the node that is too large for a message; returns its SHA-256.

        What has arrived before a break is not sent again.

        Raises:
            OSError: it cannot be read.
            NodeUnreachable: nobody answers (any more), or somebody else does.
            Refused: the node says no.
        """
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size, url = file.tell(), f"/blobs/{digest}"
            try:
                found = self.get(url)
            except Refused as error:
                if error.code != BlobNotFound.code:
                    raise
                found = {"received_bytes": 0, "complete": False}
            while not found["complete"]:
                file.seek(found["received_bytes"])
                query = _parameters({"offset": found["received_bytes"], "size": size})
                try:
                    part = file.read(PART_BYTES)
                    answer = self._http.put(url, content=part, params=query, timeout=TIMEOUT_S)
                except httpx.HTTPError as error:
                    raise self._silent(error) from error
                found = self._read(answer)
        return digest

    def download(self, path: str, into: BinaryIO) -> None:
        """Write the content that a route answers with into a file, as it comes.

        Args:
            path: Below ``/api/v1``.
            into: Where it is written.

        Raises:
            OSError: it cannot be written.
            NodeUnreachable: nobody answers (any more).
            Refused: the node says no.
        """
        with self._streamed(path, DOWNLOAD_S) as answer:
            into.writelines(answer.iter_bytes())

    def lines(self, path: str, *, silence_s: float, **query: object) -> Iterator[dict[str, Any]]:
        """The JSON objects that a route answers with line by line, as they come, until the node ends it.

        Args:
            path: Below ``/api/v1``.
            silence_s: Longest time between two of them, in seconds.
            query: Parameters; those that are None are left out.

        Raises:
            NodeUnreachable: nobody answers (any more), or somebody else does.
            Refused: the node says no.
        """
        with self._streamed(path, silence_s, query) as answer:
            for line in answer.iter_lines():
                yield self.object_of(line)

    def events(
        self, path: str, *, silence_s: float, body: Mapping[str, Any] | None = None, **query: object
    ) -> Iterator[Event]:
        """The server-sent events that a route answers with, as they come, until the node ends it.

        Args:
            path: Below ``/api/v1``.
            silence_s: Longest time without any byte, in seconds.
            body: JSON object to post; nothing is posted without it.
            query: Parameters; those that are None are left out.

        Raises:
            NodeUnreachable: nobody answers (any more), or somebody else does.
            Refused: the node says no.
        """
        reader = EventReader()
        with self._streamed(path, silence_s, query, body) as answer:
            for data in answer.iter_bytes():
                yield from reader.feed(data)

    @contextmanager
    def pieces(
        self, path: str, *, silence_s: float, **query: object
    ) -> Iterator[tuple[Mapping[str, str], Iterator[bytes]]]:
        """The headers of an answer, and its body as it comes.

        Args:
            path: Below ``/api/v1``.
            silence_s: Longest time between two pieces, in seconds.
            query: Parameters; those that are None are left out.

        Raises:
            NodeUnreachable: nobody answers (any more).
            Refused: the node says no.
        """
        with self._streamed(path, silence_s, query) as answer:
            yield answer.headers, answer.iter_bytes()

    def send(self, path: str, content: Iterator[bytes], *, silence_s: float, **query: object) -> Any:
        """Send lines as they are read, and read the JSON of the answer.

        Args:
            path: Below ``/api/v1``.
            content: What to send.
            silence_s: Longest time that the node may take for a piece, and for its answer, in seconds.
            query: Parameters; those that are None are left out.

        Raises:
            NodeUnreachable: nobody answers (any more).
            Refused: the node says no.
        """
        timeout = httpx.Timeout(TIMEOUT_S, read=silence_s, write=silence_s)
        headers = {"content-type": "application/x-ndjson"}
        try:
            answer = self._http.post(
                path, content=content, params=_parameters(query), timeout=timeout, headers=headers
            )
        except httpx.HTTPError as error:
            raise self._silent(error) from error
        return self._read(answer)

    @contextmanager
    def _streamed(
        self,
        path: str,
        silence_s: float,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Iterator[httpx.Response]:
        """An answer that is read as it comes; what goes wrong meanwhile is told as of every call."""
        timeout = httpx.Timeout(TIMEOUT_S, read=silence_s)
        method = "GET" if body is None else "POST"
        try:
            with self._http.stream(
                method, path, json=body, params=_parameters(query or {}), timeout=timeout
            ) as answer:
                if answer.is_error:
                    answer.read()
                    self._read(answer)
                yield answer
        except (httpx.HTTPError, UnicodeDecodeError) as error:
            raise self._silent(error) from error

    def object_of(self, line: str) -> dict[str, Any]:
        """The JSON object that a line of an answer, or the data of an event, must be.

        Raises:
            NodeUnreachable: it is none.
        """
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise NodeUnreachable(
                f"what answers at {self.target.api} is not a Caxton node",
                why="a line of its answer is no JSON object",
                fix="Check the address (--api URL).",
            )
        return found

    def _silent(self, error: Exception) -> NodeUnreachable:
        return NodeUnreachable(
            f"the node at {self.target.api} does not answer",
            why=str(error) or type(error).__name__,
            fix="Check that it runs (`caxton start`) and that the address is right (--api URL).",
        )

    def _read(self, answer: httpx.Response) -> Any:
        if answer.status_code == 204:
            return None
        try:
            found = answer.json()
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise NodeUnreachable(
                f"what answers at {self.target.api} is not a Caxton node",
                why=f"status {answer.status_code} without a JSON object",
                fix="Check the address (--api URL).",
            )
        if answer.is_error:
            raise Refused(found, answer.status_code)
        return found


def _parameters(query: Mapping[str, object]) -> dict[str, str]:
    """The query as it is sent; what is None is left out."""
    return {
        key: str(value).lower() if isinstance(value, bool) else str(value)
        for key, value in query.items()
        if value is not None
    }


def segment(text: str) -> str:
    """``text`` as one segment of a path.

    Raises:
        ValidationFailed: it is empty, or would be read as a step through the path.
    """
    if not text:
        raise ValidationFailed("'' is no name", why="it is empty", fix="Give a name, or leave it out.")
    if text in (".", ".."):
        raise ValidationFailed(f"{text!r} is no name", why="in a path it means another place")
    return quote(text, safe="@:")


def pretty(value: object) -> str:
    """JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def _checked(api: str) -> str:
    address = api if "://" in api else f"http://{api}"
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValidationFailed(
            f"{api[:200]!r} is not the address of a node", fix="Write it as http://127.0.0.1:8080."
        )
    return address.rstrip("/").removesuffix("/api/v1")


def _read_token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(TOKEN_LIMIT_BYTES + 1)
        token = raw.decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SecurityMaterialInvalid(
            f"the token file {path} cannot be read",
            why=getattr(error, "strerror", None) or "it is not plain text",
            fix="Name another with --token-file; `caxton init` writes admin.token.",
        ) from error
    if len(raw) > TOKEN_LIMIT_BYTES or not _is_token(token):
        raise SecurityMaterialInvalid(f"{path} does not hold a token", fix="Name another with --token-file.")
    return token


def _is_token(text: str) -> bool:
    """Whether a text can be sent as a token."""
    return bool(text) and text.isascii() and text.isprintable() and " " not in text
