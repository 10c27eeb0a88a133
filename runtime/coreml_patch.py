"""A patch voice on Core ML: the host draws the tokens, and runs k + 2 functions for each patch of k.

`compress` reads the tokens of a patch, `decode` the patch and gives what the extractor is told, then `extract` once for
each token: first the table `start`, then the embedding of the token before. In a prefix the clip's patches take the
places of its codes, and all but the last place go through `prefill`. `position` of a place: that of its last token.

Caches: the backbone's as in a plain voice, its slots patches. The compressor's, a ring of all its S slots: token t of a
stream takes slot t mod S, and sees `window` tokens, itself included; what is said is a stream of its own behind the
clip's. The extractor's: token j of a patch takes slot j, and sees those before it. Columns behind the last token of a
patch are padding: their `token_share` is 0, `patch_bias` hides them, `cache_write` writes them nowhere.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from sottovoce.runtime.bundle import Bundle
from sottovoce.runtime.coreml import (
    HIDDEN,
    CachedFunctions,
    CoremlBackbone,
    CoremlDecoder,
    PatchTables,
    as_columns,
    joined,
    logit_names,
    rotary_feeds,
    tensor_shape,
)
from sottovoce.runtime.limits import check_position, check_prefix
from sottovoce.runtime.manifest import CacheGroup, CoremlPatchSpec, PatchSpec
from sottovoce.runtime.patch_prefix import cut_prefix
from sottovoce.runtime.sampling import Sampler
from sottovoce.runtime.session import Array, Floats
from sottovoce.runtime.utterance import Utterance


class Compressor:
    """Tokens → patches, one stream at a time."""

    def __init__(self, decoder: CoremlDecoder, spec: CoremlPatchSpec, window: int | None, group: CacheGroup) -> None:
        """Allocate the buffers of `group`, which counts where patches are more than means (`window`)."""
        self.window = window
        self._functions = None if window is None else CachedFunctions(decoder, group, "compress")
        self._engine, self._embedding, self._tables = decoder.engine, decoder.embedding, decoder.patch
        self._columns = np.arange(int(tensor_shape(spec.compress, "inputs_embeds")[-1]))
        self._held = np.full(group.window, -1)
        self.begin()

    @property
    def nbytes(self) -> int:
        """Bytes of caches."""
        return 0 if self._functions is None else self._functions.cache.nbytes

    def begin(self) -> None:
        """Another stream: no slot can be seen."""
        self.heard = 0
        self._held[:] = -1

    def patch(self, tokens: Sequence[int]) -> Array:
        """The patch [1, d] of the next tokens, k or the last few of a clip."""
        columns, count = self._columns, len(tokens)
        rows = np.minimum(columns, count - 1)
        share = np.where(columns < count, 1 / count, 0).astype(np.float16)
        feeds: dict[str, Array] = {
            "inputs_embeds": as_columns(self._embedding[np.asarray(tokens)[rows]]),
            "token_share": share[None, None, None],
        }
        if self._functions is None:
            outputs = self._engine.predict("compress", feeds, None)
        else:
            outputs = self._functions.run("compress", feeds | self._attention(self.heard + rows, count))
        self.heard += count
        return outputs["patch"].reshape(1, -1)

    def _attention(self, numbers: Array, count: int) -> dict[str, Array]:
        """Inputs for columns of tokens `numbers` [T], the first `count` of which are written."""
        slots, own = numbers % len(self._held), numbers[:count]
        self._held[slots[:count]] = own
        ages = numbers[:, None] - self._held
        seen = (self._held >= 0) & (ages >= 0) & (ages < (self.window or 0))
        write = np.zeros(seen.shape, np.float16)
        write[np.arange(count), slots[:count]] = 1
        tables = self._tables
        assert tables is not None
        assert tables.compress is not None
        return {
            "attention_bias": np.where(seen, np.float16(0), HIDDEN)[None, None],
            "cache_write": write[None, None],
            "patch_bias": np.where(self._columns < count, np.float16(0), HIDDEN)[None, None, None],
            **rotary_feeds(tables.compress[numbers]),
        }


class Extractor:
    """What `decode` tells → logits of the tokens of a patch, one after the other."""

    def __init__(self, decoder: CoremlDecoder, spec: CoremlPatchSpec, tables: PatchTables, group: CacheGroup) -> None:
        """Allocate the buffers of `group`."""
        self._functions, self._rows = CachedFunctions(decoder, group, "extract"), tables.extract
        self.cache = self._functions.cache
        self._told = [tensor.name for tensor in spec.extract.inputs if tensor.name.startswith("told_")]
        self._logits = logit_names(spec.extract)

    def begin(self, outputs: Mapping[str, Array]) -> None:
        """A patch that `outputs` of `decode` are about."""
        self.cache.init_state()
        self._feeds = {name: outputs[name] for name in self._told}

    def logits(self, x: Array) -> Floats:
        """Read what stands before the next token, x [1, d] → its logits [V']."""
        number = self.cache.filled
        self.cache.use(number)
        feeds = {"inputs_embeds": as_columns(x), "attention_bias": self.cache.bias, "cache_write": self.cache.write}
        outputs = self._functions.run("extract", feeds | rotary_feeds(self._rows[[number]]) | self._feeds)
        self.cache.filled += 1
        return joined(outputs, self._logits)


class CoremlPatchSource:
    """The `Source` of a patch voice on Core ML."""

    def __init__(self, bundle: Bundle, decoder: CoremlDecoder, spec: PatchSpec) -> None:
        """Allocate the buffers."""
        functions, tables, prompt = decoder.spec.patch, decoder.patch, bundle.voice.prompt
        assert functions is not None
        assert tables is not None
        groups = bundle.manifest.cache.groups
        self.size, self.max_position = spec.size, bundle.manifest.max_position
        self.backbone = CoremlBackbone(decoder, groups[0])
        self.compressor = Compressor(decoder, functions, spec.window, groups[1])
        self.extractor = Extractor(decoder, functions, tables, groups[-1])
        self._embedding, self._start, self._speaks = decoder.embedding, tables.start, spec.speaker > 0
        self._codes = range(prompt.code_offset, prompt.code_offset + prompt.code_count)
        self._ids, self._stop = bundle.token_ids, prompt.stop
        self._heard, self._patch = 0, list[int]()

    @property
    def position(self) -> int:
        """See `Source`: that of the last token of the patch that the next step reads."""
        return self._heard + self.size - 1

    @property
    def nbytes(self) -> int:
        """See `Source`."""
        return self.backbone.cache.nbytes + self.compressor.nbytes + self.extractor.cache.nbytes

    def begin(self, utterance: Utterance) -> list[int]:
        """See `Source`."""
        self._sampler = Sampler(utterance.sampling, self._ids, self._stop, utterance.seed, utterance.min_tokens)
        pieces = cut_prefix(utterance.prefix, self._codes, self.size, max(1, len(utterance.prefix)))
        check_prefix(sum(len(piece.source) for piece in pieces), self.backbone.cache.prefix)
        check_position(len(utterance.prefix) - 1, self.max_position)
        self.compressor.begin()
        rows = [row for piece in pieces for row in piece.patches]
        patches = [self.compressor.patch([token for token in row.tolist() if token >= 0]) for row in rows]
        nobody: Array = np.zeros((1, self._embedding.shape[1]), np.float32)
        speaker: Array = np.stack(patches).mean(0, np.float32) if patches else nobody
        self._more = {"speaker": as_columns(speaker.astype(np.float16))} if self._speaks else {}
        places, positions = list[Array](), list[int]()
        for piece in pieces:
            text, behind = self._embedding[list(piece.text)], max(1, len(piece.text))
            for source in piece.source:
                here = patches[piece.first + source - behind][0] if source >= len(piece.text) else text[source]
                places.append(here)
            positions += piece.positions
        self.compressor.begin()
        self._heard = len(utterance.prefix)
        return self._say(self.backbone.read(np.stack(places), positions, self._more))

    def step(self) -> list[int]:
        """See `Source`; raises TextError past the last position the package was exported for."""
        check_position(self.position, self.max_position)
        patch = self.compressor.patch(self._patch)
        outputs = self.backbone.say(patch, self.position, self._more)
        self._heard += self.size
        return self._say(outputs)

    def _say(self, outputs: Mapping[str, Array]) -> list[int]:
        """The tokens of the patch that `outputs` are about, up to a stop."""
        self.extractor.begin(outputs)
        self._patch, x = [], self._start
        while len(self._patch) < self.size:
            token = self._sampler.draw(self.extractor.logits(x))
            if token is None:
                break
            self._patch.append(token)
            x = self._embedding[[token]]
        return self._patch
