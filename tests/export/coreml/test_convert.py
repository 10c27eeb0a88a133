"""Packages of a tiny decoder, written, read back and interpreted: formats, shared weights, states, and miscompiles."""

import filecmp
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sottovoce.errors import OptionError
from sottovoce.export.coreml import convert
from sottovoce.export.coreml.convert import Compression, Traceable, write_package
from sottovoce.export.coreml.decoder import PACKAGE, decoder_functions, write_decoder, write_tables
from sottovoce.export.coreml.drive import CoreDriver
from sottovoce.export.coreml.layout import DECODE, Layout
from sottovoce.export.coreml.modules import SlotAttention
from sottovoce.export.coreml.verify import CoreReport, check_decoder, report
from sottovoce.export.coreml.written import load_written
from sottovoce.export.mil.apple import coremltools as ct
from sottovoce.export.mil.command import stored
from sottovoce.export.mil.lint import lint
from sottovoce.export.mil.package import load_package
from sottovoce.export.parity import Case
from sottovoce.models.decoder import Decoder
from tests.export.coreml.voices import random_decoder

PREFIX, WINDOW, IDS = 24, 8, [*range(48), 50]
SLOTS = PREFIX + WINDOW


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    """One layer, two heads on one KV head."""
    return random_decoder("qwen2", num_hidden_layers=1)


@pytest.fixture(scope="module")
def converted() -> Iterator[dict[tuple[str, ...], Any]]:
    """Programs by what they take: converting takes seconds, compressing does not."""
    programs: dict[tuple[str, ...], Any] = {}
    plain = convert.convert

    def once(traceable: Traceable) -> Any:
        key = (*traceable.inputs, "/", *traceable.outputs, "/", *traceable.states)
        if key not in programs:
            programs[key] = plain(traceable)
        return programs[key]

    convert.convert = once
    yield programs
    convert.convert = plain


def layout(decoder: Decoder, stateful: bool = False) -> Layout:
    return Layout(decoder.config, SLOTS, len(IDS), 32, stateful)


def judged(decoder: Decoder, folder: Path, compression: str, stateful: bool = False) -> CoreReport:
    """What verification says of the package in `folder`."""
    head = decoder.head[torch.tensor(IDS)].detach()
    written = load_written(load_package(folder / PACKAGE), decoder, head)
    random = np.random.default_rng(0)
    cases = [
        Case(f"prefix {count}", tuple(random.choice(IDS, count)), tuple(random.choice(IDS, steps)))
        for count, steps in ((PREFIX, 3 * WINDOW + 3), (5, 3))
    ]
    driver = CoreDriver(folder, layout(decoder, stateful), PREFIX, WINDOW)
    return report(check_decoder(driver, decoder, head, written, cases, IDS), written, compression, WINDOW, False)


def size(folder: Path) -> int:
    """Bytes of weights in the package."""
    return (folder / PACKAGE / "Data" / convert.WEIGHTS / "weight.bin").stat().st_size


@pytest.fixture(scope="module")
def fp16(decoder: Decoder, converted: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The decoder's package in half precision."""
    folder = tmp_path_factory.mktemp("fp16")
    write_decoder(decoder, layout(decoder), IDS, 64, "fp16", folder)
    return folder


def test_half_precision_says_what_torch_says(decoder: Decoder, fp16: Path) -> None:
    found = judged(decoder, fp16, "fp16")
    assert found.failures == ()
    assert found.wraps > 3
    assert found.logit_error < 0.01
    assert lint(load_package(fp16 / PACKAGE)) == []


def test_functions_share_one_copy_of_the_weights(decoder: Decoder, fp16: Path, converted: Any) -> None:
    package = load_package(fp16 / PACKAGE)
    assert (list(package.functions), package.default) == (["decode", "prefill"], "decode")
    parameters = [p for n, p in decoder.model.layers.named_parameters()] + [decoder.head[torch.tensor(IDS)]]
    expected = 2 * sum(p.numel() for p in parameters)
    unique = sum(item.nbytes for item in set(stored(package)))
    assert unique <= 1.01 * expected
    assert size(fp16) < 1.05 * expected + 64 * 100  # each blob has a header, and begins on a line of its own


@pytest.mark.parametrize(("compression", "smaller"), [("int8", 0.62), ("int4", 0.45), ("palette4", 0.45)])
def test_compressed_weights(
    compression: Compression, smaller: float, decoder: Decoder, fp16: Path, converted: Any, tmp_path: Path
) -> None:
    write_decoder(decoder, layout(decoder), IDS, 64, compression, tmp_path)
    found = judged(decoder, tmp_path, compression)
    assert found.failures == ()
    assert found.logit_error < 0.01  # on the weights as written, whatever their format
    assert found.voice_error > 2 * found.logit_error  # which is not the same as against the voice
    assert size(tmp_path) < smaller * size(fp16)
    assert all(finding.level == "note" for finding in lint(load_package(tmp_path / PACKAGE)))


def test_a_wrong_matrix_is_seen(decoder: Decoder, fp16: Path) -> None:
    other = random_decoder("qwen2", num_hidden_layers=1)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight[3] += 0.3
    assert any("written weight" in line for line in judged(other, fp16, "fp16").failures)


def test_blocks_must_divide(decoder: Decoder) -> None:
    odd = random_decoder("qwen2", num_hidden_layers=1, intermediate_size=72)
    with pytest.raises(OptionError, match="do not divide a width of 72"):
        decoder_functions(odd, layout(odd), IDS, "int4")


def test_two_writes_are_the_same_bytes(decoder: Decoder, fp16: Path, converted: Any, tmp_path: Path) -> None:
    write_decoder(decoder, layout(decoder), IDS, 64, "fp16", tmp_path)
    names = [p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()]
    assert len(names) == 5  # two tables; manifest, model and weights of the package
    assert all(filecmp.cmp(tmp_path / name, fp16 / name, shallow=False) for name in names)


def test_states(decoder: Decoder, converted: Any, tmp_path: Path) -> None:
    write_decoder(decoder, layout(decoder, True), IDS, 64, "fp16", tmp_path)
    package = load_package(tmp_path / PACKAGE)
    assert all(len(function.states) == 2 for function in package.functions.values())
    found = judged(decoder, tmp_path, "fp16", stateful=True)
    assert found.failures == ()
    assert found.logit_error < 0.01


class IndexPut(SlotAttention):
    """One token's attention that writes its cache by index, in shapes that are constants."""

    def forward(self, x: Tensor, rotary: Any, bias: Tensor, write: Tensor, keep: Tensor, cache: Any) -> Any:
        heads, kv, width = self.heads, self.kv_heads, self.head_dim
        cos, sin = rotary
        slot = write.reshape(SLOTS).argmax().reshape(1)

        def turned(x: Tensor) -> Tensor:
            first, second = x[:, :, : width // 2], x[:, :, width // 2 :]
            return torch.cat((first * cos - second * sin, second * cos + first * sin), 2)

        q = turned(self.q(x).reshape(1, heads, width, 1)) * width**-0.5
        new = (turned(self.k(x).reshape(1, kv, width, 1)), self.v(x).reshape(1, kv, width, 1))
        written = []
        for old, one in zip(cache, new, strict=True):
            buffer = old.clone()
            buffer[:, :, :, slot] = one
            written.append(buffer)
        keys, values = written
        shares = torch.softmax(torch.matmul(q.reshape(1, kv, self.group, width), keys) + bias, -1)
        mixed = torch.matmul(shares, values.transpose(2, 3))
        return self.o(mixed.reshape(1, heads * width, 1, 1)), (keys, values)


def traced(traceable: Traceable) -> Any:
    """The old way into Core ML, which drops a write by index without a word."""
    examples = tuple(torch.zeros(shape) for shape in traceable.inputs.values())
    return ct.convert(
        torch.jit.trace(traceable.module.eval(), examples, check_trace=False),
        inputs=[ct.TensorType(name=n, shape=s, dtype=np.float16) for n, s in traceable.inputs.items()],
        outputs=[ct.TensorType(name=name, dtype=np.float16) for name in traceable.outputs],
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT16,
        skip_model_load=True,
    )


def test_the_silent_miscompile_of_a_write_by_index_is_caught(
    decoder: Decoder, converted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    functions = decoder_functions(decoder, layout(decoder), IDS, "fp16")
    planted = functions[DECODE].module
    attention = planted.trunk.layers[0].attention
    attention.__class__ = IndexPut
    # In torch the planted write is right: only the conversion loses it.
    one = {name: torch.randn(shape) for name, shape in functions[DECODE].inputs.items()}
    one["cache_write"] = torch.zeros(1, 1, 1, SLOTS)
    one["cache_write"][..., 3] = 1
    sound = decoder_functions(decoder, layout(decoder), IDS, "fp16")[DECODE].module
    with torch.no_grad():
        for ours, theirs in zip(planted(*one.values()), sound(*one.values()), strict=True):
            torch.testing.assert_close(ours, theirs)
    usual = convert.convert
    monkeypatch.setattr(convert, "convert", lambda t: traced(t) if t.module is planted else usual(t))
    write_package(functions, "fp16", tmp_path / PACKAGE)
    write_tables(decoder, 64, tmp_path)
    failures = judged(decoder, tmp_path, "fp16").failures
    assert any("caches at the end differ" in line for line in failures)
    assert any("a written weight differs" in line for line in failures)  # nothing reads keys and values any more
