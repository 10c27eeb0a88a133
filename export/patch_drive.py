"""A driver of a patch voice's `decoder.onnx`, for parity checks: `runtime/patch_contract.py` as its words go.

One `session.run` for each patch; the first one reads the prefix as well. The runtime's loop is not used here on
purpose: a mistake in reading the contract must not be made twice.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from sottovoce.export.decoder import DecoderParts
from sottovoce.export.drive import GARBAGE, HIDDEN
from sottovoce.export.head import ids_of
from sottovoce.export.patch_told import LOGITS, TOLD
from sottovoce.runtime.manifest import CacheGroup, SamplingSpec
from sottovoce.runtime.philox import uniforms
from sottovoce.runtime.session import untiled

Feed = dict[str, np.ndarray]

NEVER = 1 << 62
"""A limit that nothing reaches."""


def sampling_feed(spec: SamplingSpec, logits: int, drawn: int, seed: int, min_tokens: int, tokens: int) -> Feed:
    """`SAMPLING_INPUTS` but the history, for the next `tokens` after `drawn` ones; V' = `logits`, without a bias."""
    greedy = spec.temperature == 0
    top_k = 1 if greedy else min(spec.top_k or logits, logits)
    redraws = spec.ras_window > 0 and not greedy
    pairs = [uniforms(seed, drawn + token) for token in range(tokens)]
    return {
        "temperature": np.array(1 if greedy else spec.temperature, np.float32),
        "top_k": np.array([top_k], np.int64),
        "top_p": np.array(1 if greedy else spec.top_p, np.float32),
        "logit_bias": np.zeros(logits, np.float32),
        "repetition_penalty": np.array(spec.repetition_penalty, np.float32),
        "repetition_window": np.array(spec.repetition_window, np.int64),
        "ras_window": np.array(spec.ras_window, np.int64),
        "ras_limit": np.array(math.ceil(spec.ras_window * spec.ras_tau) if redraws else NEVER, np.int64),
        "wait": np.array(max(0, min_tokens - drawn), np.int64),
        "uniforms": np.array(pairs, np.float32).reshape(tokens, 2),
    }


def empty_history(spec: SamplingSpec) -> np.ndarray:
    """Nothing drawn yet, [R] int64."""
    return np.full(max(spec.repetition_window, spec.ras_window), -1, np.int64)


class PatchDriver:
    """One utterance after the other over one set of buffers; past and present are the same memory."""

    def __init__(
        self,
        graph: Path,
        parts: DecoderParts,
        codes: range,
        threads: int = 1,
        garbage: float = GARBAGE,
        model: bytes | None = None,
    ) -> None:
        """Load `graph` (or `model`, a variant over the same weights); `codes` are token ids, slots hold noise."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(graph.parent))
        with untiled():  # as the runtime here does
            self._session = onnxruntime.InferenceSession(model or graph, options, providers=["CPUExecutionProvider"])
        assert parts.patch is not None
        self._spec, self._codes, self._ids = parts.patch, codes, ids_of(parts.head.ids)
        self.patch = parts.patch.size
        self._backbone = parts.cache.groups[0]
        self._buffers = [_buffers(group, garbage) for group in parts.cache.fed]
        self._tells = TOLD in {node.name for node in self._session.get_inputs()}
        self._told: list[int] = []
        self.runs = 0

    def begin(self, spec: SamplingSpec, seed: int, min_tokens: int = 0) -> None:
        """A new utterance: nothing is visible in any slot, whatever lies there."""
        self._sampling, self._seed, self._min_tokens, self._drawn = spec, seed, min_tokens, 0
        self._history = empty_history(spec)
        self._visible = np.zeros(self._backbone.slots, bool)
        self._position = self._generated = 0
        self._held = np.full((self._spec.window or 1) - 1, -1)
        self._heard = 0
        self._speaker = np.zeros((1, 1, self._spec.speaker), np.float32)
        self.tokens: list[int] = []
        """All that were drawn, a stop included."""
        self.logits: list[np.ndarray] = []
        """Of a graph that is told what to say: those that each of its tokens was told over, [V']."""

    def follow(self, prefix: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
        """Logits [len(tokens), V'] over which a graph that is told says `tokens` after `prefix`; a stop ends them."""
        self.begin(SamplingSpec(), 0)
        self._told = [self._ids.index(token) for token in tokens]
        self.prefill(prefix)
        for start in range(self.patch, len(tokens), self.patch):
            self.step(tokens[start - self.patch : start])
        return np.stack(self.logits[: len(tokens)])

    def speak(self, prefix: Sequence[int], patches: int) -> list[int]:
        """The tokens drawn after `prefix` once begun, a stop included, in at most so many `patches`."""
        said = self.prefill(prefix)
        for _ in range(patches - 1):
            if len(said) < self.patch:
                break
            said = self.step(said)
        return self.tokens

    def prefill(self, ids: Sequence[int]) -> list[int]:
        """Read the prefix with its clip → the tokens of the first patch, fewer than k at the end.

        Its first place has a run of its own, so that the others may stand at any position.
        """
        k = self.patch
        text = [token for token in ids if token not in self._codes] or [0]
        clip = [token for token in ids if token in self._codes]
        count = -(-len(clip) // k)
        rows = np.full((max(count, 1), k), -1, np.int64)
        rows.reshape(-1)[: len(clip)] = clip
        source, ends, texts, codes = [], list[int](), 0, 0
        for place, token in enumerate(ids):
            if token not in self._codes:
                source.append(texts)
                ends.append(place)
                texts += 1
            elif codes % k == 0:
                source.append(len(text) + codes // k)
                ends.append(min(place + k, place + len(clip) - codes) - 1)
            codes += token in self._codes
        share = np.full((1, 1, len(rows)), 1 / max(count, 1) if count else 0, np.float32)
        self._visible[: len(source)] = True
        self._position, clips = len(ids), self._clip_feed(rows.size)
        if len(source) > 1:
            one = np.zeros((1, 1, 1, 1), np.float32)
            self._run(text, rows, source[:1], ends[:1], 0 * share, one, clips, draws=0)
            source, ends = source[1:], ends[1:]
        bias = np.zeros((1, 1, len(source), sum(self._visible)), np.float32)
        return self._run(text, rows, source, ends, share, bias, clips)

    def step(self, said: Sequence[int]) -> list[int]:
        """Feed the k tokens of the last patch → those of the next."""
        group = self._backbone
        self._visible[-1] = True
        bias = np.where(self._visible, np.float32(0), HIDDEN)[None, None, None]
        share = np.zeros((1, 1, 1), np.float32)
        self._position += self.patch
        rows = np.array([said], np.int64)
        tokens = self._run([0], rows, [1], [self._position - 1], share, bias, self._said_feed())
        slot = group.prefix + self._generated % (group.window - 1)
        for buffer in self._buffers[0]:
            buffer[:, :, slot] = buffer[:, :, group.slots - 1]
        self._visible[slot] = True
        self._generated += 1
        self._keep_said()
        return tokens

    def _clip_feed(self, count: int) -> Feed:
        """What the compressor's attention is told of a clip of `count` tokens, padding included."""
        places = np.arange(count)
        return self._compressor_feed(places, count, places)

    def _said_feed(self) -> Feed:
        """What it is told of the next k tokens of what is said: `_held` are in the ring, these behind it."""
        places = self._heard + np.arange(self.patch)
        return self._compressor_feed(places, len(self._held) + len(places), np.append(self._held, places))

    def _compressor_feed(self, queries: np.ndarray, total: int, held: np.ndarray) -> Feed:
        """Of tokens at positions `queries`, over slots with the tokens `held`, -1 for none."""
        if self._spec.window is None:
            return {}
        ages = queries[:, None] - held
        bias = np.where((held >= 0) & (ages >= 0) & (ages < self._spec.window), np.float32(0), HIDDEN)
        return {
            "compressor.position_ids": queries[None].astype(np.int64),
            "compressor.seqlens_k": np.array([total - 1], np.int32),
            "compressor.total_sequence_length": np.array(total, np.int32),
            "compressor.attention_bias": np.ascontiguousarray(bias[None, None], np.float32),
        }

    def _keep_said(self) -> None:
        """Move what was said into the compressor's ring, token t to slot t mod (w − 1)."""
        ring = len(self._held)
        for token in range(self.patch if ring else 0):
            slot = (self._heard + token) % ring
            self._held[slot] = self._heard + token
            for buffer in [buffer for buffers in self._buffers[1:] for buffer in buffers]:
                buffer[:, :, slot] = buffer[:, :, ring + token]
        self._heard += self.patch

    def _run(
        self,
        text: list[int],
        rows: np.ndarray,
        source: list[int],
        positions: list[int],
        share: np.ndarray,
        bias: np.ndarray,
        more: Feed,
        draws: int | None = None,
    ) -> list[int]:
        """One pass → the tokens to be heard."""
        k, total = self.patch if draws is None else draws, bias.shape[-1]
        feed = {
            "input_ids": np.array([text], np.int64),
            "patch_ids": rows,
            "source": np.array(source, np.int64),
            "position_ids": np.array([positions], np.int64),
            "seqlens_k": np.array([total - 1], np.int32),
            "total_sequence_length": np.array(total, np.int32),
            "attention_bias": np.ascontiguousarray(bias, np.float32),
            "history": self._history,
            **sampling_feed(self._sampling, len(self._ids), self._drawn, self._seed, self._min_tokens, k),
            **more,
        }
        if self._spec.speaker:
            feed |= {"speaker": self._speaker, "speaker_share": share}
        if self._tells:
            told = self._told[self._drawn : self._drawn + k]
            feed[TOLD] = np.array(told + told[:1] * (k - len(told)), np.int64)
        made = self._bound(feed)
        tokens, self._history = made["token_ids"], made["next_history"]
        self._speaker = made.get("next_speaker", self._speaker)
        self.logits += list(made.get(LOGITS, ()))
        self.tokens += tokens.tolist()
        self._drawn += len(tokens)
        self.runs += 1
        heard: list[int] = tokens[: int(made["count"])].tolist()
        return heard

    def _bound(self, feed: Feed) -> Feed:
        """Outputs by name but the caches, which are bound to their own inputs."""
        binding = self._session.io_binding()
        for name, array in feed.items():
            binding.bind_cpu_input(name, array)
        names = [node.name for node in self._session.get_outputs() if not node.name.startswith("present.")]
        for name in names:
            binding.bind_output(name, "cpu")
        buffers = [buffer for group in self._buffers for buffer in group]
        for number, buffer in enumerate(buffers):
            value = onnxruntime.OrtValue.ortvalue_from_numpy(buffer)
            name = f"{number // 2}.{('key', 'value')[number % 2]}"
            binding.bind_ortvalue_input(f"past_key_values.{name}", value)
            binding.bind_ortvalue_output(f"present.{name}", value)
        self._session.run_with_iobinding(binding)
        values = binding.get_outputs()[: len(names)]
        return {name: value.numpy().copy() for name, value in zip(names, values, strict=True)}


def _buffers(group: CacheGroup, garbage: float) -> list[np.ndarray]:
    """Keys and values of a group's layers, full of noise."""
    random, shape = np.random.default_rng(0), (1, group.kv_heads, group.slots, group.head_dim)
    return [np.float32(garbage) * random.standard_normal(shape, np.float32) for _ in range(2 * group.layers)]
