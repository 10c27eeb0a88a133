"""Writes a compressed voice: new weights and section, everything else as the voice has it; whole or not at all."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sottovoce.errors import OptionError, OutputError
from sottovoce.models.checkpoint import read_json
from sottovoce.models.decoder import Decoder
from sottovoce.models.patch.decoder import PatchDecoder
from sottovoce.models.voice import Voice, VoiceSpec, save_voice
from sottovoce.runtime.paths import inside

_BESIDE = ("LICENSE*", "LICENCE*", "NOTICE*", "tokenizer*.json")
"""Files that go along where a voice has them. Its card does not: it tells of other weights."""


def check_free(target: Path) -> None:
    """Raise OptionError where something lies at `target`: worth knowing before hours of work."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OptionError(f"{target} exists: choose another --output, or remove it")


def check_share(voice: Voice, target: Path, share: bool) -> None:
    """Raise OptionError where `target` cannot share the codec, text and presets of `voice`: it must lie beside them."""
    if share and target.resolve().parent != voice.home.resolve().parent:
        raise OptionError(f"--share: {target} must lie beside {voice.home}, whose codec, text and presets it is to use")


def check_tokens(voice: Voice, method: str) -> None:
    """Raise VoiceError where `voice` speaks in patches: no `method` knows how to train what reads them."""
    voice.refuse_patches(f"compress {method} needs a voice of tokens; patch last: prune -> window -> patch")


def write_voice(
    voice: Voice, decoder: Decoder | PatchDecoder, spec: VoiceSpec, target: Path, share: bool = False
) -> None:
    """Write the folder `target`: `decoder` in fp16, `spec`, and codec, text, presets and licences of `voice`.

    To `share` is to leave codec, text and presets where `voice` has them, beside `target`. Raises OptionError where
    `target` is taken or `check_share` does, OutputError where the disk refuses: nothing is left behind then.
    """
    check_free(target)
    check_share(voice, target, share)
    spec = replace(spec, base=voice.home.resolve().name if share else None)
    hf = dict(voice.checkpoint.hf)
    for key in {"dtype", "torch_dtype"} & hf.keys():
        hf[key] = "float16"
    with _staged(target) as stage:
        for folder, name in _belongings(voice, spec):
            _copy(inside(folder, name), stage / name)
        save_voice(decoder, hf, spec, stage)


def history_entry(voice: Voice, method: str, **facts: Any) -> list[dict[str, Any]]:
    """The history of what `method` makes of `voice`: the voice's own, and one entry with the hash of its weights."""
    return [*voice.complete().history, {"method": method, "source": voice.checkpoint.sha256(), **facts}]


def _belongings(voice: Voice, spec: VoiceSpec) -> list[tuple[Path, str]]:
    """What a voice is made of beside its weights: the folders and the names in them."""
    beside = {(voice.folder, path.name) for pattern in _BESIDE for path in voice.folder.glob(pattern)}
    if spec.base is not None:
        return sorted(beside)
    data, presets = read_json(voice.text_file).get("file"), (voice.home / "prompts").is_dir()
    names = [spec.codec, spec.text.file, *([data] if data else []), *(["prompts"] if presets else [])]
    return sorted(beside | {(voice.home, name) for name in names})


def _copy(source: Path, target: Path) -> None:
    """A file, or a folder with what is in it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A folder beside `target` that becomes it when the block ends and vanishes when it raises."""
    stage = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        stage.mkdir(parents=True)
        yield stage
        stage.replace(target)  # an empty folder at target is replaced, one with files never
    except OutputError as error:
        raise OutputError(str(error).replace(str(stage), str(target))) from error
    except (OSError, shutil.Error) as error:
        raise OutputError(f"{target} cannot be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
