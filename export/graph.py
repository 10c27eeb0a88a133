"""The fused decoder graph of the cache contract, node by node: prefill and decode in one, one copy of the weights.

`com.microsoft.GroupQueryAttention` rotates (not over fp16 caches), writes the caches and attends; the runtime tells it
where by `seqlens_k` and hides empty slots by `attention_bias`. Letters: T tokens, d hidden size, H KV heads, D
head_dim, P prefix, W window.
"""

from dataclasses import replace
from functools import partial

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto
from onnx.helper import make_graph, make_model, make_opsetid, make_tensor_value_info

from sottovoce.export.cache_scales import ScaleTable
from sottovoce.export.layers import Layers, Wires, rotary_rows
from sottovoce.export.weights import CONTRIB, Nodes, Ranges, Weights
from sottovoce.runtime.contract import STEP_INPUTS, cache_tensors
from sottovoce.runtime.manifest import CacheSpec, IoSpec, TensorSpec

IR_VERSION = 10
OPSET = 21
"""Newer files are refused by engines that could otherwise run them (ONNX Runtime 1.22)."""

_ELEMENTS = {
    "tensor(float)": TensorProto.FLOAT,
    "tensor(float16)": TensorProto.FLOAT16,
    "tensor(int8)": TensorProto.INT8,
    "tensor(int32)": TensorProto.INT32,
    "tensor(int64)": TensorProto.INT64,
}


def io_spec(cache: CacheSpec, logits: int) -> IoSpec:
    """Inputs and outputs of a decoder graph with that cache and that many logits."""
    inputs = (*STEP_INPUTS, *cache_tensors(cache, "past_key_values"))
    return IoSpec(inputs, (TensorSpec("logits", "tensor(float)", (1, 1, logits)), *cache_tensors(cache, "present")))


def build_graph(
    nodes: Nodes,
    weights: Weights,
    io: IoSpec,
    ranges: Ranges,
    max_position: int,
    scales: ScaleTable | None = None,
    half: bool = False,
) -> ModelProto:
    """Emit the decoder into `nodes`; returns the model, its initializers pointing into `nodes.file`.

    `scales` are those of an int8 cache; `half`: the cache is fp16.
    """
    backbone = Backbone(nodes, weights, max_position, scales, half)
    _head(nodes, weights, backbone.hidden(weights.embedding(nodes, "input_ids")), ranges)
    return make_decoder(nodes, io)


def make_decoder(nodes: Nodes, io: IoSpec) -> ModelProto:
    """The model of what was emitted; it names the operators of ONNX Runtime alone only where it has some."""
    inputs, outputs = ([_value(spec) for spec in specs] for specs in (io.inputs, io.outputs))
    graph = make_graph(nodes.nodes, "decoder", inputs, outputs, initializer=nodes.file.initializers)
    opsets = [make_opsetid("", OPSET), make_opsetid(CONTRIB, 1)]
    if all(node.domain == "" for node in nodes.nodes):
        opsets.pop()
    return make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="sottovoce")


def _value(spec: TensorSpec) -> ValueInfoProto:
    """A graph input or output."""
    return make_tensor_value_info(spec.name, _ELEMENTS[spec.dtype], spec.shape)


class Backbone(Layers):
    """The decoder's layers, between what is embedded and its hidden states."""

    scale_shape: tuple[int, ...] = (1,)
    """Of a scale of an int8 cache, as the attention op wants it."""

    def __init__(
        self,
        nodes: Nodes,
        weights: Weights,
        max_position: int,
        scales: ScaleTable | None = None,
        half: bool = False,
    ) -> None:
        """Emits cos and sin rows for `max_position` positions, the shapes that Qwen3's norms go through, and `scales`
        of an int8 cache, or for a cache in `half` precision the bias in it.
        """
        config = nodes.source.config
        self.max_position, rotary = max_position, ("", "", "")
        if not config.traits.learned_positions:
            rotary = (*rotary_rows(nodes, config, max_position, "rotary"), "position_ids")
        wires = Wires(rotary=rotary, scaled=scales is not None, half=half)
        super().__init__(nodes, weights, config, wires)
        if half:
            self.wires = replace(wires, bias=self.in_half(wires.bias))
        if scales is not None:
            self._scales(scales)
        self._shapes()

    def _shapes(self) -> None:
        """Shapes and sizes that nodes ask for by name."""
        if self.wires.half and any(self.wires.rotary) and not self.traits.qk_norm:
            kv = self.config.kv_heads
            self.nodes.integers("split.heads", [self.config.head_dim * n for n in (self.config.heads, kv, kv)])
        if self.traits.qk_norm:
            self.nodes.integers("shape.heads", [0, 0, -1, self.config.head_dim])
            self.nodes.integers("shape.flat", [0, 0, -1])

    def _scales(self, scales: ScaleTable) -> None:
        """Two initializers for each layer's attention."""
        for layer in range(self.config.layers):
            where = f"model.layers.{layer}.self_attn"
            for value, name in enumerate(("k_scale", "v_scale")):
                read = partial(scales.read, layer, bool(value), self.scale_shape)
                self.nodes.file.add({f"{where}.{name}": (np.float32, self.scale_shape)}, read)

    def hidden(self, x: str) -> str:
        """x [1,T,d] → hidden states after the final norm, [1,T,d]."""
        if self.traits.learned_positions:
            x = self._add_positions(x)
        normed = self.norm(x, "model.layers.0.input_layernorm")
        for index in range(self.config.layers):
            where = f"model.layers.{index}"
            after = f"model.layers.{index + 1}.input_layernorm" if index + 1 < self.config.layers else "model.norm"
            attended = self.attention(normed, f"{where}.self_attn", f"past_key_values.{index}", f"present.{index}")
            normed, x = self.add_and_norm(attended, x, f"{where}.post_attention_layernorm")
            normed, x = self.add_and_norm(self.feed_forward(normed, f"{where}.mlp"), x, after)
        return normed

    def _add_positions(self, x: str) -> str:
        """x plus the learned rows of its positions; rows that are never fed stay behind."""
        name, source = "model.embed_positions.weight", self.nodes.source
        shape = (self.max_position, self.config.hidden_size)
        self.nodes.file.add({name: (np.float32, shape)}, lambda: [source.read(name)[: self.max_position]])
        rows = self.nodes.add("Gather", [name, "position_ids"], "model.embed_positions")
        return self.nodes.add("Add", [x, rows], "model.embedded")


def _head(nodes: Nodes, weights: Weights, normed: str, ranges: Ranges) -> None:
    """Logits [1,1,V'] of the last position."""
    last = nodes.add("Gather", [normed, nodes.integers("last", -1)], "last_hidden", axis=1)
    joined = nodes.add("Concat", weights.head(nodes, last, ranges), "lm_head", axis=1)
    nodes.add("Unsqueeze", [joined, nodes.integers("batch", [0])], "logits")
