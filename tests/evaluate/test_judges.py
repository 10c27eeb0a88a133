"""Judges hear the same whatever they heard before, and a Whisper comes from a local folder or not at all."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

from sottovoce.compress.evaluate.judges import JUDGES, Pocketsphinx, Whisper, open_judge, words_of
from sottovoce.compress.evaluate.reference import Flite
from sottovoce.errors import OptionError

needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed (apt-get install flite)")


@needs_flite
def test_pocketsphinx_hears_the_same_in_any_order():
    flite, judge = Flite(), Pocketsphinx()
    first, other = flite.render("Turn left after the bridge.", "rms"), flite.render("It will rain.", "slt")
    alone = judge.hear(first)
    means = judge._decoder.get_cmn()
    judge.hear(0.2 * other)
    assert judge.hear(first) == alone == "turn left after the bridge"
    assert judge._decoder.get_cmn() == means  # the very same features, not only the same words


def test_written_text_is_compared_as_it_is_said() -> None:
    assert words_of("At 5:30, turn Left!") == "at five thirty turn left"
    assert words_of(" ... ") == words_of("") == ""


@pytest.fixture(scope="module")
def whisper(tmp_path_factory) -> Path:
    """A Whisper with random weights and a tokenizer of bytes."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import (
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    folder = tmp_path_factory.mktemp("whisper")
    vocabulary = {symbol: i for i, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = WhisperTokenizer(vocabulary | {"<|endoftext|>": 256}, [])
    WhisperProcessor(WhisperFeatureExtractor(feature_size=8), tokenizer).save_pretrained(folder)
    ends = {"bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 256, "decoder_start_token_id": 256}
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_mel_bins": 8, "vocab_size": 257}
    config = WhisperConfig(**sizes, **heads, **ends, max_target_positions=12, begin_suppress_tokens=None)
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    return folder


def test_whisper_from_a_local_folder(whisper: Path) -> None:
    judge = open_judge("whisper", whisper)
    audio = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    assert judge.hear(audio) == judge.hear(audio)
    assert judge.identity.startswith("whisper ") and judge.identity == Whisper(whisper).identity


def test_whisper_refuses_what_it_would_cut(whisper: Path) -> None:
    with pytest.raises(OptionError, match=r"30\.0 s, and --judge whisper hears 30 s at most"):
        open_judge("whisper", whisper).hear(np.full(30 * 16000, 0.1, np.float32))


def test_a_judge_without_its_weights_is_refused(tmp_path: Path) -> None:
    for name in JUDGES[1:]:
        with pytest.raises(OptionError, match=f"--judge {name} needs --judge-weights"):
            open_judge(name, None)
    with pytest.raises(OptionError, match="pocketsphinx has its own"):
        open_judge("pocketsphinx", tmp_path)
    with pytest.raises(OptionError, match="holds no Whisper"):
        open_judge("whisper", tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("faster_whisper") is not None, reason="faster-whisper is installed")
def test_faster_whisper_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="pip install faster-whisper"):
        open_judge("faster-whisper", tmp_path)
