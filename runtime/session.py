"""The seam to ONNX Runtime: how a graph is opened, and the few methods the runtime needs of an open one."""

import os
import platform
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from sottovoce.errors import BundleError, ContractError, OptionError
from sottovoce.runtime.memory import give_back

SPIN_US: Final = 100
"""How long an idle thread looks for work: waking one up takes a seventh of a step of small products."""

SPIN_BOUNDED: Final = "1.31"
"""The first engine that is known to keep to SPIN_US; older ones would spin from one step to the next."""

QDQ_BLOCK: Final = 128
"""Blocks that the engine makes of a scale per channel; left alone it makes them of 32, with four times the scales."""

UNPLANNED: Final = ("prefill", "decode")
"""Graphs of the portable flavour, whose activations are megabytes: planned, they are one block more, beside the pieces
that the first run took, and new at every run.
"""

NO_TILES: Final = "ORT_GQA_DISABLE_FLASH_ATTENTION"
"""What the engine asks of the environment when it opens a graph, not of the graph, before it attends in tiles."""

_OPENING = threading.RLock()

Array = NDArray[Any]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Node(Protocol):
    """One input or output as a session reports it."""

    name: str
    type: str
    shape: Sequence[int | str | None]


class Session(Protocol):
    """What the runtime asks of a graph; `Graph` has it, and so do the fakes in tests."""

    def get_inputs(self) -> Sequence[Node]:
        """The graph's inputs."""
        ...

    def get_outputs(self) -> Sequence[Node]:
        """The graph's outputs."""
        ...

    def io_binding(self) -> Any:
        """An empty binding of names to buffers."""
        ...

    def run_with_iobinding(self, binding: Any) -> None:
        """Run over bound buffers."""
        ...

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        """Run over arrays and return the outputs called `names`."""
        ...


class NoGraph:
    """In the place of an ONNX graph, where there is none: nothing contradicts the manifest, is bound, or runs."""

    def get_inputs(self) -> Sequence[Node]:
        """None."""
        return ()

    def get_outputs(self) -> Sequence[Node]:
        """None."""
        return ()

    def io_binding(self) -> Any:
        """See `Session`."""
        raise NotImplementedError

    def run_with_iobinding(self, binding: Any) -> None:
        """See `Session`."""
        raise NotImplementedError

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        """See `Session`."""
        raise NotImplementedError


class Graph:
    """An open graph: what ONNX Runtime refuses to run is one line that names the graph."""

    def __init__(self, path: Path, session: Any) -> None:
        """Run `session`, which `path` was opened as."""
        self.path = path
        self._session = session

    def get_inputs(self) -> Sequence[Node]:
        """See `Session`."""
        nodes: Sequence[Node] = self._session.get_inputs()
        return nodes

    def get_outputs(self) -> Sequence[Node]:
        """See `Session`."""
        nodes: Sequence[Node] = self._session.get_outputs()
        return nodes

    def io_binding(self) -> Any:
        """See `Session`."""
        return self._session.io_binding()

    def run_with_iobinding(self, binding: Any) -> None:
        """See `Session`; raises ContractError where the graph cannot take what it is given."""
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's own exceptions share no public base
            raise self._refusal(error) from None

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        """See `Session`; raises ContractError where the graph cannot take what it is given."""
        try:
            outputs: list[Array] = self._session.run(names, feeds)
        except Exception as error:
            raise self._refusal(error) from None
        return outputs

    def _refusal(self, error: Exception) -> ContractError:
        """What to tell of `error`: the likely cause is a token id or a length that the graph was not made for."""
        said = first_line(error)
        return ContractError(
            f"{self.path} and the ids or sizes in manifest.json or text.json do not go together: {said}"
        )


def first_line(error: Exception) -> str:
    """The first line of ONNX Runtime's message, cut where it goes on and on."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def thread_count(asked: int | None) -> int:
    """Threads per graph: those `asked` for, else the processors this process may use, at most 4.

    A step is bound by memory, so that more only wait. Raises OptionError below 1.
    """
    if asked is not None:
        if asked < 1:
            raise OptionError(f"--threads {asked}: at least 1 is needed")
        return asked
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, 4)


def open_session(path: Path, threads: int, adjust: Callable[[Any], None] | None = None) -> Session:
    """`path` opened on the CPU with `threads` threads that sleep while idle.

    Where the engine can, they look for more work for SPIN_US before they do: from one operator to the next, not from
    one step to the next. `adjust` may change the SessionOptions. Raises BundleError where ONNX Runtime refuses the
    graph.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = path.stem not in UNPLANNED
    options.log_severity_level = 4  # errors are raised, and said once
    bounded = _version(onnxruntime.__version__) >= _version(SPIN_BOUNDED)
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(bounded)))
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.qdq_matmulnbits_block_size", str(QDQ_BLOCK))
    if adjust:
        adjust(options)
    try:
        with untiled():
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions share no public base
        raise BundleError(f"{path}: onnxruntime cannot open it: {first_line(error)}") from None
    give_back(path.parent)
    return Graph(path, session)


@contextmanager
def untiled() -> Iterator[None]:
    """Graphs that are opened meanwhile attend without tiles, on x86, unless the environment says otherwise.

    Tiles are for prefixes of thousands of tokens in one run. Over a single query they take up to twice as long, since
    they miss the kernel for it (`benchmarks.attention`); which is faster on ARM was not measured. One thread opens
    graphs at a time: the environment is everybody's.
    """
    with _OPENING:
        if platform.machine().lower() not in ("x86_64", "amd64") or NO_TILES in os.environ:
            yield
            return
        os.environ[NO_TILES] = "1"
        try:
            yield
        finally:
            del os.environ[NO_TILES]


def check_onnxruntime(minimum: str) -> None:
    """Raise BundleError where the installed onnxruntime is older than `minimum`."""
    if _version(onnxruntime.__version__) < _version(minimum):
        raise BundleError(
            f"this bundle needs onnxruntime {minimum}, found {onnxruntime.__version__}: pip install -U onnxruntime"
        )


def _version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: `1.31.1rc2` → (1, 31, 1)."""
    return tuple(int(n) for n in re.findall(r"\d+", text)[:3])
