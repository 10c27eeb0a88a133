"""A patch voice's graph that is told what to say: the same nodes over the same bytes, for parity checks.

What it would have drawn is replaced, and the logits it would have drawn from are shown, so that a graph whose outputs
are tokens can be judged as one whose outputs are logits.
"""

from onnx import ModelProto, TensorProto
from onnx.helper import make_node, make_tensor_value_info

from sottovoce.export.patch_sampler import INDEX
from sottovoce.export.token_loop import BODY_LOGITS, STEP

TOLD = "told"
"""Input [J] int64: the index of the logit of each token."""

LOGITS = "told_logits"
"""Output [n,V'] float32."""


def tell(model: ModelProto) -> ModelProto:
    """`model` with these two, changed in place."""
    graph = model.graph
    (loop,) = (node for node in graph.node if node.op_type == "Loop")
    body = loop.attribute[0].g
    (drawn,) = (number for number, node in enumerate(body.node) if INDEX in node.output)
    body.node[drawn].output[0] = "told.drawn"
    body.node.insert(drawn + 1, make_node("Gather", [TOLD, STEP], [INDEX], name="told.index"))
    body.output.append(make_tensor_value_info(BODY_LOGITS, TensorProto.FLOAT, ["V"]))
    loop.output.append(LOGITS)
    graph.input.append(make_tensor_value_info(TOLD, TensorProto.INT64, ["J"]))
    graph.output.append(make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["n", "V"]))
    return model
