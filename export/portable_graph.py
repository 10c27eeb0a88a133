"""The decoder in standard operators alone (opset ≤ 21) and fixed shapes: `prefill.onnx` and `decode.onnx`.

Both are emitted by the same walk over the layers, so that their weights come in the same order and lie at the same
places of one file. Caches are never copied: a step's scores over the past and over itself are joined, not the keys, and
its keys and values go out alone (`runtime/portable_contract.py`). Letters: T tokens, S = P + W slots, d hidden size,
N heads in G groups of H KV heads, D head_dim.
"""

from onnx import ModelProto, TensorProto

from sottovoce.export.cache_scales import ScaleTable
from sottovoce.export.graph import Backbone, make_decoder
from sottovoce.export.weights import Nodes, Ranges, Weights
from sottovoce.runtime.manifest import CacheGroup, IoSpec

_FLOAT, _FLOAT16, _INT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8


class PortableBackbone(Backbone):
    """The decoder's layers without fused operators; T is P in the graph for prefixes, else 1."""

    scale_shape = ()

    def __init__(
        self,
        nodes: Nodes,
        weights: Weights,
        max_position: int,
        group: CacheGroup,
        scales: ScaleTable | None,
        prefill: bool,
    ) -> None:
        """Emits constants, rotary rows and the scales of an int8 cache; nothing of a layer yet."""
        self.group, self.prefill = group, prefill
        self.tokens = group.prefix if prefill else 1
        super().__init__(nodes, weights, max_position, scales)
        if not self.traits.learned_positions:
            self._rotary_rows()

    def model(self, io: IoSpec, ranges: Ranges) -> ModelProto:
        """The whole graph, its initializers pointing into the weight file."""
        nodes = self.nodes
        hidden = self.hidden(self.weights.embedding(nodes, "input_ids"))
        last = nodes.add("Gather", [hidden, "seqlens_k"], "last", axis=1) if self.prefill else hidden
        row = nodes.add("Reshape", [last, nodes.integers("shape.row", [1, -1])], "last_hidden")
        pieces = self.weights.head(nodes, row, ranges)
        joined = nodes.add("Concat", pieces, "lm_head", axis=1) if len(pieces) > 1 else pieces[0]
        nodes.add("Unsqueeze", [joined, nodes.integers("batch", [0])], "logits")
        return make_decoder(nodes, io)

    def _shapes(self) -> None:
        """Numbers, shapes and sizes that nodes ask for by name."""
        config, tokens, prefix = self.config, self.tokens, self.group.prefix
        heads, kv, size, group = config.heads, config.kv_heads, config.head_dim, config.heads // config.kv_heads
        self.nodes.number("attention.scale", size**-0.5)
        found = {
            "split.qkv": [heads * size, kv * size, kv * size],
            "shape.q": [1, tokens, heads, size],
            "shape.kv": [1, tokens, kv, size],
            "shape.grouped": [1, kv, group * tokens, size],
            "shape.joined": [1, tokens, heads * size],
        }
        if self.prefill:
            found["shape.scores"] = [kv, group, tokens, prefix]
            found["shape.weights"] = [1, kv, group * tokens, prefix]
            found["shape.apart"] = [1, heads, tokens, size]
            found["pads"] = [0, 0, 0, 0, 0, 0, self.group.window - 1, 0]
        else:
            found["shape.row_kv"] = [1, kv, 1, size]
            found["split.slots"] = [self.group.slots - 1, 1]
        if not self.traits.learned_positions:
            found |= {"split.half": [size // 2, size // 2], "axis.pair": [2]}
        if not self.traits.layer_norm:
            self.nodes.number("norm.eps", config.norm_eps)
            self.nodes.number("norm.power", 2.0)  # a power, not x · x: so engines know the norm, and fuse it
            found["axis.last"] = [-1]
        if self.group.dtype == "int8":
            self.nodes.number("int8.least", -128.0)
            self.nodes.number("int8.most", 127.0)
        for name, value in found.items():
            self.nodes.integers(name, value)

    def _rotary_rows(self) -> None:
        """cos and sin [1,T,1,D/2] of the positions of this run."""
        for table in self.wires.rotary[:2]:
            rows = self.nodes.add("Gather", [table, "position_ids"], f"{table}.rows")
            self.nodes.add("Unsqueeze", [rows, "axis.pair"], f"{table}.here")

    def norm(self, x: str, where: str) -> str:
        """The family's norm over the last axis."""
        if self.traits.layer_norm:
            return super().norm(x, where)
        add = self.nodes.add
        mean = add(
            "ReduceMean", [add("Pow", [x, "norm.power"], f"{where}.square"), "axis.last"], f"{where}.mean", keepdims=1
        )
        root = add("Sqrt", [add("Add", [mean, "norm.eps"], f"{where}.shifted")], f"{where}.root")
        return add("Mul", [add("Div", [x, root], f"{where}.unit"), self.nodes.vector(f"{where}.weight")], where)

    def add_and_norm(self, x: str, skip: str, where: str) -> tuple[str, str]:
        """The norm of x + skip, and x + skip itself."""
        total = self.nodes.add("Add", [x, skip], f"{where}.sum")
        return self.norm(total, where), total

    def silu(self, x: str, where: str) -> str:
        """x · sigmoid(x)."""
        return self.nodes.add("Mul", [x, self.nodes.add("Sigmoid", [x], f"{where}.sigmoid")], where)

    def attention(self, x: str, where: str, past: str, present: str) -> str:
        """x [1,T,d] → [1,T,d]; the prefix among itself, or a token over `past`.key|value; makes those of `present`."""
        q, k, v = self._heads(x, where)
        attend = self._attend_prefix if self.prefill else self._attend_step
        attended = attend(self._scaled(q, where, "key"), k, v, where, past, present)
        attended = self._scaled(attended, where, "value")
        return self.weights.linear(self.nodes, attended, f"{where}.o_proj")

    def _heads(self, x: str, where: str) -> tuple[str, str, str]:
        """Queries [1,T,N,D], scaled, keys and values [1,T,H,D], rotated where the family does."""
        add = self.nodes.add
        modules = [f"{where}.{kind}_proj" for kind in "qkv"]
        packed = self.weights.linear(self.nodes, x, *modules)
        flat = [f"{module}.part" for module in modules]
        add("Split", [packed, "split.qkv"], flat, axis=2)
        shapes = ("shape.q", "shape.kv", "shape.kv")
        q, k, v = (add("Reshape", [f, s], f"{m}.heads") for f, s, m in zip(flat, shapes, modules, strict=True))
        if self.traits.qk_norm:
            q, k = self.norm(q, f"{where}.q_norm"), self.norm(k, f"{where}.k_norm")
        if not self.traits.learned_positions:
            q, k = self._rotate(q), self._rotate(k)
        return add("Mul", [q, "attention.scale"], f"{where}.q_scaled"), k, v

    def _rotate(self, x: str) -> str:
        """x [1,T,..,D], halves paired, by the rows of its positions."""
        add, (cos, sin) = self.nodes.add, (f"{table}.here" for table in self.wires.rotary[:2])
        first, second = f"{x}.first", f"{x}.second"
        add("Split", [x, "split.half"], [first, second], axis=3)
        turned = [add("Mul", pair, f"{x}.{n}") for n, pair in enumerate(
            ([first, cos], [second, sin], [second, cos], [first, sin])
        )]  # fmt: skip
        halves = [add("Sub", turned[:2], f"{x}.left"), add("Add", turned[2:], f"{x}.right")]
        return add("Concat", halves, f"{x}.rotated", axis=3)

    def _attend_step(self, q: str, k: str, v: str, where: str, past: str, present: str) -> str:
        """One token over P + W − 1 slots and itself → [1,1,N·D]."""
        add = self.nodes.add
        q = add("Reshape", [q, "shape.grouped"], f"{where}.q_grouped")
        now, before = [], []
        for x, part in ((k, "key"), (v, "value")):
            row = add("Reshape", [x, "shape.row_kv"], f"{where}.{part}_row")
            now.append(self._read(self._write(row, f"{present}.{part}", where, part), f"{where}.{part}_now"))
            before.append(self._read(f"{past}.{part}", f"{where}.{part}_past"))
        scores = [self._product(q, keys, f"{keys}.scores") for keys in (before[0], now[0])]
        joined = add("Concat", scores, f"{where}.joined", axis=3)
        weights = add(
            "Softmax", [add("Add", [joined, "attention_bias"], f"{where}.biased")], f"{where}.weights", axis=3
        )
        shares = [f"{where}.weights_past", f"{where}.weights_now"]
        add("Split", [weights, "split.slots"], shares, axis=3)
        sums = [add("MatMul", [shares[0], before[1]], f"{where}.from_past")]
        sums += [add("Mul", [shares[1], now[1]], f"{where}.from_now")]
        return add("Reshape", [add("Add", sums, f"{where}.sum"), "shape.joined"], f"{where}.flat")

    def _attend_prefix(self, q: str, k: str, v: str, where: str, past: str, present: str) -> str:
        """P tokens among themselves → [1,P,N·D]; their keys and values go to the first slots."""
        add = self.nodes.add
        apart = add("Transpose", [q], f"{where}.q_apart", perm=[0, 2, 1, 3])
        q = add("Reshape", [apart, "shape.grouped"], f"{where}.q_grouped")
        read = []
        for x, part in ((k, "key"), (v, "value")):
            rows = add("Transpose", [x], f"{where}.{part}_rows", perm=[0, 2, 1, 3])
            kept = self._write(rows, f"{where}.{part}_kept", where, part)
            add("Pad", [kept, "pads"], f"{present}.{part}")
            read.append(self._read(kept, f"{where}.{part}_now"))
        scores = add("Reshape", [self._product(q, read[0], f"{where}.scores"), "shape.scores"], f"{where}.scores_apart")
        weights = add(
            "Softmax", [add("Add", [scores, "attention_bias"], f"{where}.biased")], f"{where}.weights", axis=3
        )
        weights = add("Reshape", [weights, "shape.weights"], f"{where}.weights_grouped")
        sums = add("MatMul", [weights, read[1]], f"{where}.sum")
        apart = add("Reshape", [sums, "shape.apart"], f"{where}.sum_apart")
        back = add("Transpose", [apart], f"{where}.sum_back", perm=[0, 2, 1, 3])
        return add("Reshape", [back, "shape.joined"], f"{where}.flat")

    def _product(self, q: str, keys: str, name: str) -> str:
        """q [1,H,n,D] times keys [1,H,S,D] → [1,H,n,S]."""
        turned = self.nodes.add("Transpose", [keys], f"{name}.turned", perm=[0, 1, 3, 2])
        return self.nodes.add("MatMul", [q, turned], name)

    def _write(self, x: str, name: str, where: str, part: str) -> str:
        """Floats as the cache keeps them, called `name`."""
        add = self.nodes.add
        if self.group.dtype == "int8":
            steps = add("Round", [add("Div", [x, f"{where}.{part[0]}_scale"], f"{name}.steps")], f"{name}.whole")
            return add("Cast", [add("Clip", [steps, "int8.least", "int8.most"], f"{name}.clipped")], name, to=_INT8)
        return add("Cast", [x], name, to=_FLOAT16) if self.group.dtype == "fp16" else add("Identity", [x], name)

    def _read(self, x: str, name: str) -> str:
        """What the cache keeps as floats; an int8 cache in steps, whose scales stand beside the sums."""
        return x if self.group.dtype == "fp32" else self.nodes.add("Cast", [x], name, to=_FLOAT)

    def _scaled(self, x: str, where: str, part: str) -> str:
        """x times what a step of an int8 cache stands for."""
        if self.group.dtype != "int8":
            return x
        return self.nodes.add("Mul", [x, f"{where}.{part[0]}_scale"], f"{where}.{part}_scaled")
