"""Raw readings → the figures of a report."""

import statistics
from collections.abc import Mapping, Sequence

from sottovoce.devices.readings import Instruments, Result, Sample, Stage, Utterance
from sottovoce.devices.report import Health, MemorySplit, MemoryTerms, Spread, StageTime, Timing
from sottovoce.devices.sensors import Sensors
from sottovoce.runtime.manifest import Manifest

THROTTLED = 0.9
"""A last frequency below this share of the first one counts as throttling."""


def split_memory(result: Result, manifest: Manifest) -> MemorySplit:
    """The peak of the whole process, and what it is made of."""
    last = result.stages[-1]
    peak = max(stage.memory.peak for stage in result.stages)
    weights = weight_bytes(manifest)
    return MemorySplit(
        peak=peak,
        resident=last.memory.resident + last.memory.swapped,
        proportional=last.memory.proportional,
        mapped=last.mappings.bundle if last.mappings else None,
        weights=weights,
        cache=manifest.cache.bytes,
        rest=peak - weights - manifest.cache.bytes,
        slope=slope([utterance.resident for utterance in result.utterances[1:]]),
    )


def memory_terms(result: Result, instruments: Instruments | None) -> MemoryTerms | None:
    """What the process held at the end; None where the system or the engine gives no account.

    An arena grows by doubling, and what it has not touched of that, the system has not given: it counts for what memory
    grew by at most. Beyond the arena, growth is `unexplained`.
    """
    stages = {stage.name: stage.mappings for stage in result.stages}
    imports, load, last = stages.get("imports"), stages.get("load"), result.held
    graphs = [opening.anonymous for opening in result.graphs if opening.anonymous is not None]
    if instruments is None or instruments.weights is None or not imports or not load or not last or not graphs:
        return None
    interpreter = imports.anonymous + imports.swapped
    text = load.anonymous + load.swapped - interpreter - sum(graphs)
    grown = last.anonymous + last.swapped - load.anonymous - load.swapped - result.cache_touched
    arena = min(instruments.arena or 0, max(0, grown))
    parts = (last.bundle, instruments.weights, result.cache_touched, arena, sum(graphs) - instruments.weights)
    terms = (*parts, text, interpreter, last.files)
    return MemoryTerms(*terms, unexplained=last.total - sum(terms), total=last.total)


def weight_bytes(manifest: Manifest) -> int:
    """Weights on disk: every .onnx and .data file of the bundle."""
    return sum(entry.size for name, entry in manifest.files.items() if name.endswith((".onnx", ".data")))


def summarise(utterances: Sequence[Utterance], load: Mapping[str, float], reload: Mapping[str, float]) -> Timing:
    """Medians over all utterances but the first, which is reported by its own TTFA."""
    first, *others = utterances
    steps = sorted(second for utterance in others for second in utterance.steps)
    first_sounds = [u.ttfa for u in others if u.ttfa is not None]
    spoken = [u for u in others if u.audio]
    audio = [u.audio for u in spoken if u.audio]
    return Timing(
        load=dict(load),
        reload=dict(reload),
        first_ttfa=first.ttfa,
        ttfa=statistics.median(first_sounds) if first_sounds else None,
        rtf=statistics.median(u.busy / u.audio for u in spoken if u.audio) if spoken else None,
        audio=statistics.median(audio) if audio else None,
        step_p50=quantile(steps, 0.50),
        step_p95=quantile(steps, 0.95),
        tokens_per_second=sum(len(u.codes) for u in others) / sum(steps) if steps else None,
        runs_per_second=sum(u.runs for u in spoken) / sum(audio) if audio else None,
    )


def stage_times(utterances: Sequence[Utterance]) -> tuple[StageTime, ...]:
    """Every stage of speaking, by the first utterance and by the others."""
    first, *others = utterances

    def both(name: str, cold: Sequence[float], warm: Sequence[float]) -> StageTime:
        return StageTime(name, spread(cold), spread(warm))

    return (
        both("text", [first.text], [u.text for u in others]),
        both("prefill", first.prefill, [s for u in others for s in u.prefill]),
        both("step", first.steps, [s for u in others for s in u.steps]),
        both("sampling", first.sampling, [s for u in others for s in u.sampling]),
        both("codec", first.codec, [s for u in others for s in u.codec]),
    )


def spread(seconds: Sequence[float]) -> Spread | None:
    """Quantiles of `seconds`; None of nothing."""
    ordered = sorted(seconds)
    p50, p95 = quantile(ordered, 0.50), quantile(ordered, 0.95)
    return None if p50 is None or p95 is None else Spread(len(ordered), p50, p95, ordered[-1])


def quantile(ordered: list[float], share: float) -> float | None:
    """The value below which `share` of the ascending `ordered` lies (nearest rank); None of nothing."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def slope(values: Sequence[float]) -> float | None:
    """By how much `values` grow from one to the next (least squares); None of fewer than 3."""
    if len(values) < 3:
        return None
    return statistics.linear_regression(range(len(values)), values).slope


def health(samples: Sequence[Sample], ends: tuple[Sensors, Sensors], stages: Sequence[Stage]) -> Health:
    """The machine's state while it spoke: from the end of the load on."""
    loaded = next((stage.ended for stage in stages if stage.name == "load"), 0.0)
    seen = [sample for sample in samples if sample.time >= loaded]
    readings = [ends[0], *(sample.sensors for sample in seen), ends[1]]
    hot = [reading.temperature for reading in readings if reading.temperature is not None]
    working = [sample.sensors.frequency for sample in seen if sample.sensors.frequency is not None]
    first, last = _ends(working)
    return Health(
        first, last, hot[0] if hot else None, max(hot, default=None), _joules(seen), _throttled(ends, first, last)
    )


def _ends(values: list[float]) -> tuple[float | None, float | None]:
    """Medians of the first and of the last quarter."""
    if not values:
        return None, None
    quarter = max(1, len(values) // 4)
    return statistics.median(values[:quarter]), statistics.median(values[-quarter:])


def _joules(samples: Sequence[Sample]) -> float | None:
    """Energy from the first sample to the last: what the processor counts, else what a battery gave."""
    if len(samples) < 2:
        return None
    first, last = samples[0].sensors.joules, samples[-1].sensors.joules
    if first is not None and last is not None and last >= first:  # the counter starts again from 0 now and then
        return last - first
    watts = [sample.sensors.watts for sample in samples if sample.sensors.watts is not None]
    return statistics.mean(watts) * (samples[-1].time - samples[0].time) if watts else None


def _throttled(ends: tuple[Sensors, Sensors], first: float | None, last: float | None) -> bool | None:
    """Whether the machine slowed down; None where it tells nothing."""
    before, after = (reading.throttled for reading in ends)
    fell = None if first is None or last is None else last < THROTTLED * first
    counted = None if before is None or after is None else after > before or after == before == 1
    return None if fell is None and counted is None else bool(fell) or bool(counted)
