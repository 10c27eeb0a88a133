"""The figures of a report as text: what `profile` and `demo` print, and the page shows."""

from collections.abc import Sequence

from sottovoce.devices.report import Profile
from sottovoce.runtime.table import columns, size_text


def side_by_side(lists: Sequence[Sequence[tuple[str, str]]]) -> str:
    """Lists of the same figures as a table, one column each."""
    return columns([[rows[0][0], *(value for _, value in rows)] for rows in zip(*lists, strict=True)])


def figures(profile: Profile) -> list[tuple[str, str]]:
    """Name and value of every figure of a report."""
    memory, timing = profile.memory, profile.timing
    return [
        ("bundle", profile.bundle),
        ("weights", profile.weights),
        ("cache", profile.cache),
        ("peak memory", size_text(memory.peak)),
        ("  weights on disk", size_text(memory.weights)),
        ("  cache", size_text(memory.cache)),
        ("  rest (Python, engine, tables)", size_text(memory.rest)),
        ("resident at the end", size_text(memory.resident)),
        ("  proportional (PSS)", "-" if memory.proportional is None else size_text(memory.proportional)),
        *((f"peak after {stage.name}", size_text(stage.memory.peak)) for stage in profile.stages),
        ("load", milliseconds(sum(timing.load.values()))),
        ("TTFA, first utterance", milliseconds(timing.first_ttfa)),
        ("TTFA", milliseconds(timing.ttfa)),
        ("RTF", "-" if timing.rtf is None else f"{timing.rtf:.3f}"),
        ("step p50", milliseconds(timing.step_p50)),
        ("step p95", milliseconds(timing.step_p95)),
        ("tokens per second", "-" if timing.tokens_per_second is None else f"{timing.tokens_per_second:.1f}"),
        ("graph runs per second of speech", "-" if timing.runs_per_second is None else f"{timing.runs_per_second:.1f}"),
        ("growth per utterance", "-" if memory.slope is None else size_text(round(memory.slope))),
        ("pages read again while speaking", str(faults(profile))),
        ("speech per utterance", "-" if timing.audio is None else f"{timing.audio:.2f} s"),
    ]


def slower_lines(profiles: Sequence[Profile]) -> list[str]:
    """A line for each report of other weights than fp32 whose steps take longer than fp32's among them.

    Only reports of one text from one machine, with as many threads, are held against each other.
    """
    lines = []
    for one in profiles:
        for other in profiles:
            ours, theirs = one.timing.step_p50, other.timing.step_p50
            alike = (one.machine, one.threads, one.text) == (other.machine, other.threads, other.text)
            if one.weights != "fp32" and other.weights == "fp32" and alike and ours and theirs and ours > theirs:
                times = f"{milliseconds(ours)} a step, {other.bundle} {milliseconds(theirs)}"
                lines.append(f"{one.bundle}: {one.weights} is slower than fp32 on this machine ({times})")
    return lines


def faults(profile: Profile) -> int:
    """Pages that had to come from storage once the bundle was loaded: what makes a memory that is too small slow."""
    counts = {stage.name: stage.page_faults for stage in profile.stages}
    return counts.get("steady", 0) - counts.get("load", 0)


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds."""
    return "-" if seconds is None else f"{seconds * 1e3:.1f} ms"


def machine_line(profile: Profile) -> str:
    """The machine, versions and method of a report, in one line."""
    machine = profile.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    how = f"{profile.threads} thread{'s' * (profile.threads > 1)}, median of {profile.runs}"
    if profile.limit:
        how += f"; within {size_text(profile.limit.size)} ({profile.limit.how})"
    return f"{machine.processor}, {machine.cores} cores, {machine.system}; {versions}; {how}"
