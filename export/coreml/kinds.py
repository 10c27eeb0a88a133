"""What Apple's two runtimes read: Core ML packages, and Core AI assets (beta). Where they differ, and nothing else."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from torch import Tensor

from sottovoce.export.coreml.convert import Compression, Traceable, write_package
from sottovoce.export.coreml.coreai import half_written, write_asset
from sottovoce.export.coreml.interpreted import InterpretedEngine
from sottovoce.export.coreml.written import AnyDecoder, Written, load_written
from sottovoce.export.mil.package import load_package
from sottovoce.runtime.coreai import AIEngine
from sottovoce.runtime.coreml import OpenEngine


@dataclass(frozen=True)
class Kind:
    """Files end in `suffix`; `write` makes one, `open_engine` runs it here, as `how` says in reports.

    `written` gives the decoder as the file holds it; `formats` are those of its weights, the first one if none is
    asked for. `tool` makes it, and `warning` is what an export says of it.
    """

    flavour: Literal["coreml", "coreai"]
    suffix: str
    tool: str
    how: str
    formats: tuple[Compression, ...]
    write: Callable[[Mapping[str, Traceable], Compression, Path], None]
    open_engine: OpenEngine
    written: Callable[[Path, AnyDecoder, Tensor], Written]
    warning: str | None = None

    @property
    def decoder(self) -> str:
        """The decoder's name in a bundle."""
        return f"decoder{self.suffix}"

    @property
    def codec(self) -> str:
        """The codec's."""
        return f"codec{self.suffix}"


COREML: Final = Kind(
    "coreml",
    ".mlpackage",
    "coremltools",
    "interpreted",
    ("int8", "fp16", "int4", "palette4"),
    write_package,
    InterpretedEngine,
    lambda path, decoder, head: load_written(load_package(path), decoder, head),
)

COREAI: Final = Kind(
    "coreai",
    ".aimodel",
    "coreai-torch",
    "run by Core AI",
    ("fp16",),
    write_asset,
    AIEngine,
    half_written,
    "Core AI is beta: the asset was run by Core AI's own runtime, not on Apple hardware",
)

KINDS: Final[dict[str, Kind]] = {kind.flavour: kind for kind in (COREML, COREAI)}
"""By flavour of the manifest."""


class Driven:
    """`drive.Engine` over an engine without states."""

    def __init__(self, kind: Kind, path: Path, functions: tuple[str, ...]) -> None:
        """Open `functions` of the file in `path`."""
        self._engine = kind.open_engine(path, functions)

    def run(self, function: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `drive.Engine`."""
        return dict(self._engine.predict(function, inputs, None))

    def fill(self, states: Mapping[str, np.ndarray]) -> None:
        """See `drive.Engine`: there are none."""

    def states(self) -> dict[str, np.ndarray]:
        """See `drive.Engine`: there are none."""
        return {}
