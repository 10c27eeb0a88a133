"""A tiny random voice exported for real, loaded and spoken: the runtime against torch, the commands as a user."""

import json
import shutil
import threading
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch

from sottovoce.__main__ import main
from sottovoce.models.checkpoint import Checkpoint
from sottovoce.models.codec import Codec
from sottovoce.models.masks import wand_mask
from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.decode import Stream
from sottovoce.runtime.prompt import find_prompt
from sottovoce.runtime.speak import speak
from tests.runtime.fakes import GARBAGE
from tests.tiny import CODEC, CODES

TEXT = "Hello there."


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return load_bundle(tiny_bundle, threads=1)


def torch_logits(voice, ids, prefix, window, head):
    """Logits [T, V'] of all positions under the WAND mask, in one go."""
    decoder = Checkpoint.open(voice).load()
    with torch.no_grad():
        hidden = decoder(torch.tensor([ids]), mask=wand_mask(len(ids), prefix, window))
        return decoder.logits(hidden, torch.from_numpy(head.copy()))[0].numpy()


@pytest.mark.parametrize(("chunk", "reach"), [(1000, 3), (1, 64), (7, 1)])
@pytest.mark.parametrize("unused", [0, 59, None], ids=["prefix full", "prefix in part", "prefix of one"])
def test_the_loop_says_what_torch_says(tiny_voice, bundle, unused, chunk, reach, monkeypatch):
    """Teacher-forced over more than four ring wraps, with garbage in every slot that was never written."""
    monkeypatch.setattr("sottovoce.runtime.cache.REACH", reach)
    group = bundle.manifest.cache.groups[0]
    prefix = 1 if unused is None else group.prefix - unused
    ids = np.random.default_rng(prefix).integers(0, CODES, prefix + 5 * group.window).tolist()
    wanted = torch_logits(tiny_voice, ids, prefix, group.window, bundle.token_ids)
    stream = Stream(bundle, chunk)
    for buffers in stream.cache.arrays:
        buffers[:] = GARBAGE
    said = [stream.prefill(ids[:prefix]).copy()]
    said += [stream.step(token).copy() for token in ids[prefix:]]
    assert np.abs(np.array(said) - wanted[prefix - 1 :]).max() / wanted.std() < 1e-4


def test_steps_allocate_nothing_that_grows_with_the_cache(bundle):
    stream = Stream(bundle)
    stream.prefill(list(range(30)))
    for token in range(30):
        stream.step(token)
    tracemalloc.start()
    for token in range(30):
        stream.step(token)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < stream.cache.buffers[0].nbytes


def test_the_audio_is_what_the_torch_codec_makes_of_the_codes(tiny_voice, bundle):
    speech = speak(bundle, TEXT, find_prompt(bundle, "ada"), seed=3)
    audio = speech.whole()
    (sentence,) = speech.stats().sentences
    codec = Codec.load(tiny_voice / "codec")
    codes = torch.tensor([[*sentence.codes, *[0] * codec.config.flush_codes]])
    with torch.no_grad():
        wanted, _ = codec.decode(codes, codec.init_states(1))
    wanted = wanted[0, CODEC.delay :][: len(sentence.codes) * CODEC.hop].numpy()
    assert len(audio) == len(wanted) > 0
    assert np.abs(audio - wanted).max() < 1e-4


def test_threads_share_a_bundle(bundle):
    """Two speakers at once say what each says alone."""

    def said(name, results):
        results[name] = speak(bundle, TEXT, find_prompt(bundle, name), seed=5).whole()

    alone, together = {}, {}
    for name in ("ada", "bob"):
        said(name, alone)
    workers = [threading.Thread(target=said, args=(name, together)) for name in ("ada", "bob")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for name, audio in alone.items():
        np.testing.assert_array_equal(together[name], audio)
    assert not np.array_equal(alone["ada"], alone["bob"])


def test_say_and_prompt_save(tiny_bundle, tmp_path, capsys, monkeypatch):
    """A clip at another sample rate becomes a speaker; the same seed says the same, byte for byte."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_bundle, "b")
    t = np.arange(22050) / 44100
    soundfile.write("ref.wav", np.stack([0.4 * np.sin(1500 * t)] * 2, axis=1), 44100)
    with pytest.raises(SystemExit):
        main(["prompt", "save", "b", "ref.wav"])
    assert main(["prompt", "save", "b", "ref.wav", "eve", "--prompt-text", "eve speaks"]) == 2
    capsys.readouterr()
    soundfile.write("ref.wav", np.stack([0.4 * np.sin(1500 * t)] * 2, axis=1)[:15000], 44100)
    assert main(["prompt", "save", "b", "ref.wav", "eve", "--prompt-text", "eve speaks"]) == 0
    for name in ("one.wav", "two.wav"):
        assert main(["say", "b", TEXT, "--prompt", "eve", "--seed", "3", "-o", name]) == 0
    assert (tmp_path / "one.wav").read_bytes() == (tmp_path / "two.wav").read_bytes()
    capsys.readouterr()
    assert main(["say", "b", TEXT, "--prompt", "ref.wav", "--prompt-text", "eve speaks", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sentences"][0]["read"] == "hello there."


def test_ids_the_graph_does_not_have_are_one_line(tiny_bundle, tmp_path, capfd):
    """The line of this package alone: ONNX Runtime's own log stays silent."""
    broken = shutil.copytree(tiny_bundle, tmp_path / "b")
    manifest = json.loads((broken / "manifest.json").read_text())
    manifest["prompt"]["layout"][0] = 9999
    (broken / "manifest.json").write_text(json.dumps(manifest))
    assert main(["say", str(broken), TEXT, "-o", str(tmp_path / "out.wav")]) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"sottovoce: {broken / 'decoder.onnx'} and the ids")
    assert said.count("\n") == 1


def test_a_damaged_bundle_is_named(tiny_bundle, tmp_path, capsys):
    broken = tmp_path / "b"
    shutil.copytree(tiny_bundle, broken)
    data = broken / "decoder.onnx.data"
    data.write_bytes(data.read_bytes()[:-4])
    assert main(["say", str(broken), TEXT, "-o", str(tmp_path / "out.wav")]) == 2
    assert "decoder.onnx.data is truncated" in capsys.readouterr().err
    assert not (tmp_path / "out.wav").exists()
