"""One or several reports as a page of HTML that holds all it needs: no network, light and dark, desktop and phone."""

from collections.abc import Sequence
from dataclasses import fields
from importlib import resources
from typing import Final

from sottovoce.devices.charts import memory_chart, step_chart
from sottovoce.devices.figures import figures
from sottovoce.devices.report import MemoryTerms, Profile, Spread
from sottovoce.runtime.table import size_text

COLOURS: Final = (
    "#4c8dd6",
    "#7db3ea",
    "#e0913a",
    "#f0c06b",
    "#5aa469",
    "#9ac7a2",
    "#9b7fc7",
    "#c2504d",
    "#8a949e",
)
"""Of the terms of memory and the stages, in order."""


def render(reports: Sequence[Profile]) -> str:
    """The page of `reports`, side by side where there are several; needs the extra `report`."""
    import jinja2

    source = (resources.files("sottovoce.devices") / "page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    tables = [figures(report) for report in reports]
    return environment.from_string(source).render(
        reports=reports,
        figures=[[rows[0][0].strip(), *(value for _, value in rows)] for rows in zip(*tables, strict=True)],
        memory_chart=memory_chart,
        step_chart=step_chart,
        terms=terms,
        shares=shares,
        health=health,
        total=lambda report: sum(row.seconds for row in report.operators) or 1,
        size=size_text,
        ms=milliseconds,
    )


def terms(report: Profile) -> list[tuple[str, int, str]]:
    """Name, bytes and colour of each term of the memory."""
    names = [field.name for field in fields(MemoryTerms) if field.name != "total"]
    values = [getattr(report.terms, name) for name in names]
    return [(name.replace("_", " "), *pair) for name, *pair in zip(names, values, COLOURS, strict=True)]


def shares(report: Profile) -> list[tuple[str, float, str]]:
    """Name, share of the time and colour of each stage of the last utterance."""
    last = report.utterances[-1]
    seconds = {
        "text": last.text,
        "prefill": sum(last.prefill),
        "step": sum(last.steps),
        "sampling": sum(last.sampling),
        "codec": sum(last.codec),
    }
    seconds["rest"] = max(0.0, last.busy - sum(seconds.values()))
    whole = sum(seconds.values()) or 1.0
    return [(name, value / whole, colour) for (name, value), colour in zip(seconds.items(), COLOURS, strict=False)]


def health(report: Profile) -> str:
    """Frequency, temperature and energy, as far as the machine tells."""
    found = report.health
    parts = []
    if found.frequency_first and found.frequency_last:
        parts.append(f"{found.frequency_first / 1e9:.2f} → {found.frequency_last / 1e9:.2f} GHz")
    if found.temperature_max is not None:
        parts.append(f"at most {found.temperature_max:.0f} °C")
    if found.joules is not None:
        parts.append(f"{found.joules:.1f} J")
    if found.throttled is not None:
        parts.append("throttled" if found.throttled else "not throttled")
    return ", ".join(parts) or "the machine does not tell"


def milliseconds(spread: Spread | None, name: str) -> str:
    """One quantile in milliseconds."""
    return "-" if spread is None else f"{getattr(spread, name) * 1e3:.2f}"
