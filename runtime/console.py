"""What every command shares: errors become one line and an exit status. Imports nothing heavy."""

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Final

from sottovoce.errors import FitError, MissingExtraError, ParityError, SottovoceError

EXTRAS: Final = {
    "tokenizers": "text",
    "soxr": "audio",
    "torch": "export",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "optimum": "export",
    "safetensors": "export",
    "rich": "export",
    "coremltools": "coreml",
    "coreai": "coreai",
    "coreai_torch": "coreai",
    "pocketsphinx": "evaluate",
    "jiwer": "evaluate",
    "accelerate": "compress",
    "matplotlib": "compress",
    "peft": "compress",
    "jinja2": "report",
}
"""The extra that brings each optional module."""


def guarded(run: Callable[[], int], debug: bool = False) -> int:
    """The exit status of `run`: its own, or 1 for a failed gate, 2 for bad input, 130 for Ctrl-C or SIGTERM.

    Errors of this package, of the operating system, and missing extras are printed as one line, unless `debug`.
    """
    try:
        with _ending():
            return run()
    except BrokenPipeError:
        # The reader has had enough; keep the interpreter from complaining when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        module = (error.name or "").split(".")[0]
        if debug or module not in EXTRAS:
            raise
        return report(MissingExtraError(module, EXTRAS[module]))
    except (SottovoceError, OSError) as error:
        if debug:
            raise
        return report(error)


@contextlib.contextmanager
def _ending() -> Iterator[None]:
    """Make being asked to end (SIGTERM) an interruption like Ctrl-C, which leaves no half-written file behind."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set a handler
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def report(error: Exception) -> int:
    """Print `error` as one line on stderr; its exit status."""
    print("sottovoce:", " ".join(str(error).split()), file=sys.stderr)
    return 1 if isinstance(error, ParityError | FitError) else 2


def add_debug(parser: argparse.ArgumentParser) -> None:
    """The option every command has."""
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
