"""The sampler inside a graph: logits → the index that `runtime/sampling.py` draws, rule for rule and tie for tie.

What is asked for comes in by inputs (`SAMPLING_INPUTS` of `runtime/patch_contract.py`), so that one graph serves every
option. Letters: V' logits, R indices remembered, J tokens drawn by one run. The engine's `Exp` and sums round unlike
numpy's in the last bit: where a uniform or top-p falls into such a gap, the draw may be another.
"""

import numpy as np
from onnx import TensorProto
from onnx.helper import make_graph, make_tensor_value_info
from onnx.numpy_helper import from_array

from sottovoce.export.head import Ranges, ids_of
from sottovoce.export.weights import Nodes

INDEX = "index"
"""What the index that is drawn is called inside the graph."""


class GraphSampler:
    """Emits the rules; what does not change from token to token stands outside the loop."""

    def __init__(self, nodes: Nodes, ranges: Ranges, stop: tuple[int, ...]) -> None:
        """`ranges` of token ids have logits, in order; `stop` ids end an utterance."""
        ids = np.array(ids_of(ranges), np.int64)
        self.count = len(ids)
        for name, value in {
            "sampler.none": np.int64(-1),
            "sampler.zero": np.int64(0),
            "sampler.one": np.int64(1),
            "sampler.axis": np.zeros(1, np.int64),
            "sampler.all": np.array([len(ids)], np.int64),
            "sampler.float_zero": np.float32(0),
            "sampler.float_one": np.float32(1),
            "sampler.hidden": np.float32(-np.inf),
            "sampler.beyond": np.zeros(1, np.float32),
            "sampler.stops": np.isin(ids, stop),
            "sampler.ids": ids,
        }.items():
            nodes.file.initializers.append(from_array(np.asarray(value), name))
        self._remember(nodes)
        self._prepare(nodes)

    def _remember(self, nodes: Nodes) -> None:
        """Which of the R indices lie in either window: `recent.repetition` and `recent.ras`, [R] bool."""
        size = nodes.add("Squeeze", [nodes.add("Shape", ["history"], "history.shape")], "history.size")
        places = nodes.add("Range", ["sampler.zero", size, "sampler.one"], "history.places")
        age = nodes.add("Sub", [size, places], "history.age")
        for kind in ("repetition", "ras"):
            nodes.add("LessOrEqual", [age, f"{kind}_window"], f"recent.{kind}")

    def _prepare(self, nodes: Nodes) -> None:
        """`wait.biases` [2,V'], of tokens that may be stops and of those that may not; whether top-p cuts."""
        waiting = nodes.add("Where", ["sampler.stops", "sampler.hidden", "logit_bias"], "wait.bias")
        rows = [nodes.add("Unsqueeze", [bias, "sampler.axis"], f"{bias}.row") for bias in ("logit_bias", waiting)]
        nodes.add("Concat", rows, "wait.biases", axis=0)
        nodes.add("Not", [nodes.add("Less", ["top_p", "sampler.float_one"], "top_p.on")], "top_p.off")

    def draw(self, nodes: Nodes, logits: str, history: str, step: str) -> str:
        """The index [] int64 of token number `step` [] of this run, from `logits` [V'] and indices `history` [R]."""
        waits = nodes.add("Cast", [nodes.add("Less", [step, "wait"], "wait.on")], "wait.which", to=_INT64)
        bias = nodes.add("Gather", ["wait.biases", waits], "wait.chosen", axis=0)
        scores = self._penalised(nodes, nodes.add("Add", [logits, bias], "biased"), history)
        scores = nodes.add("Div", [scores, "temperature"], "scores")
        pair = nodes.add("Gather", ["uniforms", step], "uniform.pair")
        first = nodes.add("Gather", [pair, "sampler.zero"], "uniform.first")
        second = nodes.add("Gather", [pair, "sampler.one"], "uniform.second")
        index = _top_p_draw(nodes, scores, first)
        return self._redrawn(nodes, index, scores, history, second)

    def append(self, nodes: Nodes, history: str, index: str) -> str:
        """The last R of `history` [R] and then `index` []."""
        longer = nodes.add("Concat", [history, _unsqueezed(nodes, index)], "history.longer", axis=0)
        size = nodes.add("Shape", [longer], "history.end")
        return nodes.add("Slice", [longer, nodes.integers("history.start", [1]), size], "history.next")

    def _penalised(self, nodes: Nodes, logits: str, history: str) -> str:
        """Logits of recent indices made less likely: l > 0 → l / p, else l · p."""
        recent = nodes.add("Where", ["recent.repetition", history, "sampler.none"], "penalty.recent")
        # A last place for -1, which is no index.
        longer = nodes.add("Concat", [logits, "sampler.beyond"], "penalty.longer", axis=0)
        found = nodes.add("Gather", [longer, recent], "penalty.found")
        positive = nodes.add("Greater", [found, "sampler.float_zero"], "penalty.positive")
        less = nodes.add("Div", [found, "repetition_penalty"], "penalty.less")
        lower = nodes.add("Mul", [found, "repetition_penalty"], "penalty.lower")
        punished = nodes.add("Where", [positive, less, lower], "penalty.punished")
        marked = nodes.add("ScatterElements", [longer, recent, punished], "penalty.marked", axis=0)
        return nodes.add("Slice", [marked, "sampler.axis", "sampler.all"], "penalty.scores")

    def _redrawn(self, nodes: Nodes, index: str, scores: str, history: str, uniform: str) -> str:
        """`index`, or where the last ones hold it too often, a draw from all `scores`, which nothing truncates."""
        same = nodes.add("And", [nodes.add("Equal", [history, index], "ras.equal"), "recent.ras"], "ras.same")
        again = nodes.add("GreaterOrEqual", [_how_many(nodes, same, "ras"), "ras_limit"], "ras.again")
        redraw, keep = Nodes(nodes.source, nodes.file), Nodes(nodes.source, nodes.file)
        order, shares = _likeliest(redraw, scores, "sampler.all", "redraw")
        _inverse_cdf(redraw, order, shares, uniform, "redraw")
        keep.add("Identity", [index], "kept")
        branches = {
            name: make_graph(branch.nodes, name, [], [make_tensor_value_info(branch.nodes[-1].output[0], _INT64, [])])
            for name, branch in (("then_branch", redraw), ("else_branch", keep))
        }
        return nodes.add("If", [again], INDEX, **branches)


_INT64 = TensorProto.INT64


def _top_p_draw(nodes: Nodes, scores: str, uniform: str) -> str:
    """An index of `scores` [V'] from the top-k, then top-p survivors, at `uniform` []."""
    order, shares = _likeliest(nodes, scores, "top_k", "draw")
    before = nodes.add("CumSum", [shares, "sampler.zero"], "top_p.before", exclusive=1)
    inside = nodes.add("Less", [before, "top_p"], "top_p.inside")
    inside = nodes.add("Or", [inside, "top_p.off"], "top_p.kept")
    shares = nodes.add("Where", [inside, shares, "sampler.float_zero"], "top_p.shares")
    whole = nodes.add("ReduceSum", [shares], "top_p.sum", keepdims=0)
    # Without a cut the contract does not divide, and the sum of all is not quite 1.
    whole = nodes.add("Where", ["top_p.on", whole, "sampler.float_one"], "top_p.whole")
    shares = nodes.add("Div", [shares, whole], "top_p.probabilities")
    return _inverse_cdf(nodes, order, shares, uniform, "draw")


def _likeliest(nodes: Nodes, scores: str, count: str, stem: str) -> tuple[str, str]:
    """The `count` [1] largest of `scores` [V'], largest first, ties by index: their indices and probabilities [K]."""
    values, order = f"{stem}.values", f"{stem}.order"
    nodes.add("TopK", [scores, count], [values, order], axis=0)
    best = nodes.add("Gather", [values, "sampler.zero"], f"{stem}.best")
    weights = nodes.add("Exp", [nodes.add("Sub", [values, best], f"{stem}.below")], f"{stem}.exp")
    # The engine's Exp of -inf may be the smallest number instead of zero.
    visible = nodes.add("Greater", [values, "sampler.hidden"], f"{stem}.visible")
    weights = nodes.add("Where", [visible, weights, "sampler.float_zero"], f"{stem}.weights")
    total = nodes.add("ReduceSum", [weights], f"{stem}.total", keepdims=0)
    return order, nodes.add("Div", [weights, total], f"{stem}.probabilities")


def _inverse_cdf(nodes: Nodes, order: str, shares: str, uniform: str, stem: str) -> str:
    """The index [] of `order` [K] whose share of probability holds `uniform` []; rounding never leaves the last one."""
    sums = nodes.add("CumSum", [shares, "sampler.zero"], f"{stem}.sums")
    place = _how_many(nodes, nodes.add("LessOrEqual", [sums, uniform], f"{stem}.passed"), f"{stem}.place")
    likely = nodes.add("Greater", [shares, "sampler.float_zero"], f"{stem}.likely")
    last = nodes.add("Sub", [_how_many(nodes, likely, f"{stem}.visible_count"), "sampler.one"], f"{stem}.last")
    return nodes.add("Gather", [order, nodes.add("Min", [place, last], f"{stem}.nth")], f"{stem}.index")


def _how_many(nodes: Nodes, flags: str, stem: str) -> str:
    """How many of `flags` [..] are true, [] int64."""
    ones = nodes.add("Cast", [flags], f"{stem}.ones", to=_INT64)
    return nodes.add("ReduceSum", [ones], f"{stem}.count", keepdims=0)


def _unsqueezed(nodes: Nodes, scalar: str) -> str:
    """A scalar as [1]."""
    return nodes.add("Unsqueeze", [scalar, "sampler.axis"], f"{scalar}.row")
