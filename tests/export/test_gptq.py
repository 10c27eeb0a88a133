"""Rounding for what is heard: less error in the product than rounding to the nearest, from the layers' own inputs."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sottovoce.errors import OptionError
from sottovoce.export.decoder import DecoderOptions, export_decoder
from sottovoce.export.gptq import Listener, gptq
from sottovoce.export.quantize import quantize
from sottovoce.export.weight_recipe import WeightRecipe
from sottovoce.export.written import load_written
from sottovoce.models.masks import wand_mask
from tests.export.test_quantize import dequantize
from tests.models.shapes import tiny_decoder

HEARD = tuple((tuple(range(3, 10 + at)), tuple(range(20, 60 + at))) for at in range(6))


@pytest.mark.parametrize(("bits", "block", "columns"), [(4, 32, 96), (4, 64, 96), (8, 32, 64)])
def test_the_product_suffers_less_than_from_the_nearest(bits: int, block: int, columns: int) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((40, columns)).astype(np.float32)
    weight[3] = 0
    inputs = random.standard_normal((500, 12)) @ random.standard_normal((12, columns))
    inputs += 0.3 * random.standard_normal(inputs.shape)
    errors = []
    for packed, scales in (quantize(weight, block, bits), gptq(weight, inputs.T @ inputs, block, bits)):
        written = dequantize(packed, scales, columns, bits)
        assert not written[3].any()
        assert packed.shape == (40, -(-columns // block), block * bits // 8)
        errors.append(np.square(inputs @ (written - weight).T).mean())
    assert errors[1] < 0.2 * errors[0]  # 0.4 and 0.5 where blocks do not hear of each other


def test_inputs_that_were_never_seen_do_no_harm() -> None:
    weight = np.random.default_rng(0).standard_normal((8, 32)).astype(np.float32)
    found, nearest = (
        np.square(dequantize(*made, 32, 4) - weight).mean()
        for made in (gptq(weight, np.zeros((32, 32)), 32, 4), quantize(weight, 32, 4))
    )
    assert found <= nearest


def test_the_listener_hears_every_layer_under_the_window() -> None:
    decoder = tiny_decoder("llama3_rope")
    seen: dict[str, Any] = {}
    name = "model.layers.1.mlp.down_proj"
    decoder.get_submodule(name).register_forward_hook(lambda _, x, __: seen.setdefault("x", []).append(x[0][0]))
    listener = Listener(decoder, HEARD, window=5)
    heard = listener.moments(name)
    seen.clear()
    for prefix, tokens in HEARD:
        ids = torch.tensor([[*prefix, *tokens]])
        decoder(ids, mask=wand_mask(ids.shape[1], len(prefix), 5))
    x = torch.cat(seen["x"]).double()
    np.testing.assert_allclose(heard, (x.T @ x).numpy(), rtol=1e-4, atol=1e-6)


def test_a_calibrated_graph_is_nearer_to_the_decoder(tmp_path: Path) -> None:
    decoder, distances = tiny_decoder("qwen2_tied"), []
    for calibrate in (False, True):
        folder = tmp_path / str(calibrate)
        folder.mkdir()
        recipe = WeightRecipe("int4", 64, calibrate=calibrate)
        speech = HEARD if calibrate else ()
        parts = export_decoder(decoder, DecoderOptions(recipe, 20, 60, 100, speech=speech), folder)
        assert parts.weights.rounding == ("gptq" if calibrate else "nearest")
        load_written(written := deepcopy(decoder), folder / "decoder.onnx", range(97))
        ids = torch.tensor([[*HEARD[0][0], *HEARD[0][1]]])
        distances.append(float((written(ids) - decoder(ids)).detach().square().mean()))
    assert distances[1] < 0.7 * distances[0]
    with pytest.raises(OptionError, match="--calibrate listens"):
        export_decoder(decoder, DecoderOptions(recipe, 20, 60, 100), tmp_path)
