"""What every answer of the admin API is: a model whose validator is built with its first use."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """The base of all answers, of which a node has more than a hundred."""

    model_config = ConfigDict(defer_build=True)
