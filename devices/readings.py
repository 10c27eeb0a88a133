"""What is asked of a measured process, and what it reports: plain figures, for a machine without numpy too."""

from dataclasses import dataclass, field

from sottovoce.devices.memory import Mappings, Memory
from sottovoce.devices.sensors import Sensors


@dataclass(frozen=True)
class Job:
    """What to measure: `runs` utterances after a first one, all of `text`, with `threads` threads.

    `temperature` replaces the voice's (0: greedy).
    """

    bundle: str
    text: str
    runs: int
    threads: int | None
    temperature: float | None = None


@dataclass(frozen=True)
class Stage:
    """One part of a process's life: how long it took, memory and page faults when it ended, and when that was.

    `ended` is in seconds of a clock that all processes of a machine share.
    """

    name: str
    seconds: float
    memory: Memory
    mappings: Mappings | None
    page_faults: int
    ended: float


@dataclass(frozen=True)
class Opening:
    """What opening a graph took: seconds, and bytes by which anonymous memory grew (None where it cannot be told)."""

    graph: str
    seconds: float
    anonymous: int | None


@dataclass(frozen=True)
class Utterance:
    """One utterance in seconds; `ttfa` and `audio` are None where none was made.

    Of a decoder alone `ttfa` is the prefill. `text` is all before the first run of a graph, `prefill` has one figure a
    sentence, `steps` are runs of the decoder, `sampling` the draws after them, `codec` runs of the codec. `runs` counts
    runs of all graphs, `codes` are what was said, `resident` is the memory afterwards (bytes, swapped ones too).
    """

    busy: float
    ttfa: float | None
    audio: float | None
    text: float
    prefill: tuple[float, ...]
    steps: tuple[float, ...]
    sampling: tuple[float, ...]
    codec: tuple[float, ...]
    runs: int
    codes: tuple[int, ...]
    resident: int


@dataclass
class Result:
    """Everything a measured process reports; seconds and bytes.

    `cache_touched` is what of the caches was ever written to: the system gives no memory for the rest. `held` was read
    at the end of the last utterance, its caches still there. `reload` are the stages of loading once more, with the
    files still in the system's memory.
    """

    threads: int = 0
    processors: list[int] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    utterances: list[Utterance] = field(default_factory=list)
    load: dict[str, float] = field(default_factory=dict)
    reload: dict[str, float] = field(default_factory=dict)
    graphs: list[Opening] = field(default_factory=list)
    cache_touched: int = 0
    held: Mappings | None = None


@dataclass(frozen=True)
class Operator:
    """One kind of operator of one graph over an utterance: calls, and seconds in all."""

    graph: str
    kind: str
    calls: int
    seconds: float


@dataclass(frozen=True)
class Instruments:
    """The engine's own account, bytes (None where it gives none): weights it copied or packed, what its arena grew to.

    `operators` come with the costliest first.
    """

    weights: int | None
    arena: int | None
    operators: list[Operator]


@dataclass(frozen=True)
class Sample:
    """A process at one time, in seconds of the machine's clock: bytes by what is behind them, and the sensors."""

    time: float
    anonymous: int
    files: int
    swapped: int
    sensors: Sensors
