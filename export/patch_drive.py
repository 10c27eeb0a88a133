"""A driver of a patch voice's `decoder.onnx`, for parity checks: the contract of `patch_graph.py` as its words go.

One `session.run` for each patch; the first one reads the prefix as well.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from sottovoce.export.drive import GARBAGE, HIDDEN
from sottovoce.models.patch.config import PatchConfig
from sottovoce.runtime.manifest import CacheGroup, CacheSpec, SamplingSpec
from sottovoce.runtime.philox import uniforms

Feed = dict[str, np.ndarray]

NEVER = 1 << 62
"""A limit that nothing reaches."""


def sampling_feed(spec: SamplingSpec, logits: int, drawn: int, seed: int, min_tokens: int, tokens: int) -> Feed:
    """Inputs of `SAMPLING_INPUTS` but the history, for the next `tokens` after `drawn` ones; V' = `logits`."""
    greedy = spec.temperature == 0
    top_k = 1 if greedy else min(spec.top_k or logits, logits)
    redraws = spec.ras_window > 0 and not greedy
    pairs = [uniforms(seed, drawn + token) for token in range(tokens)]
    return {
        "temperature": np.array(1 if greedy else spec.temperature, np.float32),
        "top_k": np.array([top_k], np.int64),
        "top_p": np.array(1 if greedy else spec.top_p, np.float32),
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
        self, graph: Path, cache: CacheSpec, config: PatchConfig, codes: range, logits: int, garbage: float = GARBAGE
    ) -> None:
        """Load `graph` with V' = `logits`; slots hold noise of scale `garbage`."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._cache, self._config, self._codes, self._logits = cache, config, codes, logits
        self.patch = config.patch
        shapes = {node.name: node.shape for node in self._session.get_inputs()}
        self._width = shapes["speaker"][-1] if config.speaker == "pooled" else 0
        self._buffers = [_buffers(group, garbage) for group in cache.groups]
        self.runs = 0

    def begin(self, spec: SamplingSpec, seed: int, min_tokens: int = 0) -> None:
        """A new utterance: nothing is visible in any slot, whatever lies there."""
        backbone = self._cache.groups[0]
        self._spec, self._seed, self._min_tokens, self._drawn = spec, seed, min_tokens, 0
        self._history = empty_history(spec)
        self._visible = np.zeros(backbone.slots, bool)
        self._position = self._generated = 0
        self._held = np.full(self._config.window - 1, -1)
        self._heard = 0
        if self._width:
            self._speaker = np.zeros((1, 1, self._width), np.float32)

    def prefill(self, ids: Sequence[int]) -> list[int]:
        """Read the prefix with its clip, in one run → the tokens of the first patch, fewer than k at the end."""
        k = self._config.patch
        text = [token for token in ids if token not in self._codes] or [0]
        clip = [token for token in ids if token in self._codes]
        count = -(-len(clip) // k)
        rows = np.full((max(count, 1), k), -1, np.int64)
        rows.reshape(-1)[: len(clip)] = clip
        source, texts, codes = [], 0, 0
        for token in ids:
            if token not in self._codes:
                source.append(texts)
                texts += 1
            else:
                source += [len(text) + codes // k] if codes % k == 0 else []
                codes += 1
        share = np.full((1, 1, len(rows)), 1 / max(count, 1) if count else 0, np.float32)
        bias = np.zeros((1, 1, len(source), len(source)), np.float32)
        self._visible[: len(source)] = True
        tokens = self._run(text, rows, source, share, bias, self._clip_feed(rows.size))
        self._position = len(source)
        return tokens

    def step(self, said: Sequence[int]) -> list[int]:
        """Feed the k tokens of the last patch → those of the next."""
        slots = self._cache.groups[0].slots
        self._visible[-1] = True
        bias = np.where(self._visible, np.float32(0), HIDDEN)[None, None, None]
        share = np.zeros((1, 1, 1), np.float32)
        tokens = self._run([0], np.array([said], np.int64), [1], share, bias, self._said_feed())
        slot = self._cache.groups[0].prefix + self._generated % (self._cache.groups[0].window - 1)
        for buffer in self._buffers[0]:
            buffer[:, :, slot] = buffer[:, :, slots - 1]
        self._visible[slot] = True
        self._generated += 1
        self._position += 1
        self._keep_said()
        return tokens

    def _clip_feed(self, count: int) -> Feed:
        """What the compressor's attention is told of a clip of `count` tokens, padding included."""
        places = np.arange(count)
        return self._compressor_feed(places, count, places)

    def _said_feed(self) -> Feed:
        """What it is told of the next k tokens of what is said: `_held` are in the ring, these behind it."""
        places = self._heard + np.arange(self._config.patch)
        return self._compressor_feed(places, len(self._held) + len(places), np.append(self._held, places))

    def _compressor_feed(self, queries: np.ndarray, total: int, held: np.ndarray) -> Feed:
        """Of tokens at positions `queries`, over slots with the tokens `held`, -1 for none."""
        if len(self._cache.groups) == 1:
            return {}
        ages = queries[:, None] - held
        bias = np.where((held >= 0) & (ages >= 0) & (ages < self._config.window), np.float32(0), HIDDEN)
        return {
            "compressor.position_ids": queries[None].astype(np.int64),
            "compressor.seqlens_k": np.array([total - 1], np.int32),
            "compressor.total_sequence_length": np.array(total, np.int32),
            "compressor.attention_bias": np.ascontiguousarray(bias[None, None], np.float32),
        }

    def _keep_said(self) -> None:
        """Move what was said into the compressor's ring, token t to slot t mod (w − 1)."""
        ring = len(self._held)
        for token in range(self._config.patch if ring else 0):
            slot = (self._heard + token) % ring
            self._held[slot] = self._heard + token
            for buffer in [buffer for buffers in self._buffers[1:] for buffer in buffers]:
                buffer[:, :, slot] = buffer[:, :, ring + token]
        self._heard += self._config.patch

    def _run(
        self, text: list[int], rows: np.ndarray, source: list[int], share: np.ndarray, bias: np.ndarray, more: Feed
    ) -> list[int]:
        """One pass → the tokens to be heard."""
        k, total = self._config.patch, bias.shape[-1]
        feed = {
            "input_ids": np.array([text], np.int64),
            "patch_ids": rows,
            "source": np.array(source, np.int64),
            "position_ids": self._position + np.arange(len(source), dtype=np.int64)[None],
            "seqlens_k": np.array([total - 1], np.int32),
            "total_sequence_length": np.array(total, np.int32),
            "attention_bias": np.ascontiguousarray(bias, np.float32),
            "history": self._history,
            **sampling_feed(self._spec, self._logits, self._drawn, self._seed, self._min_tokens, k),
            **more,
        }
        if self._width:
            feed |= {"speaker": self._speaker, "speaker_share": share}
        tokens, count, self._history, *speaker = self._bound(feed)
        if speaker:
            self._speaker = speaker[0]
        self._drawn += len(tokens)
        self.runs += 1
        heard: list[int] = tokens[: int(count)].tolist()
        return heard

    def _bound(self, feed: Feed) -> list[np.ndarray]:
        """Outputs but the caches, which are bound to their own inputs."""
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
        return [value.numpy().copy() for value in binding.get_outputs()[: len(names)]]


def _buffers(group: CacheGroup, garbage: float) -> list[np.ndarray]:
    """Keys and values of a group's layers, full of noise."""
    random, shape = np.random.default_rng(0), (1, group.kv_heads, group.slots, group.head_dim)
    return [np.float32(garbage) * random.standard_normal(shape, np.float32) for _ in range(2 * group.layers)]
