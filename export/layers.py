"""A transformer layer as graph nodes: norms, fused attention over a cache, feed-forward; of any family, in any net.

Knows neither embedding nor head. Letters: T tokens, d hidden size.
"""

from dataclasses import dataclass
from typing import Final

import torch
from onnx import TensorProto

from sottovoce.export.weights import CONTRIB, Nodes, Weights
from sottovoce.models.config import DecoderConfig
from sottovoce.models.rope import rotary_table

HALF: Final = ".half"
"""What the name of a float16 copy ends in."""


@dataclass(frozen=True)
class Wires:
    """Names of what tells an attention op where it is; `bias` "" hides nothing, `rotary` "" rotates nothing.

    `rotary`: cos and sin rows by position, and the positions [1,T] int64. `scaled`: caches are int8, in steps of the
    initializers WHERE.k_scale and WHERE.v_scale. `half`: caches are fp16, and so are `bias` and all that the op is
    given: the engine has no kernel for floats over such caches, and would cast all slots at every step (from 1.27 on).
    """

    seqlens: str = "seqlens_k"
    total: str = "total_sequence_length"
    bias: str = "attention_bias"
    rotary: tuple[str, str, str] = ("", "", "")
    scaled: bool = False
    half: bool = False


def rotary_rows(nodes: Nodes, config: DecoderConfig, count: int, stem: str) -> tuple[str, str]:
    """Initializers `stem`.cos and `stem`.sin [count, D/2]: a row for every position that can be fed."""
    cos, sin = rotary_table(config, torch.arange(count))
    return nodes.table(f"{stem}.cos", cos.numpy()), nodes.table(f"{stem}.sin", sin.numpy())


class Layers:
    """Emits layers of one shape; modules are called as in the checkpoint."""

    def __init__(self, nodes: Nodes, weights: Weights, config: DecoderConfig, wires: Wires) -> None:
        """Nothing is emitted yet; families that norm their heads need `shape.heads` and `shape.flat`, others
        `split.heads` to rotate for fp16 caches.
        """
        self.nodes, self.weights, self.config, self.wires = nodes, weights, config, wires
        self.traits = config.traits

    def layer(self, x: str, where: str, past: str, present: str) -> str:
        """One whole layer over x [1,T,d] → [1,T,d]; reads the caches `past`.key|value and makes those of `present`."""
        return self.nodes.add("Add", list(self.summands(x, "", where, past, present)), where)

    def summands(self, x: str, plus: str, where: str, past: str, present: str) -> tuple[str, str]:
        """The same over x + `plus` ("" for none), its last sum left to the norm that comes next.

        In a loop's body the engine does not fuse the two by itself.
        """
        normed, x = self.sum_and_norm(x, plus, f"{where}.input_layernorm")
        attended = self.attention(normed, f"{where}.self_attn", past, present)
        normed, x = self.add_and_norm(attended, x, f"{where}.post_attention_layernorm")
        return x, self.feed_forward(normed, f"{where}.mlp")

    def sum_and_norm(self, x: str, plus: str, where: str) -> tuple[str, str]:
        """The norm of x + `plus` ("" for none), and x + `plus` itself."""
        return self.add_and_norm(plus, x, where) if plus else (self.norm(x, where), x)

    def norm(self, x: str, where: str) -> str:
        """The family's norm over the last axis."""
        op = "LayerNormalization" if self.traits.layer_norm else "SimplifiedLayerNormalization"
        inputs = [x, *self._norm_weights(where)]
        return self.nodes.add(op, inputs, where, axis=-1, epsilon=self.config.norm_eps, stash_type=1)

    def add_and_norm(self, x: str, skip: str, where: str) -> tuple[str, str]:
        """The norm of x + skip, and x + skip itself."""
        op = "SkipLayerNormalization" if self.traits.layer_norm else "SkipSimplifiedLayerNormalization"
        inputs, outputs = [x, skip, *self._norm_weights(where)], [where, "", "", f"{where}.sum"]
        self.nodes.add(op, inputs, outputs, CONTRIB, epsilon=self.config.norm_eps)
        return where, f"{where}.sum"

    def _norm_weights(self, where: str) -> list[str]:
        """Scale of a norm, and the bias of a LayerNorm."""
        return [self.nodes.vector(f"{where}.{kind}") for kind in ("weight", "bias")[: 1 + self.traits.layer_norm]]

    def attention(self, x: str, where: str, past: str, present: str) -> str:
        """x [1,T,d] → [1,T,d]; reads the caches `past`.key|value and makes those of `present`."""
        self._divide_queries(where)
        projected, name, rotary = self._project(x, where), where, self.wires.rotary
        if self.wires.half:
            projected, name, rotary = self._turned(projected, where), f"{where}{HALF}", ("", "", "")
        inputs = [*projected, f"{past}.key", f"{past}.value", self.wires.seqlens, self.wires.total]
        inputs += [*rotary, self.wires.bias]
        quantized = {}
        if self.wires.scaled:
            inputs += ["", f"{where}.k_scale", f"{where}.v_scale"]  # the gap: no attention sinks
            quantized = {"kv_cache_bit_width": 8, "k_quant_type": "PER_TENSOR", "v_quant_type": "PER_TENSOR"}
        attended = self.nodes.add(
            "GroupQueryAttention",
            inputs,
            [name, f"{present}.key", f"{present}.value"],
            CONTRIB,
            num_heads=self.config.heads,
            kv_num_heads=self.config.kv_heads,
            do_rotary=int(any(rotary)),
            scale=1.0,
            **quantized,
        )
        if self.wires.half:
            attended = self.nodes.add("Cast", [attended], where, to=TensorProto.FLOAT)
        return self.weights.linear(self.nodes, attended, f"{where}.o_proj")

    def _divide_queries(self, where: str) -> None:
        """By √D, in the weights, so that the op multiplies scores by 1.

        For a single query and no other factor, the engine has an x86 kernel that reads keys as they lie; else it
        first turns those of all slots around, for each head that looks at them.
        """
        last = "q_norm" if self.traits.qk_norm else "q_proj"
        self.nodes.source.read_times(self.config.head_dim**-0.5, f"{where}.{last}")

    def _turned(self, projected: list[str], where: str) -> list[str]:
        """Queries, keys and values in float16, rotated before: done by the op, in float16, logits would differ half as
        much again (reference voice) or twice as much (a tiny one with random weights).
        """
        add, (cos, sin, positions) = self.nodes.add, self.wires.rotary
        if not cos:
            return [self.in_half(part) for part in projected]
        if not projected[1]:
            packed, projected = projected[0], [f"{where}.{kind}_apart" for kind in "qkv"]
            add("Split", [packed, "split.heads"], projected, axis=2)
        turned = [
            add("RotaryEmbedding", [part, positions, cos, sin], f"{part}.turned", CONTRIB, num_heads=count)
            for part, count in zip(projected[:2], (self.config.heads, self.config.kv_heads), strict=True)
        ]
        return [self.in_half(part) for part in (*turned, projected[2])]

    def in_half(self, x: str) -> str:
        """`x` in float16; nothing of nothing."""
        return self.nodes.add("Cast", [x], f"{x}{HALF}", to=TensorProto.FLOAT16) if x else ""

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
        return self.nodes.add("Reshape", [self.norm(heads, where), "shape.flat"], f"{where}.flat")

    def feed_forward(self, x: str, where: str) -> str:
        """down(silu(gate(x)) · up(x)); without a gate, down(gelu(up(x)))."""
        if not self.traits.gated:
            approximate = "tanh" if self.config.activation == "gelu_tanh" else "none"
            up = self.weights.linear(self.nodes, x, f"{where}.up_proj")
            return self.weights.linear(
                self.nodes, self.nodes.add("Gelu", [up], where, approximate=approximate), f"{where}.down_proj"
            )
        gate = self.weights.linear(self.nodes, x, f"{where}.gate_proj")
        gate = self.silu(gate, f"{where}.silu")
        up = self.weights.linear(self.nodes, x, f"{where}.up_proj")
        return self.weights.linear(self.nodes, self.nodes.add("Mul", [gate, up], where), f"{where}.down_proj")

    def silu(self, x: str, where: str) -> str:
        """x · sigmoid(x), which QuickGelu is with alpha 1."""
        return self.nodes.add("QuickGelu", [x], where, CONTRIB, alpha=1.0)
