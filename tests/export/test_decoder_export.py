"""What an export writes, plans and refuses."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch

from sottovoce.errors import OptionError, OutputError
from sottovoce.export.decoder import DecoderOptions, export_decoder, plan_decoder
from sottovoce.export.head import check_ranges, ids_of, ranges_of, speech_ranges
from sottovoce.export.weight_recipe import WeightRecipe
from sottovoce.models.checkpoint import Checkpoint
from sottovoce.models.decoder import Decoder
from sottovoce.runtime.manifest import PromptSpec, WeightFormat, WeightOverride
from tests.models.shapes import CONFIGS, tiny_decoder
from tests.models.test_checkpoint import write_folder

HEAD = ((3, 40), (50, 51), (60, 90))


def options(weights: WeightFormat = "fp32", **changes: Any) -> DecoderOptions:
    """P 12, W 9, a sliced head."""
    return replace(DecoderOptions(weights, prefix=12, window=9, max_position=100, head_ranges=HEAD), **changes)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("weights", ["fp32", "fp16", "int8", "int4"])
def test_plan_is_what_is_written(tmp_path: Path, name: str, weights: WeightFormat) -> None:
    decoder = tiny_decoder(name)
    parts = export_decoder(decoder, options(weights), tmp_path)
    assert plan_decoder(decoder, options(weights)) == parts
    assert {file.name: file.stat().st_size for file in tmp_path.iterdir()} == parts.sizes


@pytest.mark.parametrize("name", CONFIGS)
def test_session_reports_the_contract(tmp_path: Path, name: str) -> None:
    parts = export_decoder(tiny_decoder(name), options(), tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "decoder.onnx", providers=["CPUExecutionProvider"])
    for specs, nodes in ((parts.io.inputs, session.get_inputs()), (parts.io.outputs, session.get_outputs())):
        assert [(s.name, s.dtype, s.shape) for s in specs] == [(n.name, n.type, tuple(n.shape)) for n in nodes]
    group = parts.cache.groups[0]
    buffers = [spec for spec in parts.io.inputs if spec.name.startswith("past")]
    assert {spec.shape for spec in buffers} == {(1, group.kv_heads, 21, group.head_dim)}
    assert parts.cache.bytes == 4 * len(buffers) * group.kv_heads * 21 * group.head_dim
    model = onnx.load(tmp_path / "decoder.onnx", load_external_data=False)
    assert model.ir_version == 10
    assert max(opset.version for opset in model.opset_import) <= 21


def test_folder_and_memory_give_the_same_bytes(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_folder(tmp_path / "hf", "qwen3_head_dim", torch.float16, shards=2))
    hashes = []
    sources: list[Checkpoint | Decoder] = [checkpoint, checkpoint.load(), checkpoint]
    for index, source in enumerate(sources):
        folder = tmp_path / str(index)
        folder.mkdir()
        export_decoder(source, options("int8"), folder)
        hashes.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())])
    assert hashes[0] == hashes[1] == hashes[2]


@pytest.mark.parametrize("weights", ["fp32", "fp16", "int8", "int4"])
def test_tied_head_costs_no_bytes(weights: WeightFormat) -> None:
    sizes = [
        plan_decoder(tiny_decoder(name, tie_word_embeddings=tied), options(weights)).sizes["decoder.onnx.data"]
        for name, tied in (("qwen2_tied", True), ("qwen2_tied", False))
    ]
    assert sizes[1] - sizes[0] >= 68 * 64 * {"fp32": 4, "fp16": 2, "int8": 1, "int4": 1}[weights]


def test_every_weight_is_stored_once() -> None:
    decoder = tiny_decoder("llama_mha_biases")
    stored = plan_decoder(decoder, options(head_ranges=None)).sizes["decoder.onnx.data"]
    weights = sum(parameter.numel() for parameter in decoder.parameters())
    tables = 100 * decoder.config.head_dim
    assert 4 * (weights + tables) <= stored <= 4 * (weights + tables) + 64 * 40


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prefix": 0}, "--prefix 0"),
        ({"window": 1}, "--window 1"),
        ({"max_position": 20}, "20 positions.*lower --window or --prefix"),
        ({"cache": "int8"}, "--cache int8 takes its scales from what the voice says"),
        ({"weights": WeightRecipe("int8", head_block=128)}, "head_block 128 does not divide hidden_size 64: 64"),
        ({"weights": WeightRecipe(overrides=(WeightOverride("*.query", "fp32"),))}, r"no module is called \*.query"),
        (
            {"weights": WeightRecipe(overrides=(WeightOverride("*.v_proj", "int4"),))},
            "are one product, name them all or none",
        ),
        ({"head_ranges": ((90, 98),)}, "0..97"),
        ({"head_ranges": ((5, 9), (3, 4))}, "ascending"),
        ({"head_ranges": ()}, "ascending"),
    ],
)
def test_refuses(change: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        plan_decoder(tiny_decoder("qwen2_tied"), options(**change))


def test_refuses_head_dim_of_24() -> None:
    with pytest.raises(OptionError, match=r"head_dim 24 is not a multiple of 16.* use --flavour portable"):
        plan_decoder(tiny_decoder("qwen3_head_dim", head_dim=24), options())


def test_refuses_more_positions_than_were_learned() -> None:
    assert plan_decoder(tiny_decoder("gpt2_tied"), options(max_position=512)).max_position == 512
    with pytest.raises(OptionError, match=r"513 positions .* learned 512"):
        plan_decoder(tiny_decoder("gpt2_tied"), options(max_position=513))
    with pytest.raises(OptionError, match="head_dim 4 is not a multiple of 8"):
        plan_decoder(tiny_decoder("gpt2_tied", n_head=16), options())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("name", ["decoder.onnx", "decoder.onnx.data"])
def test_full_disk_is_an_output_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(OutputError, match=f"{name} cannot be written.*No space left"):
        export_decoder(tiny_decoder("qwen2_tied"), options(), tmp_path)


def test_speech_ranges_hold_codes_and_stop() -> None:
    prompt = PromptSpec(
        ("{text}",), code_offset=10, code_count=5, stop=(3, 15, 40), max_text_tokens=9, max_prompt_codes=9
    )
    assert speech_ranges(prompt) == ((3, 4), (10, 16), (40, 41))
    assert ids_of(speech_ranges(prompt)) == [3, 10, 11, 12, 13, 14, 15, 40]
    assert ranges_of([2, 1, 1, 0]) == ((0, 3),)
    assert check_ranges(None, 7) == ((0, 7),)
