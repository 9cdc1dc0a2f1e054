"""What agents remember: where it is kept, what makes vectors of it, how long it stays."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from node.config.llm import is_near
from node.config.section import Section
from node.config.units import Bytes, Count, Port, Seconds, Share, Text

OPTIONS_LIMIT: Final = 64
"""Most options of a backend of another package."""
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_IN_A_FILE: Final = ("embedded", "qdrant")
"""Backends whose texts and relations are in the file of the node."""


class EmbeddedMemoryConfig(Section):
    """The memory in a file of the node.

    Attributes:
        database_path: The file; ``memory.db`` in ``storage.data_dir`` if absent.
        max_entities: Most entities in all.
        max_entities_per_owner: Most entities of one agent or workspace, and in the global scope.
        semantic_threshold: Least similarity, 0 to 1, of what is found by its meaning alone.
        signs_memory_bytes: Memory that the signs of vectors may have, 62 bytes for each of 384
            numbers. Where they need more, those in the file are searched.
    """

    database_path: Path | None = None
    max_entities: Count = 100_000
    max_entities_per_owner: Count = 100_000
    semantic_threshold: Share = 0.3
    signs_memory_bytes: Bytes = Field(default=64 * 1024**2, alias="signs_memory")


class EmbeddingConfig(Section):
    """What turns text into vectors.

    Attributes:
        provider: ``builtin`` is the model that ships, ``onnx`` a folder, ``http`` an endpoint, ``hash`` no
            model but shared words, ``none`` nothing: the memory is searched by words.
        path: The folder, for ``onnx``.
        url: What ``/embeddings`` is appended to, for ``http``.
        model: The model's name there.
        dimension: Numbers in its vectors.
        api_key: Sent there as a bearer token.
        timeout_s: For one attempt there.
        threads: Threads that share one text, for ``builtin`` and ``onnx``.
        cache_entries: Vectors kept for texts that come again.
    """

    provider: Literal["builtin", "onnx", "http", "hash", "none"] = "builtin"
    path: Path | None = None
    url: Annotated[str, Field(max_length=2_048)] | None = None
    model: Annotated[str, Field(max_length=256)] | None = None
    dimension: Annotated[int, Field(ge=0, le=8_192)] = 0
    api_key: Annotated[str | None, Field(repr=False, max_length=4_096)] = None
    timeout_s: Seconds = Field(default=30.0, alias="timeout")
    threads: Annotated[int, Field(ge=1, le=64)] = 1
    cache_entries: Count = 2_048


class RetentionConfig(Section):
    """How long what is remembered is kept.

    Attributes:
        max_age_s: Longest time that an observation is kept after it was stored or used; for ever if absent.
        max_entities_per_owner: Entities of one owner beyond which the oldest go; absent for any number.
        every_s: How often it is looked what is due.
    """

    max_age_s: Seconds | None = Field(default=None, alias="max_age")
    max_entities_per_owner: Count | None = None
    every_s: Annotated[Seconds, Field(ge=60)] = Field(default=3_600.0, alias="every")


class ReplicationConfig(Section):
    """Copies of what is shared.

    Attributes:
        enabled: Whether this node and the others hold the same in the scopes workspace and global.
    """

    enabled: bool = True


class QdrantMemoryConfig(Section):
    """A Qdrant server that has the vectors; texts and relations stay in the file of the node.

    Attributes:
        host: Its name or address.
        port: Of its REST interface.
        tls: Whether it is spoken to by https; http is for this machine and private addresses.
        api_key: Sent as the header ``api-key``.
        ca_cert: Certificates to trust in place of the well-known ones.
        collection_name: What the names of this node's collections begin with.
        vector_size: Numbers in a vector, as the embedding model makes them.
        timeout_s: For one attempt.
    """

    host: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9._:-]+$")] | None = None
    port: Annotated[Port, Field(ge=1)] = 6333
    tls: bool = True
    api_key: Annotated[SecretStr, Field(max_length=4_096)] | None = None
    ca_cert: Path | None = None
    collection_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "caxton"
    vector_size: Annotated[int, Field(ge=1, le=4_096)] = 384
    timeout_s: Seconds = Field(default=5.0, alias="timeout")

    @model_validator(mode="after")
    def _travels_safely(self) -> QdrantMemoryConfig:
        if self.host is not None and not self.tls and not is_near(self.host):
            raise ValueError("tls: false is for this machine and private addresses only")
        return self

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        host = f"[{self.host}]" if self.host and ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    @property
    def key(self) -> str:
        """The key in the clear; empty for none."""
        return self.api_key.get_secret_value() if self.api_key is not None else ""


class Neo4jMemoryConfig(Section):
    """A Neo4j server that has all of the memory.

    Attributes:
        uri: Its address: ``neo4j+s://`` or ``bolt+s://``; without ``+s`` for this machine and private
            addresses.
        username: Who this node is there.
        password: With this password.
        database: Where it is kept.
        timeout_s: For one connection, and for one transaction.
    """

    uri: Annotated[str, Field(min_length=1, max_length=1_024)] | None = None
    username: Text = "neo4j"
    password: Annotated[SecretStr, Field(max_length=4_096)] | None = None
    database: Annotated[str, Field(pattern=r"^[a-zA-Z][a-zA-Z0-9.-]{2,62}$")] = "neo4j"
    timeout_s: Seconds = Field(default=10.0, alias="timeout")

    @field_validator("uri")
    @classmethod
    def _leads_somewhere_safely(cls, uri: str | None) -> str | None:
        if uri is None:
            return None
        try:
            parts = urlsplit(uri)
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            raise ValueError("is no address, such as neo4j+s://graph.example.org:7687") from None
        if parts.scheme not in ("neo4j", "bolt", "neo4j+s", "bolt+s") or not host:
            raise ValueError("must begin with neo4j+s:// or bolt+s:// (or neo4j://, bolt:// nearby)")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError("must not hold a password or a query; the password goes into password")
        if not parts.scheme.endswith("+s") and not is_near(host):
            raise ValueError("is not encrypted and leads beyond loopback and private addresses; use +s")
        return uri


class MemoryConfig(Section):
    """What agents remember.

    Attributes:
        backend: ``embedded`` is a file of the node, ``qdrant`` that file with the vectors on a server, too,
            ``neo4j`` a server;
            or the name that another package has given its own.
        embedded: The file.
        qdrant: The server of vectors.
        neo4j: The server of everything.
        options: What the backend of another package is told; none of it is shown.
        embedding: What turns text into vectors.
        retention: How long what is remembered is kept.
        replication: Copies on the other nodes.
    """

    backend: str = "embedded"
    embedded: EmbeddedMemoryConfig = EmbeddedMemoryConfig()
    qdrant: QdrantMemoryConfig = QdrantMemoryConfig()
    neo4j: Neo4jMemoryConfig = Neo4jMemoryConfig()
    options: dict[str, SecretStr] = Field(default_factory=dict, max_length=OPTIONS_LIMIT)
    embedding: EmbeddingConfig = EmbeddingConfig()
    retention: RetentionConfig = RetentionConfig()
    replication: ReplicationConfig = ReplicationConfig()

    @field_validator("backend")
    @classmethod
    def _backend_is_a_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("must be embedded, qdrant, neo4j, or the name of a backend of another package")
        return name

    @model_validator(mode="after")
    def _backend_is_complete(self) -> MemoryConfig:
        if self.backend == "qdrant" and self.qdrant.host is None:
            raise ValueError("the backend qdrant needs qdrant.host")
        if self.backend == "neo4j" and (self.neo4j.uri is None or self.neo4j.password is None):
            raise ValueError("the backend neo4j needs neo4j.uri and neo4j.password")
        if self.in_a_file:
            return self
        if self.replication.enabled and "enabled" in self.replication.model_fields_set:
            raise ValueError(
                f"replication.enabled needs the backend embedded or qdrant: what the backend {self.backend} "
                "keeps is shared by all nodes that use it"
            )
        if self.retention.max_age_s is not None or self.retention.max_entities_per_owner is not None:
            raise ValueError(f"retention needs the backend embedded or qdrant, not {self.backend}")
        return self

    @property
    def in_a_file(self) -> bool:
        """Whether texts and relations are in the file of this node."""
        return self.backend in _IN_A_FILE

    @property
    def replicated(self) -> bool:
        """Whether this node and the others copy what is shared."""
        return self.in_a_file and self.replication.enabled
