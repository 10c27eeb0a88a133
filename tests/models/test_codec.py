"""The codec: digits and codes, streaming against whole, and what its folder may hold."""

from pathlib import Path

import pytest
import torch

from sottovoce.errors import VoiceError
from sottovoce.models.codec import Codec
from sottovoce.models.fsq import FSQ
from sottovoce.models.spectrum import dft_basis, inverse_basis, mel_filters
from tests import tiny


@pytest.mark.parametrize("levels", [(4, 4, 3), (8, 8, 5, 5, 4), (2, 3)])
def test_codes_and_values_are_one_to_one(levels: tuple[int, ...]) -> None:
    quantizer = FSQ(levels)
    codes = torch.arange(quantizer.size)
    values = quantizer.values(codes)
    assert len(values.unique(dim=0)) == quantizer.size
    assert values.abs().max() <= 1
    assert torch.equal((quantizer.digits(codes) * quantizer.basis).sum(-1), codes)


@pytest.mark.parametrize("levels", [(4, 4, 3), (8, 8, 5, 5, 4)])
def test_forward_gives_the_values_of_its_codes(levels: tuple[int, ...]) -> None:
    quantizer = FSQ(levels)
    x = 3 * torch.randn(500, len(levels), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(quantizer(x), quantizer.values(quantizer.codes(x)), atol=1e-6)


@pytest.mark.parametrize("levels", [(4, 4, 3), (8, 8, 5, 5, 4)])
def test_every_level_is_reached(levels: tuple[int, ...]) -> None:
    quantizer = FSQ(levels)
    sweep = torch.linspace(-8, 8, 2000)[:, None].expand(-1, len(levels))
    digits = quantizer.digits(quantizer.codes(sweep))
    assert [len(column.unique()) for column in digits.T] == list(levels)


def test_quantization_passes_gradients() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    FSQ((4, 4, 3))(x).sum().backward()
    assert x.grad is not None
    assert (x.grad > 0).all()


def test_overlap_add_inverts_the_transform() -> None:
    size, hop = 64, 16
    audio = torch.randn(400, generator=torch.Generator().manual_seed(0))
    windows = audio.unfold(0, size, hop) @ dft_basis(size).T @ inverse_basis(size, hop)
    back = torch.zeros(400)
    for i, window in enumerate(windows):
        back[i * hop : i * hop + size] += window
    assert torch.allclose(back[size:300], audio[size:300], atol=1e-5)


def test_mel_filters_cover_every_inner_bin() -> None:
    filters = mel_filters(321, 40, 16000)
    assert filters.shape == (40, 321)
    assert (filters.sum(0)[5:-5] > 0).all()


@pytest.mark.parametrize("cuts", [(1, 2, 3), (5,), tuple(range(1, 12))])
def test_streamed_equals_whole(cuts: tuple[int, ...]) -> None:
    codec = tiny.tiny_codec()
    codes = torch.randint(tiny.CODES, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole, _ = codec.decode(codes, codec.init_states(2))
        states, pieces = codec.init_states(2), []
        for piece in torch.tensor_split(codes, cuts, 1):
            audio, states = codec.decode(piece, states)
            pieces.append(audio)
    assert torch.allclose(torch.cat(pieces, 1), whole, atol=1e-5)


def test_decoder_does_not_see_the_future() -> None:
    codec = tiny.tiny_codec()
    codes = torch.randint(tiny.CODES, (1, 12), generator=torch.Generator().manual_seed(1))
    other = codes.clone()
    other[:, 7:] = (other[:, 7:] + 1) % tiny.CODES
    with torch.no_grad():
        a, _ = codec.decode(codes, codec.init_states(1))
        b, _ = codec.decode(other, codec.init_states(1))
    cut = 7 * codec.config.hop
    assert torch.equal(a[:, :cut], b[:, :cut])
    assert not torch.allclose(a[:, cut:], b[:, cut:])


def test_resynthesis_is_as_long_as_the_codes() -> None:
    codec = tiny.tiny_codec()
    codes = codec.encode(torch.zeros(1, 9 * codec.config.hop))
    assert codes.shape == (1, 9)
    assert codec.resynthesise(codes).shape == (1, 9 * codec.config.hop)


def test_folder_round_trip(tmp_path: Path) -> None:
    codec = tiny.tiny_codec()
    codec.save(tmp_path, torch.float32)
    again = Codec.load(tmp_path)
    assert again.config == codec.config
    audio = torch.randn(1, 20 * codec.config.hop, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.encode(audio), codec.encode(audio))


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors"])
def test_damaged_folder_is_named(tmp_path: Path, damage: str) -> None:
    tiny.tiny_codec().save(tmp_path)
    (tmp_path / damage).write_bytes(b"{}")
    with pytest.raises(VoiceError, match=str(tmp_path)):
        Codec.load(tmp_path)
