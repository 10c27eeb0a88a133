"""Holds what a Core ML or Core AI bundle's manifest says of its functions to the cache contract, before any is opened.

Letters: d hidden size, T tokens of a run, S slots, H KV heads, D head_dim, V' logits; m of what an extractor is told.
"""

from collections.abc import Iterator, Mapping

from sottovoce.errors import ContractError
from sottovoce.runtime.manifest import CacheGroup, CoremlPatchSpec, HeadSpec, IoSpec, Manifest, PatchSpec, TensorSpec

HALF = "tensor(float16)"

MAX_STATES = 4096
"""More layers than any decoder has."""

Shape = tuple[int, ...]


def check_coreml(manifest: Manifest) -> None:
    """Raise ContractError where the functions' tensors are not those of the manifest's groups, head and patch."""
    spec, (group, *nets) = manifest.coreml, manifest.cache.groups
    assert spec is not None
    if spec.stateful and manifest.flavour == "coreai":
        raise ContractError("manifest: coreml.stateful: Core AI assets have caches as inputs and outputs")
    # Before so many tensors are named; states are not.
    most = MAX_STATES if spec.stateful else len(manifest.io.inputs) + _inputs(spec.patch)
    for each in (group, *nets):
        if each.dtype != "fp16" or each.layers > most:
            raise ContractError(f"manifest: cache.groups: {each.name} has more layers than inputs, or is not fp16")
        if each is not group and each.prefix:
            raise ContractError(f"manifest: cache.groups: {each.name} has a prefix, and only the backbone can have one")
    width = _axis(manifest.io, "inputs_embeds", 1)
    past, present = _caches(group, spec.stateful)
    decode = _reads(width, 1, group, spec.rotary) | past
    if manifest.patch is not None and spec.patch is not None:
        made = _told(spec.patch.extract)
        decode |= {"speaker": (1, width, 1, 1)} if manifest.patch.speaker else {}
        _check_nets(manifest, manifest.patch, spec.patch, width, made)
    else:
        made = dict(_logits(manifest.io, manifest.head))
    prefill = _reads(width, spec.prefill_tokens, group, spec.rotary) | past
    hidden = {"hidden": (1, width, 1, spec.prefill_tokens)} if spec.stateful else {}
    _compare("decode", manifest.io, decode, made | present)
    _compare("prefill", spec.prefill, prefill, hidden | present)


def _check_nets(
    manifest: Manifest, patch: PatchSpec, spec: CoremlPatchSpec, width: int, told: Mapping[str, Shape]
) -> None:
    """The functions `compress` and `extract`, and whether a patch fits them."""
    group, columns = manifest.cache.groups[-1], _axis(spec.compress, "inputs_embeds", 3)
    stateful = manifest.coreml is not None and manifest.coreml.stateful
    if min(group.window, columns) < patch.size:
        raise ContractError(f"manifest: a patch of {patch.size} does not fit extractor or compressor: export it again")
    past, present = _caches(group, stateful)
    reads = _reads(width, 1, group, True) | dict(told) | past
    _compare("extract", spec.extract, reads, dict(_logits(spec.extract, manifest.head)) | present)
    line = (1, 1, 1, columns)
    made: dict[str, Shape] = {"patch": (1, width, 1, 1)}
    reads = {"inputs_embeds": (1, width, 1, columns), "token_share": line}
    if patch.window is not None:
        past, present = _caches(manifest.cache.groups[1], stateful)
        reads |= _reads(width, columns, manifest.cache.groups[1], True) | {"patch_bias": line} | past
        made |= present
    _compare("compress", spec.compress, reads, made)
    if patch.speaker not in (0, width):
        raise ContractError(f"manifest: patch.speaker is {patch.speaker}, 0 or {width} is needed")


def _reads(width: int, tokens: int, group: CacheGroup, rotary: bool) -> dict[str, Shape]:
    """What layers of `group` are told besides caches."""
    mask, rows = (1, 1, tokens, group.slots), (1, 1, group.head_dim // 2, tokens)
    tables = {"rotary_cos": rows, "rotary_sin": rows} if rotary else {}
    return {"inputs_embeds": (1, width, 1, tokens), "attention_bias": mask, "cache_write": mask, **tables}


def _caches(group: CacheGroup, stateful: bool) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """Past and present ones; none where they are states."""
    shape: Shape = (1, group.kv_heads, group.head_dim, group.slots)
    names = [f"{layer}_{part}" for layer in range(group.layers) for part in ("key", "value")]
    if stateful:
        return {}, {}
    return {f"past_key_values_{name}": shape for name in names}, {f"present_{name}": shape for name in names}


def _logits(io: IoSpec, head: HeadSpec) -> Iterator[tuple[str, Shape]]:
    """The outputs that logits come in, by name; ContractError unless together they are as many as the head's ids."""
    found = {spec.name: spec.shape for spec in io.outputs if spec.name.startswith("logits")}
    sizes = [shape[1] if len(shape) == 4 else 0 for shape in found.values()]
    wanted = sum(end - start for start, end in head.ids)
    if any(not isinstance(size, int) for size in sizes) or sum(map(int, sizes)) != wanted:
        raise ContractError(f"manifest: the outputs logits… hold other than the head's {wanted} ids")
    yield from ((name, (1, int(size), 1, 1)) for name, size in zip(found, sizes, strict=True))


def _told(io: IoSpec) -> dict[str, Shape]:
    """What `extract` is told, [1,h,m,D] each, as it lists it itself."""
    told = {spec.name: spec.shape for spec in io.inputs if spec.name.startswith("told_")}
    return {name: tuple(axis if isinstance(axis, int) else 0 for axis in shape) for name, shape in told.items()}


def _axis(io: IoSpec, name: str, axis: int) -> int:
    """An axis of the input `name` [1, C, 1, S]; ContractError where it is no number or there is no such input."""
    shape = next((spec.shape for spec in io.inputs if spec.name == name), ())
    if len(shape) != 4 or not isinstance(size := shape[axis], int) or not 0 < size < 1 << 24:
        raise ContractError(f"manifest: io has no input {name} of four axes")
    return size


def _inputs(spec: CoremlPatchSpec | None) -> int:
    """How many inputs the nets of a patch voice have."""
    return len(spec.compress.inputs) + len(spec.extract.inputs) if spec else 0


def _compare(function: str, io: IoSpec, reads: Mapping[str, Shape], makes: Mapping[str, Shape]) -> None:
    """Raise ContractError unless `io` lists exactly these tensors, in half precision and in any order."""
    for kind, listed, wanted in (("input", io.inputs, reads), ("output", io.outputs, makes)):
        found = {spec.name: spec for spec in listed}
        if odd := sorted(found.keys() ^ wanted.keys()):
            raise ContractError(f"manifest: {function}: {kind} {odd[0]} is in only one of io and the contract")
        for name, shape in wanted.items():
            if found[name] != TensorSpec(name, HALF, shape):
                said = f"{found[name].dtype} {list(found[name].shape)}"
                raise ContractError(f"manifest: {function}: {kind} {name} is {said}, {HALF} {list(shape)} is needed")
