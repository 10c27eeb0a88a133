"""Plans and parity reports as tables: coloured on a terminal, plain text in a pipe."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from sottovoce.export.plan import Plan
from sottovoce.export.verify import BundleParity
from sottovoce.runtime.inspect_command import weights_text
from sottovoce.runtime.table import size_text


def show_rows(console: Console, title: str, rows: Iterable[tuple[str, str]]) -> None:
    """A title and a table of two columns, the second one aligned to the right."""
    grid = Table(show_header=False, box=None, padding=(0, 2))
    grid.add_column()
    grid.add_column(justify="right")
    for name, value in rows:
        grid.add_row(name, value)
    console.print(title, style="bold", highlight=False, soft_wrap=True)
    console.print(grid)


def show_plan(console: Console, plan: Plan) -> None:
    """What would be written, file by file, and the memory its cache takes."""
    group, total = plan.parts.cache.groups[0], sum(plan.sizes.values())
    files = [(name, size_text(size)) for name, size in plan.sizes.items()]
    show_rows(console, "files (parity.json and manifest.json come on top)", [*files, ("total", size_text(total))])
    cache = [
        ("prefix P + window W", f"{group.prefix} + {group.window} slots, {group.dtype}"),
        *([("tokens to a step", str(plan.parts.patch.size))] if plan.parts.patch else []),
        ("cache, constant while it speaks", size_text(plan.parts.cache.bytes)),
        ("longest position", str(plan.parts.max_position - 1)),
        ("weights", weights_text(plan.parts.weights)),
    ]
    show_rows(console, "decoder", cache)
    show_warnings(console, plan.warnings)


def show_warnings(console: Console, warnings: Iterable[str]) -> None:
    """One line per warning."""
    for line in warnings:
        console.print(f"warning: {line}", style="yellow", highlight=False, soft_wrap=True)


def show_parity(console: Console, parity: BundleParity) -> None:
    """The figures of a report, then its verdict, one line per missed gate."""
    found = parity.decoder
    rows = [
        ("cases", str(len(found.cases))),
        ("steps, all cases", str(found.steps)),
        ("ring wraps, longest case", f"{found.wraps:.1f}"),
        ("largest logit error", f"{found.max_error:.1e}"),
        ("  as a share of the logits' deviation", f"{found.relative_error:.1e}"),
        ("top-1 agreement, all steps", f"{found.top1:.2%}"),
        (f"top-1 agreement, {found.margin_steps} steps with a margin", f"{found.margin_top1:.2%}"),
    ]
    rows.append(("KL of what it chooses from, nats per step", f"{found.kl:.1e}"))
    if parity.weights == "fp32":
        rows.append(("identical greedy tokens", "yes" if found.greedy_identical else "no"))
    show_rows(console, f"decoder ({parity.weights}) against torch", rows)
    if parity.written:
        rows = [
            ("steps, all cases", str(parity.written.steps)),
            ("ring wraps, longest case", f"{parity.written.wraps:.1f}"),
            ("largest weight error, steps", f"{parity.written.weight_error:.3f}"),
            ("largest logit error, float arithmetic", f"{parity.written.float_error:.1e}"),
            ("rms logit error, integer arithmetic", f"{parity.written.integer_error:.1e}"),
        ]
        if parity.written.cache_error is not None:
            rows.append(("rms logit error of the int8 cache alone", f"{parity.written.cache_error:.1e}"))
        show_rows(console, "decoder against torch on the weights written", rows)
    if parity.drawn:
        rows = [
            ("tokens drawn", str(parity.drawn.tokens)),
            ("the sampler's from the graph's logits", f"{parity.drawn.graph:.2%}"),
            *([("the sampler's from torch's", f"{parity.drawn.torch:.2%}")] if parity.drawn.torch is not None else []),
        ]
        show_rows(console, "what decoder.onnx draws against the runtime's sampler", rows)
    if parity.codec:
        rows = [
            ("codes compared", str(parity.codec.codes)),
            ("largest sample error", f"{parity.codec.decoder_error:.1e}"),
            ("streamed against whole", f"{parity.codec.stream_error:.1e}"),
            ("noise, share of power", f"{parity.codec.noise:.1e}"),
            ("encoder codes equal", f"{parity.codec.encoder_agreement:.2%}"),
        ]
        show_rows(console, "codec against torch", rows)
    for line in parity.failures:
        console.print(f"failed: {line}", style="red", highlight=False, soft_wrap=True)
    console.print(
        "parity: passed" if parity.passed else "parity: failed", style="bold", highlight=False, soft_wrap=True
    )
