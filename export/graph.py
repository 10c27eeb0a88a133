"""The fused decoder graph of the cache contract, node by node: prefill and decode in one, one copy of the weights.

`com.microsoft.GroupQueryAttention` rotates, writes the caches and attends; the runtime tells it where by `seqlens_k`
and hides empty slots by `attention_bias`. Letters: T tokens, d hidden size, H KV heads, D head_dim, P prefix, W window.
"""

import numpy as np
import torch
from onnx import ModelProto, TensorProto, ValueInfoProto
from onnx.helper import make_graph, make_model, make_opsetid, make_tensor_value_info

from sottovoce.export.weights import CONTRIB, Nodes, Ranges, Weights
from sottovoce.models.rope import rotary_table
from sottovoce.runtime.contract import STEP_INPUTS, cache_tensors
from sottovoce.runtime.manifest import CacheSpec, IoSpec, TensorSpec

IR_VERSION = 10
OPSET = 21
"""Newer files are refused by engines that could otherwise run them (ONNX Runtime 1.22)."""

_ELEMENTS = {
    "tensor(float)": TensorProto.FLOAT,
    "tensor(float16)": TensorProto.FLOAT16,
    "tensor(int32)": TensorProto.INT32,
    "tensor(int64)": TensorProto.INT64,
}


def io_spec(cache: CacheSpec, logits: int) -> IoSpec:
    """Inputs and outputs of a decoder graph with that cache and that many logits."""
    inputs = (*STEP_INPUTS, *cache_tensors(cache, "past_key_values"))
    return IoSpec(inputs, (TensorSpec("logits", "tensor(float)", (1, 1, logits)), *cache_tensors(cache, "present")))


def build_graph(nodes: Nodes, weights: Weights, io: IoSpec, ranges: Ranges, max_position: int) -> ModelProto:
    """Emit the decoder into `nodes`; returns the model, its initializers pointing into `nodes.file`."""
    _Decoder(nodes, weights).emit(ranges, max_position)
    graph = make_graph(
        nodes.nodes,
        "decoder",
        [_value(spec) for spec in io.inputs],
        [_value(spec) for spec in io.outputs],
        initializer=nodes.file.initializers,
    )
    opsets = [make_opsetid("", OPSET), make_opsetid(CONTRIB, 1)]
    return make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="sottovoce")


def _value(spec: TensorSpec) -> ValueInfoProto:
    """A graph input or output."""
    return make_tensor_value_info(spec.name, _ELEMENTS[spec.dtype], spec.shape)


class _Decoder:
    """Walks the layers in the order in which data does."""

    def __init__(self, nodes: Nodes, weights: Weights) -> None:
        self.nodes, self.weights = nodes, weights
        self.config = nodes.source.config
        self.traits = self.config.traits
        self._rotary = ["", "", ""] if self.traits.learned_positions else ["rotary.cos", "rotary.sin", "position_ids"]

    def emit(self, ranges: Ranges, max_position: int) -> None:
        """Every node from `input_ids` to `logits`."""
        self._tables(max_position)
        x = self.weights.embedding(self.nodes, "input_ids")
        if self.traits.learned_positions:
            x = self._add_positions(x, max_position)
        normed = self._norm(x, "model.layers.0.input_layernorm")
        for index in range(self.config.layers):
            where = f"model.layers.{index}"
            after = f"model.layers.{index + 1}.input_layernorm" if index + 1 < self.config.layers else "model.norm"
            attended = self._attention(normed, index, f"{where}.self_attn")
            normed, x = self._add_and_norm(attended, x, f"{where}.post_attention_layernorm")
            normed, x = self._add_and_norm(self._feed_forward(normed, f"{where}.mlp"), x, after)
        self._head(normed, ranges)

    def _tables(self, max_position: int) -> None:
        """cos and sin rows for every position that can be fed, and the shapes that Qwen3's norms go through."""
        if not self.traits.learned_positions:
            cos, sin = rotary_table(self.config, torch.arange(max_position))
            self.nodes.table("rotary.cos", cos.numpy())
            self.nodes.table("rotary.sin", sin.numpy())
        if self.traits.qk_norm:
            self.nodes.integers("shape.heads", [0, 0, -1, self.config.head_dim])
            self.nodes.integers("shape.flat", [0, 0, -1])

    def _add_positions(self, x: str, max_position: int) -> str:
        """x plus the learned rows of its positions; rows that are never fed stay behind."""
        name, source = "model.embed_positions.weight", self.nodes.source
        shape = (max_position, self.config.hidden_size)
        self.nodes.file.add({name: (np.float32, shape)}, lambda: [source.read(name)[:max_position]])
        rows = self.nodes.add("Gather", [name, "position_ids"], "model.embed_positions")
        return self.nodes.add("Add", [x, rows], "model.embedded")

    def _norm(self, x: str, where: str) -> str:
        """The family's norm over the last axis."""
        op = "LayerNormalization" if self.traits.layer_norm else "SimplifiedLayerNormalization"
        inputs = [x, *self._norm_weights(where)]
        return self.nodes.add(op, inputs, where, axis=-1, epsilon=self.config.norm_eps, stash_type=1)

    def _add_and_norm(self, x: str, skip: str, where: str) -> tuple[str, str]:
        """The norm of x + skip, and x + skip itself."""
        op = "SkipLayerNormalization" if self.traits.layer_norm else "SkipSimplifiedLayerNormalization"
        inputs, outputs = [x, skip, *self._norm_weights(where)], [where, "", "", f"{where}.sum"]
        self.nodes.add(op, inputs, outputs, CONTRIB, epsilon=self.config.norm_eps)
        return where, f"{where}.sum"

    def _norm_weights(self, where: str) -> list[str]:
        """Scale of a norm, and the bias of a LayerNorm."""
        return [self.nodes.vector(f"{where}.{kind}") for kind in ("weight", "bias")[: 1 + self.traits.layer_norm]]

    def _attention(self, x: str, index: int, where: str) -> str:
        """x [1,T,d] → [1,T,d]; reads and writes the caches of layer `index`."""
        past, present = f"past_key_values.{index}", f"present.{index}"
        inputs = [*self._project(x, where), f"{past}.key", f"{past}.value", "seqlens_k", "total_sequence_length"]
        inputs += [*self._rotary, "attention_bias"]
        attended = self.nodes.add(
            "GroupQueryAttention",
            inputs,
            [where, f"{present}.key", f"{present}.value"],
            CONTRIB,
            num_heads=self.config.heads,
            kv_num_heads=self.config.kv_heads,
            do_rotary=int(not self.traits.learned_positions),
        )
        return self.weights.linear(self.nodes, attended, f"{where}.o_proj")

    def _project(self, x: str, where: str) -> list[str]:
        """Queries, keys and values: one packed matrix product where nothing has to happen to them in between."""
        modules = [f"{where}.{kind}_proj" for kind in "qkv"]
        if not self.traits.qk_norm:
            return [self.weights.linear(self.nodes, x, *modules), "", ""]
        q, k, v = (self.weights.linear(self.nodes, x, module) for module in modules)
        return [self._head_norm(q, f"{where}.q_norm"), self._head_norm(k, f"{where}.k_norm"), v]

    def _head_norm(self, x: str, where: str) -> str:
        """RMSNorm per head (the attention op's own norm inputs are refused by the CPU provider)."""
        heads = self.nodes.add("Reshape", [x, "shape.heads"], f"{where}.heads")
        return self.nodes.add("Reshape", [self._norm(heads, where), "shape.flat"], f"{where}.flat")

    def _feed_forward(self, x: str, where: str) -> str:
        """down(silu(gate(x)) · up(x)), where QuickGelu with alpha 1 is silu; without a gate, down(gelu(up(x)))."""
        if not self.traits.gated:
            approximate = "tanh" if self.config.activation == "gelu_tanh" else "none"
            up = self.weights.linear(self.nodes, x, f"{where}.up_proj")
            return self.weights.linear(
                self.nodes, self.nodes.add("Gelu", [up], where, approximate=approximate), f"{where}.down_proj"
            )
        gate = self.weights.linear(self.nodes, x, f"{where}.gate_proj")
        gate = self.nodes.add("QuickGelu", [gate], f"{where}.silu", CONTRIB, alpha=1.0)
        up = self.weights.linear(self.nodes, x, f"{where}.up_proj")
        return self.weights.linear(self.nodes, self.nodes.add("Mul", [gate, up], where), f"{where}.down_proj")

    def _head(self, normed: str, ranges: Ranges) -> None:
        """Logits [1,1,V'] of the last position."""
        last = self.nodes.add("Gather", [normed, self.nodes.integers("last", -1)], "last_hidden", axis=1)
        pieces = self.weights.head(self.nodes, last, ranges)
        joined = self.nodes.add("Concat", pieces, "lm_head", axis=1)
        self.nodes.add("Unsqueeze", [joined, self.nodes.integers("batch", [0])], "logits")
