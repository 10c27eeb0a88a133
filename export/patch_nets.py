"""The two nets of a patch voice as graph nodes: tokens → patches, and a word of the backbone → the tokens of a patch.

Letters: N patches, k tokens of a patch, C = N·k tokens, m slots, d hidden size, V' logits.
"""

import numpy as np
from onnx import TensorProto
from onnx.numpy_helper import from_array

from sottovoce.export.head import Ranges
from sottovoce.export.layers import Layers, Wires, rotary_rows
from sottovoce.export.token_loop import BODY_LOGITS, Shape
from sottovoce.export.weights import CONTRIB, Nodes, Weights
from sottovoce.models.patch.config import PatchConfig
from sottovoce.runtime.patch_contract import COMPRESSOR

HIDDEN = np.float32(-1e30)
_PARTS = ("key", "value")

_POSITIONS = f"{COMPRESSOR}position_ids"


def constant(nodes: Nodes, name: str, value: object, kind: type[np.generic] = np.float32) -> str:
    """An initializer kept in the graph itself."""
    nodes.file.initializers.append(from_array(np.array(value, kind), name))
    return name


class Across(Layers):
    """x + attention of norm(x) over keys and values that something else made."""

    def keys(self, memory: str, where: str) -> list[str]:
        """Keys and values [N,S,d] of `memory` [N,S,d]."""
        return [self.weights.linear(self.nodes, memory, f"{where}.attention.{kind}_proj") for kind in "kv"]

    def look(self, nodes: Nodes, x: str, where: str, keys: list[str], bias: str = "") -> str:
        """x [N,T,d] over `keys` and values [N,S,d] → [N,T,d], emitted into `nodes`; `bias` [N,1,T,S] or nothing."""
        return nodes.add("Add", list(self.seen(nodes, x, "", where, keys, bias)), where)

    def seen(self, nodes: Nodes, x: str, plus: str, where: str, keys: list[str], bias: str = "") -> tuple[str, str]:
        """The same over x + `plus` ("" for none), its last sum left to the norm that comes next."""
        here = Across(nodes, self.weights, self.config, self.wires)
        normed, x = here.sum_and_norm(x, plus, f"{where}.norm")
        query = self.weights.linear(nodes, normed, f"{where}.attention.q_proj")
        inputs = [query, *keys, *(["", "", bias] if bias else [])]
        seen = nodes.add("MultiHeadAttention", inputs, f"{where}.attention", CONTRIB, num_heads=self.config.heads)
        return x, self.weights.linear(nodes, seen, f"{where}.attention.o_proj")


class CompressorNodes:
    """Embedded tokens → patches; keys and values of tokens in `past_key_values.{first}` and on."""

    def __init__(self, nodes: Nodes, weights: Weights, config: PatchConfig, first: int, positions: int) -> None:
        """`first`: number of its first cache; `positions`: tokens of the longest utterance."""
        backbone = nodes.source.config
        self.nodes, self.config, self.first = nodes, config, first
        self.layers = config.compressor_layers.layers if config.compressor == "attention" else 0
        wires = Wires()
        shape = config.compressor_layers.tokens(backbone)
        if self.layers:
            rotary = (*rotary_rows(nodes, shape, positions, "compressor.rotary"), _POSITIONS)
            names = ("seqlens_k", "total_sequence_length", "attention_bias")
            seqlens, total, bias = (f"{COMPRESSOR}{name}" for name in names)
            wires = Wires(seqlens, total, bias, rotary)
        self.tokens = Layers(nodes, weights, shape, wires)
        self.across = Across(nodes, weights, config.compressor_layers.cross(backbone), wires)
        width = backbone.hidden_size
        self.apart = constant(nodes, "compressor.apart", [-1, config.patch, width], np.int64)
        self.together = constant(nodes, "compressor.together", [1, -1, width], np.int64)

    def patches(self, tokens: str, ids: str) -> str:
        """Embedded tokens [1,C,d] with their `ids` [N,k], -1 for padding at the end of a patch → patches [1,N,d]."""
        real = self._real(ids)
        patches, bias = self._mean(tokens, real), self._bias(real) if self.layers else ""
        for number in range(self.layers):
            where, cache = f"compressor.layers.{number}", self.first + number
            tokens = self.tokens.layer(tokens, f"{where}.tokens", f"past_key_values.{cache}", f"present.{cache}")
            memory = self.nodes.add("Reshape", [tokens, self.apart], f"{where}.memory")
            memory = self.across.norm(memory, f"{where}.cross.norm_memory")
            keys = self.across.keys(memory, f"{where}.cross")
            patches = self.across.look(self.nodes, patches, f"{where}.cross", keys, bias)
        return self.nodes.add("Reshape", [patches, self.together], "compressor.patches")

    def _real(self, ids: str) -> str:
        """1 for a token, 0 for padding, [N,k]."""
        zero = constant(self.nodes, "compressor.no_id", 0, np.int64)
        exists = self.nodes.add("GreaterOrEqual", [ids, zero], "compressor.exists")
        return self.nodes.add("Cast", [exists], "compressor.real", to=TensorProto.FLOAT)

    def _mean(self, tokens: str, real: str) -> str:
        """RMSNorm of the mean of each patch's tokens, [N,1,d]."""
        nodes = self.nodes
        axis, one = nodes.integers("compressor.axis", [1]), constant(nodes, "compressor.one", 1)
        count = nodes.add("ReduceSum", [real, axis], "compressor.count")
        share = nodes.add("Div", [real, nodes.add("Max", [count, one], "compressor.least")], "compressor.share")
        share = nodes.add("Unsqueeze", [share, axis], "compressor.shares")
        apart = nodes.add("Reshape", [tokens, self.apart], "compressor.apart_tokens")
        return self.tokens.norm(nodes.add("MatMul", [share, apart], "compressor.mean"), "compressor.norm")

    def _bias(self, real: str) -> str:
        """0 for a patch's tokens, out of sight for padding, [N,1,1,k]; a patch of padding alone sees its first."""
        nodes = self.nodes
        first = constant(nodes, "compressor.first", [[1.0] + [0.0] * (self.config.patch - 1)])
        seen = nodes.add(
            "Cast", [nodes.add("Max", [real, first], "compressor.seen")], "compressor.sees", to=TensorProto.BOOL
        )
        zero, hidden = constant(nodes, "compressor.shown", 0), constant(nodes, "compressor.hidden", HIDDEN)
        bias = nodes.add("Where", [seen, zero, hidden], "compressor.flat_bias")
        return nodes.add("Unsqueeze", [bias, nodes.integers("compressor.axes", [1, 2])], "compressor.bias")


class ExtractorNodes:
    """A `LocalDecoder`: what it is told becomes keys and values once, outside the loop; its cache has k slots."""

    def __init__(self, nodes: Nodes, weights: Weights, config: PatchConfig, ranges: Ranges) -> None:
        """`ranges` of token ids have logits."""
        backbone = nodes.source.config
        self.nodes, self.weights, self.config, self.ranges = nodes, weights, config, ranges
        self.width, self.shape = backbone.hidden_size, config.extractor_layers.tokens(backbone)
        self.rotary = rotary_rows(nodes, self.shape, config.patch, "extractor.rotary")
        self.across = Across(nodes, weights, config.extractor_layers.cross(backbone), Wires())
        room = (1, self.shape.kv_heads, config.patch, self.shape.head_dim)
        layers = range(config.extractor_layers.layers)
        self.states: dict[str, Shape] = {f"slots.{number}.{part}": room for number in layers for part in _PARTS}
        self.keys: list[list[str]] = []

    def begin(self, context: str, speaker: str) -> str:
        """Tell it the backbone's word `context` [1,1,d] and `speaker` [1,1,d], or "" → what comes first, [1,1,d]."""
        nodes, told = self.nodes, context
        if speaker:
            voice = self.weights.linear(nodes, speaker, "extractor.speaker")
            told = nodes.add("Concat", [context, voice], "extractor.heard", axis=2)
        told = self.weights.linear(nodes, told, "extractor.fuse")
        apart = nodes.integers("extractor.slots", [1, self.config.slots, self.width])
        for number in range(self.config.extractor_layers.layers):
            where = f"extractor.layers.{number}"
            slots = self.weights.linear(nodes, told, f"{where}.slot")
            memory = nodes.add("Reshape", [slots, apart], f"{where}.memory")
            self.keys.append(self.across.keys(memory, f"{where}.cross"))
        ahead = nodes.integers("extractor.ahead", [0, 1])
        return nodes.add("Unsqueeze", [nodes.vector("extractor.start"), ahead], "extractor.first")

    def step(self, body: Nodes, x: str, step: str) -> str:
        """x [1,1,d] as token number `step` → logits [V']."""
        tokens, plus = Layers(body, self.weights, self.shape, self._wires(body, step)), ""
        for number, keys in enumerate(self.keys):
            where = f"extractor.layers.{number}"
            x, plus = self.across.seen(body, x, plus, f"{where}.cross", keys)
            x, plus = tokens.summands(x, plus, f"{where}.tokens", f"slots.{number}", f"next.slots.{number}")
        normed, _ = tokens.sum_and_norm(x, plus, "extractor.norm")
        hidden = body.add("Reshape", [normed, body.integers("extractor.flat", [1, self.width])], "extractor.hidden")
        pieces = self.weights.head(body, hidden, self.ranges)
        joined = body.add("Concat", pieces, "lm_head", axis=1) if len(pieces) > 1 else pieces[0]
        return body.add("Squeeze", [joined, body.integers("extractor.row", [0])], BODY_LOGITS)

    def embed(self, body: Nodes, ids: str, step: str) -> str:
        """Token id [1,1] by the backbone's embedding, whichever of the k it is."""
        return self.weights.embedding(body, ids, "extractor.fed")

    def _wires(self, body: Nodes, step: str) -> Wires:
        """Token number `step` takes the slot and the position of its number."""
        row = body.integers("extractor.step_shape", [1])
        seqlens = body.add(
            "Cast", [body.add("Reshape", [step, row], "extractor.row_step")], "extractor.seqlens", to=TensorProto.INT32
        )
        one = constant(body, "extractor.one", 1, np.int64)
        total = body.add(
            "Cast", [body.add("Add", [step, one], "extractor.steps")], "extractor.total", to=TensorProto.INT32
        )
        square = body.integers("extractor.step_square", [1, 1])
        positions = body.add("Reshape", [step, square], "extractor.position_ids")
        return Wires(seqlens, total, "", (*self.rotary, positions))
