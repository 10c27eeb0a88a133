"""Several tokens of one hidden state: a local decoder in a `Loop`, each token drawn in the graph and fed back.

The extractor of a patch voice is such a decoder, and so is one that says the codebooks of a frame one after the other:
what differs is told by `LocalDecoder`. Weights stand in the outer graph, where the engine packs them once however many
steps there are. Letters: V' logits, R indices remembered, J tokens of one run, d hidden size.
"""

from typing import Protocol

from onnx import GraphProto, TensorProto, ValueInfoProto
from onnx.helper import make_graph, make_tensor_value_info

from sottovoce.export.patch_sampler import GraphSampler
from sottovoce.export.weights import Nodes

Shape = tuple[int, ...]

STEP, BODY_LOGITS = "loop.step", "logits"
"""What the number of a token, and its logits, are called inside the loop."""


class LocalDecoder(Protocol):
    """What says the tokens: `states` are its float tensors by name, of which every run begins with zeros."""

    states: dict[str, Shape]
    width: int

    def step(self, body: Nodes, x: str, step: str) -> str:
        """x [1,1,d] as token number `step` [] → logits [V']; reads the states NAME, makes next.NAME."""

    def embed(self, body: Nodes, ids: str, step: str) -> str:
        """Token id [1,1], number `step` [], as it is fed back, [1,1,d]."""


class TokenLoop:
    """Emits the loop: as many tokens as there are `uniforms`, or until a stop."""

    def __init__(self, nodes: Nodes, decoder: LocalDecoder, sampler: GraphSampler) -> None:
        """Into `nodes`, which hold what `decoder` and `sampler` prepared."""
        self.nodes, self.decoder, self.sampler = nodes, decoder, sampler

    def emit(self, start: str) -> None:
        """From `start` [1,1,d]: `token_ids` [n] int64, a stop included, `count` [] of them to be heard, `next_history`.

        n ≤ J; it is J unless the last one is a stop.
        """
        nodes, states = self.nodes, self.decoder.states
        size = nodes.add("Shape", ["uniforms"], "loop.shape")
        trips = nodes.add("Gather", [size, "sampler.zero"], "loop.trips")
        zeros = [self._zeros(name, shape) for name, shape in states.items()]
        carried = ["loop.end", "next_history", *(f"loop.end.{name}" for name in states)]
        outputs = [*carried, "token_ids", "loop.heard"]
        nodes.add("Loop", [trips, "", start, "history", *zeros], outputs, body=self._body())
        heard = nodes.add("Cast", ["loop.heard"], "loop.heard_ones", to=TensorProto.INT64)
        nodes.add("ReduceSum", [heard], "count", keepdims=0)

    def _zeros(self, name: str, shape: Shape) -> str:
        """What a state is before the first token; made anew for every run."""
        size = self.nodes.integers(f"loop.size.{name}", list(shape))
        return self.nodes.add("ConstantOfShape", [size], f"loop.begin.{name}")

    def _body(self) -> GraphProto:
        """One token."""
        body, step = Nodes(self.nodes.source, self.nodes.file), STEP
        logits = self.decoder.step(body, "loop.x", step)
        index = self.sampler.draw(body, logits, "loop.history", step)
        token = body.add("Gather", ["sampler.ids", index], "loop.token")
        stop = body.add("Gather", ["sampler.stops", index], "loop.stop")
        heard = body.add("Not", [stop], "loop.goes_on")
        history = self.sampler.append(body, "loop.history", index)
        ids = body.add("Reshape", [token, self.nodes.integers("loop.one_id", [1, 1])], "loop.ids")
        fed = self.decoder.embed(body, ids, step)
        heard_out = body.add("Identity", [heard], "loop.heard_out")
        carried = [self._hidden("loop.x"), _value("loop.history", TensorProto.INT64, ["R"]), *self._states("{}")]
        made = [self._hidden(fed), _value(history, TensorProto.INT64, ["R"]), *self._states("next.{}")]
        inputs = [_value(step, TensorProto.INT64, []), _value("loop.on", TensorProto.BOOL, []), *carried]
        scans = [_value(token, TensorProto.INT64, []), _value(heard_out, TensorProto.BOOL, [])]
        return make_graph(body.nodes, "token", inputs, [_value(heard, TensorProto.BOOL, []), *made, *scans])

    def _hidden(self, name: str) -> ValueInfoProto:
        """A float [1,1,d]."""
        return _value(name, TensorProto.FLOAT, [1, 1, self.decoder.width])

    def _states(self, called: str) -> list[ValueInfoProto]:
        """The decoder's states, by what they are `called`."""
        return [_value(called.format(name), TensorProto.FLOAT, shape) for name, shape in self.decoder.states.items()]


def _value(name: str, element: int, shape: list[int | str] | Shape) -> ValueInfoProto:
    """A tensor that goes into the body, or comes out."""
    return make_tensor_value_info(name, element, shape)
