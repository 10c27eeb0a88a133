"""What lies on a step's path: the ops of a layer, counted; nothing moves a cache, nothing is computed twice."""

from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import pytest

from sottovoce.export.cache_scales import random_utterances
from sottovoce.export.decoder import GRAPH, DecoderOptions, export_decoder
from sottovoce.export.patch_graph import PatchOptions, export_patches
from sottovoce.export.variants import every_node
from sottovoce.runtime.manifest import CacheFormat, Flavour
from tests.models.patches import PROMPT, tiny_patches
from tests.models.shapes import CONFIGS, tiny_decoder

LLAMA = {"GroupQueryAttention": 1, "SkipSimplifiedLayerNormalization": 2, "QuickGelu": 1, "Mul": 1}
QWEN3 = {**LLAMA, "Reshape": 4, "SimplifiedLayerNormalization": 2}
GPT2 = {"GroupQueryAttention": 1, "SkipLayerNormalization": 2, "Gelu": 1}
"""Ops of a layer besides its products: a norm takes the residual sum along, QKV are one product but in Qwen3."""


def ops(folder: Path) -> Counter[str]:
    """Op types of the graph and how many nodes there are of each."""
    return Counter(node.op_type for node in onnx.load(folder / GRAPH, load_external_data=False).graph.node)


@pytest.mark.parametrize(
    ("name", "products", "rest"), [("qwen2_tied", 5, LLAMA), ("qwen3_head_dim", 7, QWEN3), ("gpt2_tied", 4, GPT2)]
)
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_layer_is_these_ops_and_no_others(tmp_path: Path, name: str, products: int, rest, weights) -> None:
    counts = []
    for layers in (2, 3):
        folder = tmp_path / str(layers)
        folder.mkdir()
        key = "n_layer" if name.startswith("gpt2") else "num_hidden_layers"
        options = DecoderOptions(weights, prefix=6, window=4, max_position=64)
        export_decoder(tiny_decoder(name, **{key: layers}), options, folder)
        counts.append(ops(folder))
    assert counts[1] - counts[0] == Counter({"MatMulNBits": products, **rest})


@pytest.mark.parametrize("cache", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", CONFIGS)
def test_attention_multiplies_by_one(tmp_path: Path, name: str, cache: CacheFormat) -> None:
    """For no other factor the engine reads keys as they lie; parity tells whether the queries were divided before."""
    heard = random_utterances(range(20), 6, 4)
    export_decoder(tiny_decoder(name), DecoderOptions("int8", 6, 4, 64, cache=cache, heard=heard), tmp_path)
    assert scales(tmp_path) == [1.0, 1.0]


def test_so_does_attention_of_patches_in_the_loop_too(tmp_path: Path) -> None:
    export_patches(tiny_patches(), PROMPT, PatchOptions("fp32", 16, 7, 9, 64), tmp_path)
    assert len(found := scales(tmp_path)) > 2 and set(found) == {1.0}


def scales(folder: Path) -> list[float]:
    """What each fused attention multiplies scores by, 0 for its default."""
    graph = onnx.load(folder / GRAPH, load_external_data=False).graph
    ops = [node for node in every_node(graph) if node.op_type == "GroupQueryAttention"]
    return [{a.name: a.f for a in node.attribute}.get("scale", 0.0) for node in ops]


HALF = {
    "qwen2_tied": {"Split": 1, "RotaryEmbedding": 2, "Cast": 4},
    "qwen3_head_dim": {"RotaryEmbedding": 2, "Cast": 4},
    "gpt2_tied": {"Cast": 2},
}
"""Ops more over an fp16 cache: rotation before the attention, in float32, and casts of what goes in and comes out."""


@pytest.mark.parametrize("name", HALF)
def test_over_a_half_cache_a_layer_has_these_besides(tmp_path: Path, name: str) -> None:
    counts = []
    for cache, layers in (("fp32", 2), ("fp16", 2), ("fp32", 3), ("fp16", 3)):
        folder = tmp_path / f"{cache}{layers}"
        folder.mkdir()
        key = "n_layer" if name.startswith("gpt2") else "num_hidden_layers"
        options = DecoderOptions("int8", prefix=6, window=4, max_position=64, cache=cache)  # type: ignore[arg-type]
        export_decoder(tiny_decoder(name, **{key: layers}), options, folder)
        counts.append(ops(folder))
    assert (counts[3] - counts[1]) - (counts[2] - counts[0]) == Counter(HALF[name])
    graph = onnx.load(folder / GRAPH, load_external_data=False).graph
    read = {value for node in graph.node for value in node.input}
    assert {tensor.name for tensor in graph.initializer} <= read


def test_outside_the_layers_no_cache_is_touched(tmp_path: Path) -> None:
    export_decoder(tiny_decoder("llama3_rope"), DecoderOptions("int8", 6, 4, 64), tmp_path)
    graph = onnx.load(tmp_path / GRAPH, load_external_data=False).graph
    caches = {value.name for value in graph.input if value.name.startswith("past")}
    readers = {node.op_type for node in graph.node if caches & set(node.input)}
    assert readers == {"GroupQueryAttention"}
    assert not {"Transpose", "Cast"} & set(ops(tmp_path))


@pytest.mark.parametrize("name", ["qwen2_tied", "qwen3_head_dim", "gpt2_tied"])
@pytest.mark.parametrize("cache", ["fp32", "fp16", "int8"])
def test_the_engine_puts_nothing_between_a_cache_and_its_attention(
    tmp_path: Path, cache: CacheFormat, name: str
) -> None:
    """Where it has no kernel for a cache's type, it casts all slots of it at every step."""
    heard = random_utterances(range(20), 6, 4)
    export_decoder(tiny_decoder(name), DecoderOptions("int8", 6, 4, 64, cache=cache, heard=heard), tmp_path)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(tmp_path / GRAPH, options, providers=["CPUExecutionProvider"])
    graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
    for values, side in ((graph.input, "input"), (graph.output, "output")):
        caches = {value.name for value in values if value.name.startswith(("past", "present"))}
        assert caches
        assert {node.op_type for node in graph.node if caches & set(getattr(node, side))} == {"GroupQueryAttention"}


@pytest.mark.parametrize("flavour", ["ort", "portable"])
def test_rotary_rows_end_with_the_longest_utterance(tmp_path: Path, flavour: Flavour) -> None:
    decoder = tiny_decoder("llama3_rope")
    assert decoder.config.max_position > 37
    export_decoder(decoder, DecoderOptions("int8", 6, 4, max_position=37, flavour=flavour), tmp_path)
    for path in tmp_path.glob("*.onnx"):
        tables = [t for t in onnx.load(path, load_external_data=False).graph.initializer if t.name.startswith("rotary")]
        assert len(tables) == 2
        assert {t.dims[0] for t in tables} == {37}
