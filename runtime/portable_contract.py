"""The tensors of the `portable` flavour: two graphs of fixed shapes over one weight file, for any ONNX engine.

`prefill.onnx` reads the whole prefix at once, padded to P ids behind the real ones, and fills the buffers; it reads no
cache. `decode.onnx` takes one token and gives its keys and values alone: `present.{i}` [1,H,1,D] is the scratch slot,
which a loop copies into a slot of the ring (`cache.py`). So `past_key_values.{i}` holds the other P + W − 1 slots, no
graph writes what it reads, and all buffers together are the P + W slots of the contract, once.
"""

from typing import Final

from sottovoce.runtime.contract import cache_tensors, compare_io, token_ids
from sottovoce.runtime.manifest import CacheSpec, IoSpec, Manifest, TensorSpec
from sottovoce.runtime.session import Session

PREFILL: Final = "prefill.onnx"
DECODE: Final = "decode.onnx"
"""Names of the graphs inside a bundle."""


def decode_io(cache: CacheSpec, logits: int) -> IoSpec:
    """Inputs and outputs of `decode.onnx`; names mean what they mean in `decoder.onnx`."""
    (group,) = cache.groups
    past = cache_tensors(cache, "past_key_values", group.slots - 1)
    inputs = (*_ids(1), TensorSpec("attention_bias", "tensor(float)", (1, 1, 1, group.slots)), *past)
    return IoSpec(inputs, (_logits(logits), *cache_tensors(cache, "present", 1)))


def prefill_io(cache: CacheSpec, logits: int) -> IoSpec:
    """Inputs and outputs of `prefill.onnx`: `seqlens_k` is the index of the last real token, p − 1; `present.{i}` all
    slots but scratch, zeros past P.
    """
    (group,) = cache.groups
    bias = TensorSpec("attention_bias", "tensor(float)", (1, 1, group.prefix, group.prefix))
    inputs = (*_ids(group.prefix), TensorSpec("seqlens_k", "tensor(int32)", (1,)), bias)
    return IoSpec(inputs, (_logits(logits), *cache_tensors(cache, "present", group.slots - 1)))


def _ids(count: int) -> tuple[TensorSpec, ...]:
    """Ids and positions of `count` tokens."""
    return tuple(TensorSpec(name, "tensor(int64)", (1, count)) for name in ("input_ids", "position_ids"))


def _logits(count: int) -> TensorSpec:
    """Logits of the last real token."""
    return TensorSpec("logits", "tensor(float)", (1, 1, count))


def check_decode(manifest: Manifest, session: Session) -> None:
    """Raise ContractError unless `decode.onnx` has the contract's tensors and those that the manifest lists."""
    logits = len(token_ids(manifest.head))
    compare_io(manifest.decoder, decode_io(manifest.cache, logits), manifest.io, session)


def check_prefill(manifest: Manifest, session: Session) -> None:
    """The same of `prefill.onnx`."""
    assert manifest.prefill is not None
    logits = len(token_ids(manifest.head))
    compare_io(manifest.prefill.file, prefill_io(manifest.cache, logits), manifest.prefill.io, session)
