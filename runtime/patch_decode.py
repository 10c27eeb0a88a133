"""A patch voice's graph over bound buffers: one run for each patch, the first ones for pieces of the prefix.

See `patch_contract.py` for what goes in and comes out.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from sottovoce.errors import TextError
from sottovoce.runtime.bundle import Bundle
from sottovoce.runtime.cache import HIDDEN, Cache
from sottovoce.runtime.decode import LENGTHS, PREFILL_CHUNK, bind_bias
from sottovoce.runtime.limits import check_chunk, check_position, check_prefix
from sottovoce.runtime.manifest import PatchSpec
from sottovoce.runtime.patch_cache import CompressorCache
from sottovoce.runtime.patch_prefix import Piece, cut_prefix
from sottovoce.runtime.patch_sampling import GraphSampling
from sottovoce.runtime.session import Array, Floats, Ints
from sottovoce.runtime.utterance import Utterance


class PatchSource:
    """The `Source` of a patch voice: a step reads the last patch and says the next, drawn in the graph."""

    def __init__(self, bundle: Bundle, spec: PatchSpec, prefill_chunk: int = PREFILL_CHUNK) -> None:
        """Allocate the buffers; a prefix is read `prefill_chunk` slots at a time."""
        check_chunk(prefill_chunk)
        manifest, prompt = bundle.manifest, bundle.voice.prompt
        backbone, *small = manifest.cache.fed
        self.spec, self.size, self.max_position = spec, spec.size, manifest.max_position
        self.prefill_chunk = prefill_chunk
        self.cache = Cache(replace(manifest.cache, groups=(backbone,)))
        self.compressor = CompressorCache(small[0], spec.window, spec.size) if spec.window is not None else None
        self._session, self._logits = bundle.decoder, len(bundle.token_ids)
        self._codes = range(prompt.code_offset, prompt.code_offset + prompt.code_count)
        self._speaker, self._next_speaker = (np.zeros((1, 1, spec.speaker), np.float32) for _ in range(2))
        self._count = np.zeros((), np.int64)
        self._patch = np.zeros((1, spec.size), np.int64)
        self._heard = 0
        self._position = np.empty((1, 1), np.int64)

    @property
    def position(self) -> int:
        """See `Source`: that of the last token of the patch that the next step reads."""
        return self._heard + self.size - 1

    @property
    def nbytes(self) -> int:
        """See `Source`."""
        return self.cache.nbytes + (self.compressor.nbytes if self.compressor else 0)

    def begin(self, utterance: Utterance) -> list[int]:
        """See `Source`."""
        pieces = cut_prefix(utterance.prefix, self._codes, self.size, self.prefill_chunk)
        patches = sum(len(piece.patches) for piece in pieces)
        check_prefix(sum(len(piece.source) for piece in pieces), self.cache.prefix)
        check_position(len(utterance.prefix) - 1, self.max_position)
        if patches > -(-self.spec.clip // self.size):
            raise TextError(f"the prompt is longer than the {self.spec.clip} codes that this bundle holds: shorten it")
        self.cache.init_state()
        self._speaker[:] = 0
        self._sampling = self._begin_sampling(utterance)
        self._next_history = np.empty_like(self._sampling.history)
        nothing = {"uniforms": np.empty((0, 2), np.float32)}
        for piece in pieces[:-1]:
            self._read(piece, patches, self._sampling.feeds | nothing)
        said = self._read(pieces[-1], patches, self._sampling.feeds)
        if self.compressor:
            self.compressor.begin()
        self._heard = len(utterance.prefix)
        self._said = self._said_feeds()
        self._binding = self._bind(self._said)
        return said

    def step(self) -> list[int]:
        """See `Source`; raises TextError past the last position the graph was exported for."""
        check_position(self.position, self.max_position)
        self._position[0, 0] = self.position
        if self.cache.aim():
            bind_bias(self._binding, self.cache)
        said = self._run(self._binding)
        self._heard += self.size
        self.cache.advance()
        if self.compressor:
            self.compressor.advance()
        return said

    def _begin_sampling(self, utterance: Utterance) -> GraphSampling:
        """What the graph's sampler is told: to draw a patch with each run."""
        return GraphSampling(utterance, self._logits, self.size)

    def _read(self, piece: Piece, patches: int, sampling: dict[str, Array]) -> list[int]:
        """Run a piece of a prefix whose clip has so many `patches`; the tokens that were to be drawn."""
        start, count = self.cache.filled, len(piece.source)
        slots, positions = np.arange(start, start + count), np.array([piece.positions], np.int64)
        rows = piece.patches if len(piece.patches) else np.full((1, self.size), -1, np.int64)
        share = np.full((1, 1, len(rows)), 1 / patches if len(piece.patches) else 0, np.float32)
        bias = np.where(np.arange(start + count) > slots[:, None], HIDDEN, np.float32(0))
        feeds = self._feeds(piece, rows, positions, bias[None, None], share) | sampling
        if self.compressor:
            feeds |= self.compressor.clip_feeds(piece.first * self.size if len(piece.patches) else 0, rows.size)
        said = self._run(self._bind(feeds))
        self.cache.fill(count)
        self._speaker[:] = self._next_speaker
        return said

    def _said_feeds(self) -> dict[str, Array]:
        """Inputs of a step, in memory that stays where it is."""
        share = np.zeros((1, 1, 1), np.float32)
        piece = Piece((), self._patch, 0, (1,), ())
        feeds = self._feeds(piece, self._patch, self._position, self.cache.bias[..., : self.cache.reach], share)
        feeds |= zip(LENGTHS, self.cache.lengths, strict=True)
        return feeds | self._sampling.feeds | (self.compressor.said_feeds() if self.compressor else {})

    def _feeds(self, piece: Piece, patches: Ints, positions: Ints, bias: Floats, share: Floats) -> dict[str, Array]:
        """The graph's inputs by name, but those of the compressor and the sampler."""
        total = bias.shape[-1]
        feeds: dict[str, Array] = {
            "input_ids": np.array([piece.text or (0,)], np.int64),
            "patch_ids": patches,
            "source": np.array(piece.source, np.int64),
            "position_ids": positions,
            "seqlens_k": np.array([total - 1], np.int32),
            "total_sequence_length": np.array(total, np.int32),
            "attention_bias": bias,
        }
        return feeds | ({"speaker": self._speaker, "speaker_share": share} if self.spec.speaker else {})

    def _bind(self, feeds: dict[str, Array]) -> Any:
        """The graph bound to `feeds`, which it does not keep alive, to the caches, and to where outputs go."""
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        outputs: dict[str, Array] = {"count": self._count, "next_history": self._next_history}
        if self.spec.speaker:
            outputs["next_speaker"] = self._next_speaker
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        rows = [*self.cache.buffers, *(self.compressor.buffers if self.compressor else ())]
        for row, buffer in enumerate(rows):
            name = f"{row // 2}.{'value' if row % 2 else 'key'}"
            binding.bind_input(f"past_key_values.{name}", "cpu", 0, buffer.dtype, buffer.shape, buffer.ctypes.data)
            binding.bind_output(f"present.{name}", "cpu", 0, buffer.dtype, buffer.shape, buffer.ctypes.data)
        return binding

    def _run(self, binding: Any) -> list[int]:
        """Run over bound buffers; the tokens to be heard, which the next step will read."""
        binding.bind_output("token_ids", "cpu")  # anew: how many there are, the run decides
        self._session.run_with_iobinding(binding)
        drawn = binding.get_outputs()[-1].numpy()
        self._sampling.advance(len(drawn), self._next_history)
        said: list[int] = drawn[: int(self._count)].tolist()
        if len(said) == self.size:
            self._patch[0] = said
        return said
