"""Reading and writing decoder weights: HF folders, safetensors only, one tensor in memory at a time.

Folders are untrusted: nothing is unpickled, shard names stay inside the folder, and every name, shape and dtype is
checked from the headers before a weight is read.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sottovoce.errors import OutputError, VoiceError
from sottovoce.models.config import DecoderConfig
from sottovoce.models.decoder import Decoder
from sottovoce.models.names import pack, place
from sottovoce.runtime.strict_json import decode_json

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PATCH_WEIGHTS = "patch.safetensors"
"""Beside the decoder's weights where a voice speaks in patches: those of the nets around it."""
_DTYPES = ("F16", "BF16", "F32")


@dataclass(frozen=True)
class Checkpoint:
    """An HF folder whose headers have been checked; `files` maps tensor name → shard name."""

    folder: Path
    hf: dict[str, Any]
    config: DecoderConfig
    files: dict[str, str]

    @classmethod
    def open(cls, folder: Path) -> "Checkpoint":
        """Check `folder` without reading weights; VoiceError says what is missing or wrong, and in which file."""
        hf = read_json(folder / CONFIG)
        config = DecoderConfig.from_hf(hf)
        files = _find_shards(folder)
        _check_tensors(folder, files, config)
        return cls(folder, hf, config, files)

    def read(self, name: str) -> Tensor:
        """The decoder's parameter `name` as float32; the file is mapped for the length of this call only."""
        where = place(name, self.config.traits)
        path = self.folder / self.files[where.name]
        return _opened(path, lambda file: where.take(file.get_tensor(where.name)).to(torch.float32, copy=True))

    def load(self) -> Decoder:
        """The decoder with these weights, float32."""
        with torch.device("meta"):
            decoder = Decoder(self.config)
        decoder.to_empty(device="cpu")
        with torch.no_grad():
            for name, parameter in decoder.named_parameters():
                parameter.copy_(self.read(name))
        return decoder

    def sha256(self) -> str:
        """Hash of the config and of every shard, in order of name (hex): which weights a bundle came from.

        Those of patches go last, where there are any.
        """
        digest = hashlib.sha256()
        patches = [PATCH_WEIGHTS] if (self.folder / PATCH_WEIGHTS).is_file() else []
        for name in (CONFIG, *sorted(set(self.files.values())), *patches):
            with (self.folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; VoiceError where it is missing or not one."""
    try:
        value = decode_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise VoiceError(f"{path} is missing: {path.parent} is not a checkpoint folder") from None
    except (OSError, ValueError) as error:
        raise VoiceError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise VoiceError(f"{path}: expected an object")
    return value


def save_weights(decoder: Decoder, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write `model.safetensors` whole or not at all; OutputError where the disk refuses."""
    save_tensors(pack(decoder.state_dict(), decoder.config.traits), folder / WEIGHTS, dtype)


def save_tensors(tensors: Mapping[str, Tensor], target: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a safetensors file whole or not at all; OutputError where the disk refuses."""
    stored = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
    write_atomic(target, lambda path: save_file(stored, path, metadata={"format": "pt"}))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of the file at `path`, float32; VoiceError where it is missing or damaged."""
    return _opened(path, lambda file: {n: file.get_tensor(n).to(torch.float32, copy=True) for n in list(file.keys())})


def read_tensor(path: Path, name: str) -> Tensor:
    """One tensor of the file at `path`, float32; VoiceError where it is missing or damaged."""
    return _opened(path, lambda file: file.get_tensor(name).to(torch.float32, copy=True))


def check_file(path: Path, shapes: Mapping[str, list[int]]) -> None:
    """VoiceError unless the file at `path` has tensors of these names and shapes, no others, in a known dtype."""
    _check_names(path, _opened(path, lambda file: list(file.keys())), shapes)
    _check_shapes(path, shapes)


def write_atomic(target: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `target`, then rename it; nothing is left behind where it fails."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(target)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{target} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _find_shards(folder: Path) -> dict[str, str]:
    """Tensor name → shard, from the index or from the only file."""
    if (folder / INDEX).exists():
        shards = read_json(folder / INDEX).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(s, str) for s in shards.values()):
            raise VoiceError(f"{folder / INDEX}: weight_map must map tensor names to file names")
        if outside := [s for s in shards.values() if Path(s).name != s or "\\" in s or s in ("", "..")]:
            raise VoiceError(f"{folder / INDEX}: {outside[0]!r} is not a file name inside the folder")
        return shards
    if (folder / WEIGHTS).exists():
        return _opened(folder / WEIGHTS, lambda file: dict.fromkeys(file.keys(), WEIGHTS))
    if pickled := sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt*")):
        raise VoiceError(f"{pickled[0]} is a pickle, which is never loaded: save the model as {WEIGHTS}")
    raise VoiceError(f"{folder / WEIGHTS} is missing, and so is {INDEX}")


def _check_tensors(folder: Path, files: dict[str, str], config: DecoderConfig) -> None:
    """Names, shapes and dtypes of every shard against the decoder that `config` describes."""
    with torch.device("meta"):
        packed = pack(Decoder(config).state_dict(), config.traits)
    expected = {name: list(tensor.shape) for name, tensor in packed.items()}
    _check_names(folder, [name for name in files if name in expected or not _ignored(name, config)], expected)
    for shard in sorted(set(files.values())):
        _check_shapes(folder / shard, {name: shape for name, shape in expected.items() if files[name] == shard})


def _check_names(where: Path, found: Collection[str], expected: Collection[str]) -> None:
    """VoiceError where a tensor of `expected` is not `found` at `where`, or another one is."""
    if missing := sorted(set(expected) - set(found)):
        raise VoiceError(f"{where}: tensor {missing[0]} is missing ({len(missing)} in all)")
    if unexpected := sorted(set(found) - set(expected)):
        raise VoiceError(f"{where}: unexpected tensor {unexpected[0]} ({len(unexpected)} in all)")


def _check_shapes(path: Path, expected: Mapping[str, list[int]]) -> None:
    """VoiceError where a tensor of the file at `path` has another shape than `expected`, or an unknown dtype."""
    found = _opened(path, partial(_headers, names=list(expected)))
    for (name, wanted), (shape, dtype) in zip(expected.items(), found, strict=True):
        if shape != wanted:
            raise VoiceError(f"{path}: {name} is {shape}, config.json asks for {wanted}")
        if dtype not in _DTYPES:
            raise VoiceError(f"{path}: {name} is {dtype}, expected one of {', '.join(_DTYPES)}")


def _headers(file: Any, names: list[str]) -> list[tuple[list[int], str]]:
    """Shape and dtype of tensors, their data untouched; a name the index promises in vain raises SafetensorError."""
    views = [file.get_slice(name) for name in names]
    return [(list(view.get_shape()), view.get_dtype()) for view in views]


def _ignored(name: str, config: DecoderConfig) -> bool:
    """True for what HF itself ignores: a copy of a tied head, stored rotary frequencies, GPT-2's causal mask."""
    stored = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")
    return (config.tied_head and name == "lm_head.weight") or name.endswith(stored)


def _opened(path: Path, use: Callable[[Any], Any]) -> Any:
    """What `use` makes of an open safetensors file; VoiceError names a file that is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return use(file)
    except FileNotFoundError:
        raise VoiceError(f"{path} is missing") from None
    except (SafetensorError, OSError) as error:
        raise VoiceError(f"{path} is damaged: {error}") from None
