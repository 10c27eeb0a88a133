"""Checks that a bundle's graphs are what its manifest says: a mismatch is an error at load and never in mid-speech."""

import math
import sys
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from sottovoce.errors import BundleError, ContractError, OptionError
from sottovoce.runtime.manifest import (
    CacheGroup,
    CacheSpec,
    CodecSpec,
    HeadSpec,
    IoSpec,
    Manifest,
    PatchSpec,
    PromptSpec,
    SamplingSpec,
    TensorSpec,
)
from sottovoce.runtime.patch_contract import patch_inputs, patch_outputs
from sottovoce.runtime.sampling import check_sampling
from sottovoce.runtime.session import Ints, Node, Session

FIELDS = ("{text}", "{prompt_text}", "{prompt_codes}")
"""Fields a prompt layout may hold."""

STEP_INPUTS = (
    TensorSpec("input_ids", "tensor(int64)", (1, "T")),
    TensorSpec("position_ids", "tensor(int64)", (1, "T")),
    TensorSpec("seqlens_k", "tensor(int32)", (1,)),
    TensorSpec("total_sequence_length", "tensor(int32)", ()),
    TensorSpec("attention_bias", "tensor(float)", (1, 1, "T", "total")),
)
"""Inputs of `decoder.onnx` besides the caches, of a plain voice."""

MAX_VOCABULARY = 1 << 24
"""More token ids than any decoder has; a manifest that names more is damaged."""

MAX_COUNT = 1 << 24
"""More slots, layers, positions, samples or tokens than any voice counts; a manifest that asks for more is damaged."""

WRITES = {"ort": "scratch", "portable": "scratch", "coreml": "inplace", "coreai": "inplace"}
"""Flavours that this runtime drives, and how each writes its caches."""

ONNX_TYPES = {"fp32": "tensor(float)", "fp16": "tensor(float16)", "int8": "tensor(int8)"}


def token_ids(head: HeadSpec) -> Ints:
    """Token id of each logit, [V'] int64; raises ContractError for ranges that are empty, negative or absurdly long."""
    sizes = [stop - start for start, stop in head.ids]
    ends = [end for ids in head.ids for end in ids]
    if not sizes or min(sizes) < 1 or min(ends) < 0 or max(*ends, sum(sizes)) > MAX_VOCABULARY:
        raise ContractError(f"manifest: head.ids {str(head.ids)[:60]} are not half-open ranges of token ids")
    return np.concatenate([np.arange(start, stop, dtype=np.int64) for start, stop in head.ids])


def cache_tensors(spec: CacheSpec, stem: str, slots: int | None = None) -> Iterator[TensorSpec]:
    """The cache tensors called `stem` (`past_key_values` or `present`), each [1, H, P + W, D], in graph order.

    `slots` stands for P + W where given.
    """
    layer = 0
    for group in spec.fed:
        for _ in range(group.layers):
            for part in ("key", "value"):
                shape = (1, group.kv_heads, slots or group.slots, group.head_dim)
                yield TensorSpec(f"{stem}.{layer}.{part}", ONNX_TYPES[group.dtype], shape)
            layer += 1


def check_supported(manifest: Manifest) -> None:
    """Raise BundleError for what the contract allows but this runtime cannot drive."""
    groups = manifest.cache.groups
    if WRITES.get(manifest.flavour) != manifest.cache.write:
        kind = f"flavour {manifest.flavour!r} with cache writes {manifest.cache.write!r}"
        wanted = ", ".join(f"{flavour!r} with {write!r}" for flavour, write in WRITES.items())
        raise BundleError(f"this runtime drives flavour {wanted}, not {kind}: export it again")
    apple = WRITES[manifest.flavour] == "inplace"
    if (manifest.coreml is None) is apple:
        raise ContractError(f"manifest: flavour {manifest.flavour} contradicts coreml")
    if manifest.coreml is not None and (manifest.coreml.patch is None) is not (manifest.patch is None):
        raise ContractError("manifest: coreml.patch and patch are there in voices of patches, and in no other")
    portable = manifest.flavour == "portable"
    aliased = manifest.cache.aliased if apple else not portable
    if (manifest.prefill is not None) is not portable or manifest.cache.aliased is not aliased:
        raise ContractError(f"manifest: flavour {manifest.flavour} contradicts cache.aliased or prefill")
    if manifest.patch is None and [(group.unit, group.held) for group in groups] != [("token", "runtime")]:
        raise BundleError("this runtime drives one token cache, or a patch voice: update sottovoce")
    for number, group in enumerate(groups):
        for name in ("layers", "kv_heads", "head_dim", "prefix", "window"):
            _check_range(f"cache.groups[{number}].{name}", getattr(group, name), int(name != "prefix" or not number))
    if manifest.patch is not None:
        if portable:
            raise ContractError("manifest: a patch voice has no portable flavour")
        _check_patch(manifest.patch, groups, "runtime" if apple else "graph")
    _check_range("max_position", manifest.max_position, 1)
    if manifest.coreml is not None:
        _check_range("coreml.prefill_tokens", manifest.coreml.prefill_tokens, 1)
        for count in manifest.coreml.codec_codes:
            _check_range("coreml.codec_codes", count, 1)
    if manifest.max_new_tokens is not None:
        _check_range("max_new_tokens", manifest.max_new_tokens, 1)


def _check_patch(spec: PatchSpec, groups: Sequence[CacheGroup], held: str) -> None:
    """Raise ContractError where a number of `spec` makes no sense, or `groups` are not those of such a voice.

    `held`: who holds the extractor's. A graph also wants room in the compressor's for a whole clip.
    """
    _check_range("patch.size", spec.size, 2)
    _check_range("patch.clip", spec.clip, 0)
    _check_range("patch.speaker", spec.speaker, 0)
    _check_range("patch.token_bytes", spec.token_bytes, 0, sys.maxsize)
    wanted = {"backbone": ("patch", "runtime"), "compressor": ("token", "runtime"), "extractor": ("token", held)}
    if spec.window is None:
        del wanted["compressor"]
    if [(group.name, group.unit, group.held) for group in groups] != [(name, *kind) for name, kind in wanted.items()]:
        raise ContractError(f"manifest: cache.groups of this patch voice must be {', '.join(wanted)}, in their units")
    if spec.window is not None:
        _check_range("patch.window", spec.window, 1)
        said, clip = spec.window - 1 + spec.size, -(-spec.clip // spec.size) * spec.size
        _check_range("cache.groups[1].window", groups[1].window, max(said, clip if held == "graph" else 0))


def _check_range(name: str, value: int, least: int, most: int = MAX_COUNT) -> None:
    """Raise ContractError unless `value`, the manifest's `name`, lies between `least` and `most`."""
    if not least <= value <= most:
        raise ContractError(f"manifest: {name} is {str(value)[:40]}, between {least} and {most} is needed")


def check_decoder(manifest: Manifest, session: Session) -> None:
    """Raise ContractError unless the decoder graph has the contract's tensors and those in `manifest.io`."""
    layers = sum(group.layers for group in manifest.cache.fed)
    if 2 * layers > len(session.get_inputs()):  # before so many tensors are named
        raise ContractError(f"{manifest.decoder}: input past_key_values.{layers - 1}.key is not in the graph")
    inputs, outputs = step_tensors(manifest)
    wanted = (*inputs, *cache_tensors(manifest.cache, "past_key_values"))
    made = (*outputs, *cache_tensors(manifest.cache, "present"))
    compare_io(manifest.decoder, IoSpec(wanted, made), manifest.io, session)


def compare_io(name: str, contract: IoSpec, listed: IoSpec, session: Session) -> None:
    """Raise ContractError unless graph `name` has the tensors of the `contract` and those `listed` in the manifest."""
    for kind, nodes in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
        for source, io in (("the cache contract", contract), ("the manifest", listed)):
            _compare(getattr(io, kind), nodes, f"{name}: {kind.removesuffix('s')}", source)


def step_tensors(manifest: Manifest) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of the decoder graph besides its caches."""
    if manifest.patch is not None:
        return patch_inputs(manifest.patch), patch_outputs(manifest.patch)
    return STEP_INPUTS, (TensorSpec("logits", "tensor(float)", (1, 1, len(token_ids(manifest.head)))),)


def check_codec(spec: CodecSpec, session: Session) -> None:
    """Raise ContractError unless the codec decoder is `codes`, states → `audio`, next states."""
    states = [TensorSpec(s.name, "tensor(float)", s.shape) for s in spec.states]
    made = [TensorSpec(f"next_{s.name}", s.dtype, s.shape) for s in states]
    where = spec.decoder
    _compare([TensorSpec("codes", "tensor(int64)", (1, "N")), *states], session.get_inputs(), f"{where}: input")
    _compare([TensorSpec("audio", "tensor(float)", (1, "S")), *made], session.get_outputs(), f"{where}: output")


def check_encoder(name: str, session: Session) -> None:
    """Raise ContractError unless the codec encoder is `audio` [1,S] → `codes` [1,N]."""
    _compare([TensorSpec("audio", "tensor(float)", (1, "S"))], session.get_inputs(), f"{name}: input")
    _compare([TensorSpec("codes", "tensor(int64)", (1, "N"))], session.get_outputs(), f"{name}: output")


def _compare(wanted: Sequence[TensorSpec], nodes: Sequence[Node], where: str, source: str = "the manifest") -> None:
    """Raise ContractError unless `nodes` are the `wanted` tensors, in any order; symbolic axes match anything."""
    found = {node.name: node for node in nodes}
    for spec in wanted:
        node = found.pop(spec.name, None)
        if node is None:
            raise ContractError(f"{where} {spec.name} of {source} is not in the graph")
        if node.type != spec.dtype or not _fits(spec.shape, node.shape):
            said = f"{source} says {spec.dtype} {list(spec.shape)}"
            raise ContractError(f"{where} {spec.name} is {node.type} {list(node.shape)}, but {said}")
    if found:
        raise ContractError(f"{where} {min(found)} of the graph is unknown to {source}")


def _fits(wanted: Sequence[int | str], found: Sequence[int | str | None]) -> bool:
    """Whether two shapes have the same rank and agree wherever both state a number."""
    if len(wanted) != len(found):
        return False
    return all(a == b for a, b in zip(wanted, found, strict=True) if isinstance(a, int) and isinstance(b, int))


def check_voice(prompt: PromptSpec, sampling: SamplingSpec, codec: CodecSpec, head: HeadSpec) -> None:
    """Raise ContractError where a number of the manifest makes no sense or its parts contradict each other."""
    _check_ranges(prompt, codec)
    check_prompt(prompt, head)
    try:
        check_sampling(sampling)
    except OptionError as error:
        raise ContractError(f"manifest: {error}") from None


def _check_ranges(prompt: PromptSpec, codec: CodecSpec) -> None:
    """Raise ContractError for a number of the prompt layout or the codec that is out of range."""
    _check_range("prompt.code_offset", prompt.code_offset, 0, MAX_VOCABULARY)
    _check_range("prompt.code_count", prompt.code_count, 1, MAX_VOCABULARY)
    _check_range("prompt.max_text_tokens", prompt.max_text_tokens, 1)
    _check_range("prompt.max_prompt_codes", prompt.max_prompt_codes, int("{prompt_codes}" in prompt.layout))
    _check_ids("prompt.layout", (item for item in prompt.layout if isinstance(item, int)))
    _check_ids("prompt.stop", prompt.stop)
    _check_range("codec.sample_rate", codec.sample_rate, 1)
    _check_range("codec.hop", codec.hop, 1)
    _check_range("codec.delay", codec.delay, 0)
    _check_range("codec.flush_codes", codec.flush_codes, 0)
    _check_range("codec.flush_code", codec.flush_code, 0, prompt.code_count - 1)
    for state in codec.states:
        for axis in state.shape:
            _check_range(f"codec.states: {state.name}", axis, 1)
        _check_range(f"codec.states: size of {state.name}", math.prod(state.shape), 1)


def _check_ids(name: str, ids: Iterable[int]) -> None:
    """Raise ContractError unless all of `ids` can be token ids."""
    for number in ids:
        _check_range(name, number, 0, MAX_VOCABULARY - 1)


def check_prompt(prompt: PromptSpec, head: HeadSpec) -> None:
    """Raise ContractError where the layout has an unknown field or the head holds other ids than codes and stops."""
    for item in prompt.layout:
        if isinstance(item, str) and item not in FIELDS:
            raise ContractError(f"manifest: prompt.layout: {item!r} is not one of {', '.join(FIELDS)}")
    if "{text}" not in prompt.layout:
        raise ContractError("manifest: prompt.layout has no {text}: the voice would never be told what to say")
    codes = np.arange(prompt.code_offset, prompt.code_offset + prompt.code_count)
    odd = np.setxor1d(token_ids(head), np.append(codes, np.array(prompt.stop, np.int64)))
    if odd.size:
        raise ContractError(f"manifest: token {odd[0]} is in only one of the head and the voice's codes and stop ids")
    if not prompt.stop:
        raise ContractError("manifest: prompt.stop is empty: an utterance would never end")
