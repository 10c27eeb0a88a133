"""Teacher-forced figures against single steps through the ring, token by token."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState

from sottovoce.compress.evaluate.nll import held_out, likelihood
from sottovoce.errors import VoiceError
from sottovoce.models.patch.stream import PatchStream
from sottovoce.models.ring import RingDecoder
from sottovoce.models.voice import Voice
from tests import tiny


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Three utterances of codes, and one that is too long."""
    folder, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    with (folder / "manifest.jsonl").open("w") as file:
        for i, length in enumerate((20, 31, 25, 95)):
            np.save(folder / f"{i}.npy", rng.integers(0, tiny.CODES, length))
            file.write(json.dumps({"codes": f"{i}.npy", "text": "good day " * (i + 1)}) + "\n")
    return folder


@pytest.fixture(scope="module")
def voices(tmp_path_factory) -> dict[int | None, Voice]:
    """The same weights, with full attention and with a window."""
    folder = tmp_path_factory.mktemp("voices")
    return {w: Voice.open(tiny.save_voice(folder / f"w{w}", window=w)) for w in (None, 8)}


def stepwise(voice: Voice, batch, row: int) -> np.ndarray:
    """Log probabilities [N, V'] of what can be said at every target of a row, one token at a time."""
    spec, decoder = voice.complete(), voice.checkpoint.load()
    ring = RingDecoder(decoder, int(batch.prefix[row]), spec.window or 91)
    ids, prefix = batch.ids[row, : int(batch.lengths[row])], int(batch.prefix[row])
    logits = [ring.prefill(ids[None, :prefix])[0, -1]] + [ring.step(int(i))[0, -1] for i in ids[prefix:]]
    return torch.stack(logits)[:, : tiny.CODES + 1].log_softmax(-1).double().numpy()


def test_every_token_counts_once(voices, corpus, tmp_path):
    windowed, full, state = voices[8], voices[None], PartialState(cpu=True)
    batches = held_out(windowed, corpus, tmp_path / "tokens", state)
    found = likelihood(windowed, full, batches, state)
    nll = kl = 0.0
    for step in range(batches.steps_per_epoch):
        batch = batches.batch(step)
        for row in range(len(batch.ids)):
            q, p = stepwise(windowed, batch, row), stepwise(full, batch, row)
            targets = batch.targets[row][batch.targets[row] >= 0].numpy()
            nll -= q[np.arange(len(targets)), targets].sum()
            kl += (np.exp(p) * (p - q)).sum()
    assert (found.tokens, found.utterances, found.left_out) == (20 + 31 + 25 + 3, 3, 1)
    assert found.nll == pytest.approx(nll / found.tokens, rel=1e-4)
    assert found.kl == pytest.approx(kl / found.tokens, rel=1e-3) and found.kl > 0.01
    assert likelihood(windowed, windowed, batches, state).kl == pytest.approx(0, abs=1e-6)
    alone = likelihood(windowed, None, batches, state)
    assert (alone.nll, alone.kl) == (found.nll, None) and math.isfinite(alone.nll)


def test_patches_are_heard_token_by_token(voices, corpus: Path, tmp_path: Path) -> None:
    """Each target given the true tokens before it: the reference, told after each token what was said."""
    voice = Voice.open(tiny.save_patch_voice(tmp_path / "patches", window=3))
    state, patches = PartialState(cpu=True), voice.patches().load()
    batches = held_out(voice, corpus, tmp_path / "tokens", state)
    found, nll = likelihood(voice, voices[None], batches, state), 0.0
    for step in range(batches.steps_per_epoch):
        batch = batches.batch(step)
        for row in range(len(batch.ids)):
            targets = iter(batch.targets[row][batch.targets[row] >= 0].tolist())
            stream, count = PatchStream(patches, 130, 3), int(batch.prefix[row])
            stream.prefill(batch.ids[row, :count].tolist())
            costs = list[float]()

            def told(logits: np.ndarray, targets=targets, costs=costs) -> int | None:
                token = next(targets)
                costs.append(-float(torch.from_numpy(logits).log_softmax(-1)[token]))
                return None if token == tiny.STOP else token

            while not stream.ended:
                stream.patch(told)
            nll += sum(costs)
    assert (found.tokens, found.utterances) == (20 + 31 + 25 + 3, 3)
    assert found.nll == pytest.approx(nll / found.tokens, rel=1e-4) and found.kl and found.kl > 0.01


def test_a_teacher_of_other_tokens_is_refused(voices, corpus: Path, tmp_path: Path) -> None:
    other = tiny.voice_section()["prompt"] | {"stop": [tiny.STOP, tiny.MARKS[0]]}
    stranger = Voice.open(tiny.save_voice(tmp_path / "stranger", prompt=other))
    state = PartialState(cpu=True)
    batches = held_out(voices[None], corpus, tmp_path / "tokens", state)
    with pytest.raises(VoiceError, match="another prompt layout"):
        likelihood(voices[None], stranger, batches, state)
