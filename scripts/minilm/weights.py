"""The float model in numpy, what its activations reach, and its weights in eight bits.

Three things make int8 lose little of the direction of a vector:

* **Seven bits of weights, eight of activations.** Processors without VNNI add two products in sixteen bits
  and saturate; with weights within +-64 they never do.
* **Scales per column, and channels evened out.** A few channels of the activations reach ten times as far as
  the others and would leave these two or three bits. Each channel is divided by a factor that its row of
  weights is multiplied with (Xiao et al., SmoothQuant, 2023). Factors are powers of two in steps of 1/4,
  so that another BLAS finds the same.
* **A scale per token where tokens differ most**, behind GELU, whose values are moved above zero first: all
  eight bits are used, and the move is a constant that belongs to the bias.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Weights = Mapping[str, Floats]

LAYERS: Final = 6
HEADS: Final = 12
WIDTH: Final = 384
MAX_TOKENS: Final = 256
WEIGHT_LIMIT: Final = 64
"""Largest absolute weight: 2 * 255 * 64 is still a 16-bit number."""
EPSILON: Final = 1e-12
_STEPS: Final = 4
"""Steps per octave of the factors of channels."""

_erf = np.vectorize(math.erf, otypes=[np.float32])


def by_column(weight: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Round a matrix of inputs x outputs to int8.

    Returns:
        The integers and one scale per output.
    """
    scale = np.abs(weight).max(0) / np.float32(WEIGHT_LIMIT)
    rounded = np.clip(np.rint(weight / scale), -WEIGHT_LIMIT, WEIGHT_LIMIT)
    return rounded.astype(np.int8), scale.astype(np.float32)


def by_row(table: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Round a table of embeddings to int8.

    Returns:
        The integers and one scale per row, of shape (rows, 1).
    """
    scale = np.abs(table).max(1, keepdims=True) / np.float32(127)
    scale[scale == 0] = 1
    return np.rint(table / scale).astype(np.int8), scale.astype(np.float32)


def joined(weights: Weights, *names: str) -> tuple[Floats, Floats]:
    """The matrices (inputs x outputs) and biases of ``names`` side by side."""
    matrix = np.concatenate([weights[f"{name}.weight"].T for name in names], 1)
    return matrix, np.concatenate([weights[f"{name}.bias"] for name in names])


def projections(layer: int) -> tuple[str, str, str]:
    """The names of queries, keys and values of a layer."""
    first = f"encoder.layer.{layer}.attention.self."
    return f"{first}query", f"{first}key", f"{first}value"


def factors(weights: Weights, texts: Sequence[Sequence[int]]) -> dict[str, Floats]:
    """What to divide each channel of the input of a matrix by.

    Args:
        weights: The float model.
        texts: Token ids of texts like those that will be embedded.

    Returns:
        ``qkvN`` and ``upN`` for each layer N -> one factor per channel.
    """
    reached: dict[str, Floats] = {}
    for ids in texts:
        for name, value in _inputs(weights, ids).items():
            highest = np.abs(value).max(0)
            reached[name] = np.maximum(reached.get(name, highest), highest)
    found: dict[str, Floats] = {}
    for layer in range(LAYERS):
        up = f"encoder.layer.{layer}.intermediate.dense"
        for name, parts in ((f"qkv{layer}", projections(layer)), (f"up{layer}", (up,))):
            matrix, _ = joined(weights, *parts)
            octaves = (np.log2(reached[name]) - np.log2(np.abs(matrix).max(1))) / 2
            octaves = np.rint((octaves - octaves.mean()) * _STEPS) / _STEPS
            found[name] = np.exp2(octaves).astype(np.float32)
    return found


def _inputs(weights: Weights, ids: Sequence[int]) -> dict[str, Floats]:
    """The inputs of the matrices whose channels are evened out, by the float model, for one text."""
    kept: dict[str, Floats] = {}
    hidden: Any = weights["embeddings.word_embeddings.weight"][list(ids)]
    hidden = hidden + weights["embeddings.position_embeddings.weight"][: len(ids)]
    hidden = hidden + weights["embeddings.token_type_embeddings.weight"][0]
    hidden = _normalised(hidden, weights, "embeddings.LayerNorm")
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}."
        kept[f"qkv{layer}"] = hidden
        matrix, bias = joined(weights, *projections(layer))
        query, key, value = (
            part.reshape(len(ids), HEADS, -1).transpose(1, 0, 2)
            for part in np.split(hidden @ matrix + bias, 3, 1)
        )
        score = query @ key.transpose(0, 2, 1) / math.sqrt(WIDTH // HEADS)
        share = np.exp(score - score.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        context = (share @ value).transpose(1, 0, 2).reshape(len(ids), WIDTH)
        matrix, bias = joined(weights, f"{name}attention.output.dense")
        hidden = _normalised(context @ matrix + bias + hidden, weights, f"{name}attention.output.LayerNorm")
        kept[f"up{layer}"] = hidden
        matrix, bias = joined(weights, f"{name}intermediate.dense")
        wide = hidden @ matrix + bias
        wide = wide * (1 + _erf(wide / math.sqrt(2))) / 2
        matrix, bias = joined(weights, f"{name}output.dense")
        hidden = _normalised(wide @ matrix + bias + hidden, weights, f"{name}output.LayerNorm")
    return kept


def _normalised(value: Floats, weights: Weights, name: str) -> Floats:
    centred = value - value.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    result: Floats = (
        centred / np.sqrt(variance + EPSILON) * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    )
    return result
