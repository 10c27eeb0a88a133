"""A torch module → a Core AI asset (beta): the functions of a Core ML package in half precision, through coreai-torch.

Assets are the successor of packages (iOS and macOS 27). Weights are fp16, each once for all functions.
"""

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from sottovoce.errors import MissingExtraError, OptionError, OutputError
from sottovoce.export.coreml.convert import Compression, Traceable, quiet
from sottovoce.export.coreml.written import AnyDecoder, Written

METADATA: Final = "metadata.json"


def write_asset(functions: Mapping[str, Traceable], compression: Compression, target: Path) -> None:
    """Convert each function and write them as one asset, `target`; the modules are in half precision after that.

    Raises OptionError for a compression other than fp16, MissingExtraError without coreai-torch, OutputError where the
    disk refuses.
    """
    if compression != "fp16":
        raise OptionError(f"--weights {compression}: Core AI assets (beta) are made in fp16 alone")
    with quiet():
        try:
            import coreai_torch
        except ModuleNotFoundError:
            raise MissingExtraError("coreai_torch", "coreai") from None
        converter = coreai_torch.TorchConverter(mode=coreai_torch.TorchConverter.Mode.RELEASE)
        for name, traceable in functions.items():
            names = {"input_names": list(traceable.inputs), "output_names": list(traceable.outputs)}
            exported = _export(traceable, coreai_torch.get_decomp_table())
            converter.add_exported_program(exported, **names, entrypoint_name=name)
        program = converter.to_coreai()
    try:
        program.save_asset(target)
        _forget_when(target / METADATA)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(target, ignore_errors=True)
        raise OutputError(f"{target} cannot be written: {error}") from error


@torch.no_grad()
def half_written(asset: Path, decoder: AnyDecoder, head: Tensor) -> Written:
    """`decoder` and its kept `head` rows [V', d] rounded as an asset's are; an asset's own cannot be read back."""
    rounded = copy.deepcopy(decoder)
    for parameter in rounded.parameters():
        parameter.copy_(parameter.half())
    return Written(rounded, head.half().float(), None)


def _export(traceable: Traceable, table: Any) -> Any:
    """The module as a torch program in half precision."""
    examples = tuple(torch.zeros(shape, dtype=torch.float16) for shape in traceable.inputs.values())
    with torch.no_grad():
        return torch.export.export(traceable.module.half().eval(), examples).run_decompositions(table)


def _forget_when(path: Path) -> None:
    """Take the date out of an asset's metadata, and order the rest: equal exports are equal."""
    notes = json.loads(path.read_text(encoding="utf-8"))
    notes.pop("creationDate", None)
    path.write_text(json.dumps(notes, indent=1, sort_keys=True) + "\n", encoding="utf-8")
