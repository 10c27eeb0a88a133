"""For phones: graphs in ONNX Runtime's own format, and the list of operators that a reduced build of it must hold.

A full package of ONNX Runtime opens `.onnx` as fast and in less memory: this is for builds that know nothing else.
Source: onnxruntime.ai, "ORT model format" and "Custom build"; the tools come with onnxruntime itself. Weights go
into the `.ort` files, which need no `.data` beside them.
"""

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Final

from sottovoce.errors import BundleError
from sottovoce.export.bundle_writer import staged_folder
from sottovoce.runtime.session import first_line

OPERATORS: Final = "required_operators.config"
"""What `--include_ops_by_config` of onnxruntime's build takes."""


def write_mobile(bundle: Path, folder: Path) -> tuple[str, ...]:
    """Every graph of `bundle` as `.ort` in the new `folder`, with OPERATORS; returns their names.

    Graphs are optimised for any ARM processor. Raises OptionError where `folder` exists, BundleError where the engine
    cannot convert a graph.
    """
    from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

    logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)  # it tells where the list lies meanwhile
    with staged_folder(folder, force=False) as stage:
        try:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)  # the tool leaves files to the interpreter
                convert_onnx_models_to_ort(bundle, stage, [OptimizationStyle.Fixed], target_platform="arm")
        except Exception as error:  # ONNX Runtime's own exceptions share no public base
            raise BundleError(f"{bundle} cannot be converted for phones: {first_line(error)}") from None
        listed = stage / OPERATORS
        lines = [line for line in listed.read_text().splitlines() if not line.startswith("#")]  # paths of this machine
        listed.write_text("\n".join(lines) + "\n")
        return tuple(sorted(path.name for path in stage.iterdir()))
