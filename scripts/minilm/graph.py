"""The model as an ONNX graph: one text in, one vector out.

A graph for single texts needs no mask and no padding, and the scales of its activations depend on nothing but
the text: a vector is the same to the last bit whatever is embedded beside it. On one thread batches would
gain next to nothing, because the products are as fast for 16 rows as for 512.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from scripts.minilm.weights import (
    EPSILON,
    HEADS,
    LAYERS,
    MAX_TOKENS,
    WIDTH,
    Floats,
    Weights,
    by_column,
    by_row,
    joined,
    projections,
)

_MICROSOFT: Final = "com.microsoft"
"""The domain of onnxruntime's own operators."""
_LIFT: Final = np.float32(0.17)
"""Added behind GELU, whose least value is -0.16997."""


class Graph:
    """Collects nodes and constants.

    Args:
        weights: The float model.
        factors: From :func:`scripts.minilm.weights.factors`.
    """

    def __init__(self, weights: Weights, factors: Mapping[str, Floats]) -> None:
        self._weights = weights
        self._factors = factors
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def serialised(self) -> bytes:
        """The whole model; the same bytes for the same weights and factors."""
        hidden = self._embedded()
        for layer in range(LAYERS):
            hidden = self._layer(layer, hidden)
        mean = self._node(
            "ReduceMean", [hidden, self._constant("first", np.array([1], np.int64))], "mean", keepdims=0
        )
        self._node("LpNormalization", [mean], "sentence_embedding", axis=1, p=2)
        graph = helper.make_graph(
            self._nodes,
            "all-MiniLM-L6-v2-int8",
            [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "tokens"])],
            [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, [1, WIDTH])],
            list(self._constants.values()),
        )
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(_MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="caxton")
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString(deterministic=True))

    def _embedded(self) -> str:
        words, scale = by_row(self._weights["embeddings.word_embeddings.weight"])
        found = self._node("Gather", [self._constant("words", words), "input_ids"], "words_found")
        found = self._node("Cast", [found], "words_float", to=TensorProto.FLOAT)
        scales = self._node("Gather", [self._constant("word_scales", scale), "input_ids"], "scales_found")
        found = self._node("Mul", [found, scales], "words_scaled")
        positions = self._weights["embeddings.position_embeddings.weight"][:MAX_TOKENS]
        positions = positions + self._weights["embeddings.token_type_embeddings.weight"][0]
        length = self._node("Shape", ["input_ids"], "length", start=1, end=2)
        start = self._constant("start", np.array([0], np.int64))
        place = self._node("Slice", [self._constant("positions", positions), start, length], "place")
        return self._normalised("embedding", [found, place], "embeddings.LayerNorm")

    def _layer(self, layer: int, hidden: str) -> str:
        name = f"encoder.layer.{layer}."
        qkv = self._evened(f"qkv{layer}", hidden, *joined(self._weights, *projections(layer)))
        parts = [f"query{layer}", f"key{layer}", f"value{layer}"]
        self._nodes.append(
            helper.make_node("Split", [qkv], parts, name=f"split{layer}", axis=-1, num_outputs=3)
        )
        context = self._node("MultiHeadAttention", parts, f"context{layer}", _MICROSOFT, num_heads=HEADS)
        matrix, bias = joined(self._weights, f"{name}attention.output.dense")
        out = self._product(f"out{layer}", context, matrix, bias)
        hidden = self._normalised(f"attended{layer}", [out, hidden], f"{name}attention.output.LayerNorm")
        up = self._evened(f"up{layer}", hidden, *joined(self._weights, f"{name}intermediate.dense"))
        wide = self._node("Gelu", [up], f"wide{layer}", _MICROSOFT)
        down, bias = self._by_token(f"down{layer}", wide, *joined(self._weights, f"{name}output.dense"))
        return self._normalised(f"hidden{layer}", [down, bias, hidden], f"{name}output.LayerNorm")

    def _evened(self, name: str, value: str, matrix: Floats, bias: Floats) -> str:
        factor = self._factors[name]
        even = self._node("Mul", [value, self._constant(f"{name}_even", 1 / factor)], f"{name}_evened")
        return self._product(name, even, matrix * factor[:, None], bias)

    def _product(self, name: str, value: str, matrix: Floats, bias: Floats) -> str:
        integers, scale = by_column(matrix)
        weights = [self._constant(f"{name}_weights", integers), self._constant(f"{name}_scales", scale)]
        inputs = [value, *weights, "", self._constant(f"{name}_bias", bias)]
        return self._node("DynamicQuantizeMatMul", inputs, name, _MICROSOFT)

    def _by_token(self, name: str, value: str, matrix: Floats, bias: Floats) -> tuple[str, str]:
        """A product with one scale per token; its bias is left to the caller, as a constant."""
        integers, scale = by_column(matrix)
        one, zero = self._constant("one", np.float32(1)), self._constant("zero", np.uint8(0))
        lifted = self._node("Add", [value, self._constant("lift", _LIFT)], f"{name}_lifted")
        top = self._node(
            "ReduceMax", [lifted, self._constant("last", np.array([-1], np.int64))], f"{name}_top"
        )
        step = self._node("Mul", [top, self._constant("of_255", np.float32(1 / 255))], f"{name}_step")
        steps = self._node("Div", [lifted, step], f"{name}_steps")
        rounded = self._node("QuantizeLinear", [steps, one, zero], f"{name}_rounded")
        weights = [self._constant(f"{name}_weights", integers), one, self._constant(f"{name}_scales", scale)]
        product = self._node("MatMulIntegerToFloat", [rounded, *weights, zero], f"{name}_product", _MICROSOFT)
        moved = bias - _LIFT * (integers.sum(0, dtype=np.int64) * scale)
        return self._node("Mul", [product, step], name), self._constant(
            f"{name}_bias", moved.astype(np.float32)
        )

    def _normalised(self, name: str, terms: Sequence[str], norm: str) -> str:
        # SkipLayerNormalization of onnxruntime does this in one step, and costs the whole model a tenth more.
        total = terms[0]
        for index, term in enumerate(terms[1:]):
            total = self._node("Add", [total, term], f"{name}_sum{index}")
        gain = self._constant(f"{name}_gain", self._weights[f"{norm}.weight"])
        shift = self._constant(f"{name}_shift", self._weights[f"{norm}.bias"])
        return self._node("LayerNormalization", [total, gain, shift], name, epsilon=EPSILON)

    def _node(
        self, kind: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any
    ) -> str:
        self._nodes.append(
            helper.make_node(kind, inputs, [output], name=f"{output}_node", domain=domain, **attributes)
        )
        return output

    def _constant(self, name: str, value: Any) -> str:
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name
