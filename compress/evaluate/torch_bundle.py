"""A voice opened as if it had been exported: the runtime's own loop, sampling and cache over graphs that are torch.

So a voice says what its fp32 bundle says, and nothing of how it speaks is written twice. Runs on the CPU in float32;
one utterance at a time.
"""

import ctypes
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from sottovoce.models.codec import Codec, codec_spec
from sottovoce.models.decoder import Decoder
from sottovoce.models.patch.config import PatchConfig
from sottovoce.models.patch.decoder import PatchDecoder
from sottovoce.models.patch.stream import PatchStream
from sottovoce.models.ring import slot_pass
from sottovoce.models.voice import Voice
from sottovoce.runtime import bundle
from sottovoce.runtime.contract import token_ids
from sottovoce.runtime.limits import check_prefix
from sottovoce.runtime.manifest import (
    SCHEMA,
    CacheGroup,
    CacheSpec,
    HeadSpec,
    IoSpec,
    Manifest,
    PatchSpec,
    PromptSpec,
    WeightSpec,
)
from sottovoce.runtime.prefix import prefix_slots
from sottovoce.runtime.sampling import Sampler
from sottovoce.runtime.session import Array, NoGraph
from sottovoce.runtime.text.frontend import load_frontend
from sottovoce.runtime.utterance import Utterance

PARTS: Final = ("key", "value")


class Binding:
    """Buffers by name, as memory of numpy arrays that somebody else keeps alive."""

    def __init__(self) -> None:
        """Nothing is bound."""
        self.buffers: dict[str, Tensor] = {}

    def bind_input(self, name: str, device: str, number: int, dtype: Any, shape: Sequence[int], pointer: int) -> None:
        """View the memory at `pointer` as a tensor; inputs and outputs differ in nothing."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = (ctypes.c_char * size).from_address(pointer)
        self.buffers[name] = torch.from_numpy(np.frombuffer(memory, dtype).reshape(shape))

    bind_output = bind_input


class DecoderSession(NoGraph):
    """`decoder.onnx` as torch: a step or a chunk of the prefix over bound buffers, past and present the same ones."""

    def __init__(self, decoder: Decoder, ids: Tensor) -> None:
        """Logits are those of `ids` [V'], in their order."""
        self.decoder, self.ids = decoder, ids

    def io_binding(self) -> Binding:
        """See `Session`."""
        return Binding()

    def run_with_iobinding(self, binding: Binding) -> None:
        """Write keys and values of T tokens to the last T of the slots that the bias counts, and the last logits."""
        feeds = binding.buffers
        ids, bias = feeds["input_ids"], feeds["attention_bias"][0, 0]
        total, layers = bias.shape[-1], range(self.decoder.config.layers)
        keys, values = ([feeds[f"past_key_values.{i}.{part}"][:, :, :total] for i in layers] for part in PARTS)
        slots = slice(total - ids.shape[1], total)
        logits = slot_pass(self.decoder, ids, int(feeds["position_ids"][0, 0]), keys, values, slots, bias == 0)
        feeds["logits"][0, 0] = logits[0, -1, self.ids]


class CodecSession(NoGraph):
    """`codec_decoder.onnx` as torch."""

    def __init__(self, codec: Codec) -> None:
        """Decode with `codec`."""
        self.codec = codec

    @torch.inference_mode()
    def run(self, names: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        """Codes [1,N] and `state.{i}` → audio [1,S] and the next states, in the order of the manifest."""
        states = [torch.from_numpy(feeds[f"state.{i}"]) for i in range(len(feeds) - 1)]
        audio, following = self.codec.decode(torch.from_numpy(feeds["codes"]), states)
        return [audio.numpy(), *(state.numpy() for state in following)]


class PatchVoice:
    """The `Source` of a voice in patches: the reference of its graph, and the runtime's sampler."""

    def __init__(self, decoder: PatchDecoder, manifest: Manifest) -> None:
        """Speak with `decoder` in the sizes of `manifest`."""
        self.decoder, self.manifest = decoder, manifest
        self.size, self.max_position = decoder.config.patch, manifest.max_position
        self.nbytes = manifest.cache.bytes

    @property
    def position(self) -> int:
        """See `Source`."""
        return self._stream.backbone.position + self.size - 1

    def begin(self, utterance: Utterance) -> list[int]:
        """See `Source`."""
        (group,), prompt = self.manifest.cache.groups, self.manifest.prompt
        assert prompt
        check_prefix(prefix_slots(self.manifest, utterance.prefix), group.prefix)
        ids = self.decoder.spoken.numpy()
        self._sampler = Sampler(utterance.sampling, ids, prompt.stop, utterance.seed, utterance.min_tokens)
        self._stream = PatchStream(self.decoder, group.prefix, group.window)
        self._stream.prefill(utterance.prefix)
        return self.step()

    def step(self) -> list[int]:
        """See `Source`."""
        return list(self._stream.patch(self._sampler.draw))


def open_voice(voice: Voice, codec: Codec) -> bundle.Bundle:
    """`voice`, which speaks through `codec`, as a bundle with the sizes that `sottovoce export` would give it.

    Raises VoiceError or BundleError where a part of the voice is missing or malformed.
    """
    manifest = _manifest(voice, codec)
    prompt, sampling = manifest.prompt, manifest.sampling
    assert prompt and sampling and manifest.text and manifest.codec
    frontend = load_frontend(voice.home, manifest.text)
    speaking = bundle.Voice(prompt, sampling, manifest.codec, frontend, CodecSession(codec))
    ids = token_ids(manifest.head)
    threads = torch.get_num_threads()
    if manifest.patch is not None:
        decoder = voice.patches().load().eval()
        source = partial(PatchVoice, decoder, manifest)
        return bundle.Bundle(voice.home, manifest, threads, NoGraph(), ids, speaking, {}, source)
    session = DecoderSession(voice.checkpoint.load().eval(), torch.from_numpy(ids))
    return bundle.Bundle(voice.home, manifest, threads, session, ids, speaking, {})


def _manifest(voice: Voice, codec: Codec) -> Manifest:
    """The manifest of a voice that lies in no bundle: its sizes, and nothing about files."""
    spec, config = voice.complete(), voice.checkpoint.config
    shape = config.layers, config.kv_heads, config.head_dim, spec.slots, spec.cached
    group = CacheGroup("backbone", *shape, "patch" if spec.patch else "token", "fp32")
    return Manifest(
        schema=SCHEMA,
        files={},
        source=voice.checkpoint.sha256(),
        tools={},
        flavour="ort",
        min_onnxruntime="",
        cache=CacheSpec((group,), "scratch", True, group.nbytes),
        io=IoSpec((), ()),
        weights=WeightSpec("fp32", "fp32", "fp32", None),
        head=HeadSpec(spoken_ranges(spec.prompt)),
        max_position=spec.reach(spec.slots, spec.cached),
        prompt=spec.prompt,
        text=spec.text,
        sampling=spec.sampling,
        codec=codec_spec(codec),
        parity="failed",  # there is no graph to compare: nothing was shown
        history=spec.history,
        max_new_tokens=spec.max_new_tokens,
        patch=_patch_spec(spec.patch, spec.prompt.max_prompt_codes),
    )


def _patch_spec(patch: PatchConfig | None, clip: int) -> PatchSpec | None:
    """What a manifest says of patches that no graph makes: their size, and the longest clip."""
    return None if patch is None else PatchSpec(patch.patch, clip, window=None, speaker=0, token_bytes=0)


def spoken_ranges(prompt: PromptSpec) -> tuple[tuple[int, int], ...]:
    """Codes and stop ids as half-open ranges, ascending: the order in which export keeps their logits."""
    codes = range(prompt.code_offset, prompt.code_offset + prompt.code_count)
    stops = set(prompt.stop) - set(codes)
    return tuple(sorted([(codes.start, codes.stop), *((stop, stop + 1) for stop in stops)]))
