"""Checks that a bundle's graphs are what its manifest says: a mismatch is an error at load and never in mid-speech."""

from collections.abc import Iterator, Sequence

import numpy as np

from sottovoce.errors import BundleError, ContractError
from sottovoce.runtime.manifest import CacheSpec, CodecSpec, HeadSpec, Manifest, PromptSpec, TensorSpec
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
"""Inputs of `decoder.onnx` besides the caches."""

MAX_VOCABULARY = 1 << 24
"""More logits than any decoder has; a manifest that asks for more is damaged."""

ONNX_TYPES = {"fp32": "tensor(float)", "fp16": "tensor(float16)", "int8": "tensor(int8)"}


def token_ids(head: HeadSpec) -> Ints:
    """Token id of each logit, [V'] int64; raises ContractError for ranges that are empty, negative or absurdly long."""
    sizes = [stop - start for start, stop in head.ids]
    if not sizes or min(sizes) < 1 or sum(sizes) > MAX_VOCABULARY or min(head.ids)[0] < 0:
        raise ContractError(f"manifest: head.ids {str(head.ids)[:60]} are not half-open ranges of token ids")
    return np.concatenate([np.arange(start, stop, dtype=np.int64) for start, stop in head.ids])


def cache_tensors(spec: CacheSpec, stem: str) -> Iterator[TensorSpec]:
    """The cache tensors called `stem` (`past_key_values` or `present`), each [1, H, P + W, D], in graph order."""
    layer = 0
    for group in spec.groups:
        for _ in range(group.layers):
            for part in ("key", "value"):
                shape = (1, group.kv_heads, group.slots, group.head_dim)
                yield TensorSpec(f"{stem}.{layer}.{part}", ONNX_TYPES[group.dtype], shape)
            layer += 1


def check_supported(manifest: Manifest) -> None:
    """Raise BundleError for what the contract allows but this runtime cannot drive."""
    groups = manifest.cache.groups
    if manifest.flavour != "ort" or manifest.cache.write != "scratch":
        raise BundleError(f"flavour {manifest.flavour!r} is for other engines: export with --flavour ort")
    if len(groups) != 1 or groups[0].unit != "token" or groups[0].dtype == "int8":
        raise BundleError("this runtime drives one token cache in fp32 or fp16: update sottovoce")
    if min(groups[0].layers, groups[0].kv_heads, groups[0].head_dim, groups[0].prefix, groups[0].window) < 1:
        raise BundleError("manifest: cache: every size must be at least 1")


def check_decoder(manifest: Manifest, session: Session) -> None:
    """Raise ContractError unless the decoder graph has the contract's tensors and those in `manifest.io`."""
    logits = TensorSpec("logits", "tensor(float)", (1, 1, len(token_ids(manifest.head))))
    wanted = [*STEP_INPUTS, *cache_tensors(manifest.cache, "past_key_values")]
    made = [logits, *cache_tensors(manifest.cache, "present")]
    for kind, contract, listed, nodes in (
        ("input", wanted, manifest.io.inputs, session.get_inputs()),
        ("output", made, manifest.io.outputs, session.get_outputs()),
    ):
        _compare(contract, nodes, f"{manifest.decoder}: {kind}", "the cache contract")
        _compare(listed, nodes, f"{manifest.decoder}: {kind}", "the manifest")


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


def check_prompt(prompt: PromptSpec, head: HeadSpec) -> None:
    """Raise ContractError where the layout has an unknown field or the head holds other ids than codes and stops."""
    for item in prompt.layout:
        if isinstance(item, str) and item not in FIELDS:
            raise ContractError(f"manifest: prompt.layout: {item!r} is not one of {', '.join(FIELDS)}")
    if "{text}" not in prompt.layout:
        raise ContractError("manifest: prompt.layout has no {text}: the voice would never be told what to say")
    sampled = set(token_ids(head).tolist())
    wanted = {*range(prompt.code_offset, prompt.code_offset + prompt.code_count), *prompt.stop}
    if odd := sorted(sampled ^ wanted):
        raise ContractError(f"manifest: token {odd[0]} is in only one of the head and the voice's codes and stop ids")
    if not prompt.stop:
        raise ContractError("manifest: prompt.stop is empty: an utterance would never end")
