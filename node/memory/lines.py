"""What a line of an import may say: Caxton's own form, and that of the MCP server ``server-memory``."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from node.errors import ValidationFailed
from node.memory.embedding import EmbeddingModel
from node.memory.exporting import FORMAT, VERSION
from node.memory.model import DIMENSION_LIMIT, NAME_LIMIT, STRENGTH, TYPE_LIMIT
from node.memory.vectors import SCALE, Vector, unquantised
from node.wording import said_of

LINE_BYTES_LIMIT: Final = 8 * 1024**2
"""Longest line of an import, in bytes: an observation of 1 MB all of whose characters are escaped fits."""
LINE_OBSERVATIONS_LIMIT: Final = 10_000
"""Most observations of one line: as many as an entity may have."""
LENGTH_TOLERANCE: Final = 0.1
"""By how much the length of a vector may differ from 1, which rounding to whole numbers makes of it."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=NAME_LIMIT)]
Kind = Annotated[str, StringConstraints(min_length=1, max_length=TYPE_LIMIT)]
Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seconds = Annotated[float | None, Field(ge=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)


class SourceLine(_Strict):
    """By whose word."""

    agent: str = ""
    conversation: str = ""
    message: str = ""
    node: str = ""


class VectorLine(_Strict):
    """A vector, and of which model it is."""

    model: str = ""
    digest: Annotated[str, Field(max_length=128)]
    dtype: Literal["int8", "float32"] = "int8"
    data: Annotated[str, Field(max_length=DIMENSION_LIMIT * 6)]

    def vector(self, model: EmbeddingModel) -> Vector | None:
        """The vector, when it is one of ``model``; what is damaged or of another is none."""
        if self.digest != model.digest:
            return None
        try:
            raw = base64.b64decode(self.data, validate=True)
        except (binascii.Error, ValueError):
            return None
        width = 1 if self.dtype == "int8" else 4
        if len(raw) != width * model.dimension:
            return None
        if self.dtype == "int8":
            whole = np.frombuffer(raw, np.int8)
            if np.abs(whole, dtype=np.int16).max() == SCALE:
                return unquantised(raw)
            found = whole.astype(np.float32) / np.float32(SCALE)  # of before each had a scale of its own
        else:
            found = np.frombuffer(raw, "<f4").astype(np.float32)
        length = float(np.linalg.norm(found))
        if not (length == 0.0 or abs(length - 1.0) <= LENGTH_TOLERANCE):  # which NaN is not, either
            return None
        return found


class ObservationLine(_Strict):
    """Something that was observed; ids and outcomes are read and not taken over."""

    text: str
    confidence: Ratio = 1.0
    created_s: Seconds = None
    valid_from_s: Seconds = None
    valid_to_s: Seconds = None
    metadata: dict[str, Any] | None = None
    source: SourceLine | None = None
    vector: VectorLine | None = None
    observation_id: str = ""
    superseded_by: str = ""
    ended: bool = False
    outcomes: dict[str, int] | None = None


def _from_text(value: object) -> object:
    """A text alone is an observation of which there is no more to say."""
    return ObservationLine.model_construct(text=value) if isinstance(value, str) else value


Told = Annotated[ObservationLine, BeforeValidator(_from_text)]


class _Placed(_Strict):
    """Where it belongs; what is left out is as the import says."""

    memory_scope: Name | None = None
    owner: Name | None = None
    created_s: Seconds = None
    valid_from_s: Seconds = None
    valid_to_s: Seconds = None
    source: SourceLine | None = None


class EntityLine(_Placed):
    """An entity, or more about one."""

    type: Literal["entity"]
    name: Annotated[Name, Field(validation_alias=AliasChoices("entity_name", "name"))]
    kind: Annotated[Kind, Field(validation_alias=AliasChoices("entity_type", "entityType"))]
    observations: Annotated[list[Told], Field(max_length=LINE_OBSERVATIONS_LIMIT)] = []
    metadata: dict[str, Any] | None = None
    confidence: Ratio | None = None
    strength: Ratio | None = None
    entity_id: str = ""
    version: int = 1
    updated_s: Seconds = None


class RelationLine(_Placed):
    """How one entity relates to another."""

    type: Literal["relation"]
    start: Annotated[Name, Field(validation_alias=AliasChoices("from_entity", "from"))]
    end: Annotated[Name, Field(validation_alias=AliasChoices("to_entity", "to"))]
    kind: Annotated[Kind, Field(validation_alias=AliasChoices("relation_type", "relationType"))]
    strength: Ratio = STRENGTH
    confidence: Ratio = 1.0
    bidirectional: bool = False
    from_entity_id: str = ""
    to_entity_id: str = ""
    version: int = 1
    ended: bool = False
    metadata: dict[str, Any] | None = None
    relation_id: str = ""


def read_line(value: object) -> EntityLine | RelationLine | None:
    """What a line says; None for those that say nothing to remember: the first and the last of an export.

    Raises:
        ValidationFailed: it has another form; says what is wrong.
    """
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "header" and isinstance(value, dict):
        if value.get("format") != FORMAT or value.get("version") != VERSION:
            raise ValidationFailed(
                f"the file is of the form {str(value.get('format'))[:80]!r},"
                f" version {str(value.get('version'))[:20]}",
                why=f"this Caxton reads {FORMAT}, version {VERSION}",
                fix="Export it with the same version, or import it with that which wrote it.",
            )
        return None
    if kind == "end":
        return None
    if kind not in ("entity", "relation"):
        raise ValidationFailed(
            "the line is neither an entity nor a relation",
            why=f"its type is {str(kind)[:80]!r}" if isinstance(value, dict) else "it is no JSON object",
            fix='Each line is an object with "type": "entity" or "relation".',
            details={"field": "type"},
        )
    try:
        if kind == "entity":
            return EntityLine.model_validate(value)
        return RelationLine.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise ValidationFailed(
            f"the {kind} cannot be read",
            why=f"{field[:200]}: {said_of(first)[:200]}",
            fix="Correct the line; docs/memory.md says what it may have.",
            details={"field": field[:200]},
        ) from None
