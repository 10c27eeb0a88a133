"""What `export --target coreml` and `verify` of a Core ML bundle do on the command line."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from sottovoce.errors import OptionError
from sottovoce.export.bundle_writer import check_target
from sottovoce.export.coreml.assemble import CoreProgress, export_coreml
from sottovoce.export.coreml.bundle_verify import CoreParity, read_core_parity, verify_coreml
from sottovoce.export.coreml.convert import Compression
from sottovoce.export.coreml.kinds import COREAI, KINDS
from sottovoce.export.coreml.plan import CorePlan, CoreRequest, plan_coreml
from sottovoce.export.coreml.verify import CoreReport
from sottovoce.export.show import show_rows, show_warnings
from sottovoce.export.verify import PARITY
from sottovoce.models.voice import Voice
from sottovoce.runtime.output import written_whole
from sottovoce.runtime.table import size_text


def export(args: argparse.Namespace) -> int:
    """Export (or only plan) for Core ML or Core AI; the exit status, 1 where a kept bundle failed its gates."""
    kind = KINDS[args.target]
    weights: Compression = args.weights or kind.formats[0]
    if weights not in kind.formats:
        raise OptionError(f"--target {kind.flavour} has no --weights {weights}: {', '.join(kind.formats)}")
    if args.stateful and kind is COREAI:
        raise OptionError("--stateful goes with --target coreml: Core AI assets (beta) have inputs and outputs alone")
    if (args.block, args.head, args.weights_recipe) != (None, None, None) or args.cache == "int8":
        raise OptionError(
            "--block, --head, --weights-recipe and --cache int8 go with --target onnx: Apple's caches are fp16, "
            "and all matrices have one format"
        )
    window = (args.window, args.prefix, args.decoder_only, args.head_ids)
    request, console = CoreRequest(weights, *window, args.stateful, kind), Console()
    if args.dry_run:
        _show_plan(console, plan_coreml(Voice.open(args.voice, args.decoder_only), request), request)
        return 0
    if args.output is None:
        raise OptionError("-o BUNDLE is missing: where to write (or --dry-run to write nothing)")
    check_target(args.output, args.force)
    progress = CoreProgress(
        stage=lambda text: print(text, file=sys.stderr), verified=lambda parity: show_core_parity(console, parity)
    )
    keep = {"force": args.force, "keep_failed": args.keep_failed}
    manifest = export_coreml(args.voice, args.output, request, **keep, progress=progress)
    show_warnings(console, manifest.warnings)
    size = sum(entry.size for entry in manifest.files.values())
    print(f"{args.output}: {size_text(size)}, cache {size_text(manifest.cache.bytes)}")
    return 0 if manifest.parity == "passed" else 1


def verify(bundle: Path, against: Path | None, output: Path | None, decoder_only: bool) -> int:
    """Show the report in `bundle`, or measure again against a voice; 1 where a gate fails."""
    console = Console()
    if against is None:
        parity = read_core_parity(bundle / PARITY)
        show_core_parity(console, parity)
        print("measured at export; --against VOICE measures again")
        return 0 if parity.passed else 1
    parity = verify_coreml(bundle, Voice.open(against, decoder_only=decoder_only))
    show_core_parity(console, parity)
    if output is not None:
        with written_whole(output) as file:
            file.write((json.dumps(asdict(parity), indent=1) + "\n").encode())
    return 0 if parity.passed else 1


def _show_plan(console: Console, plan: CorePlan, request: CoreRequest) -> None:
    """What would be written; a package's size is known once it is converted."""
    group, *nets = plan.cache.groups
    unit = "slots" if group.unit == "token" else "slots of a patch"
    rows = [
        ("prefix P + window W", f"{group.prefix} + {group.window} {unit}, fp16, written in place"),
        *((net.name, f"{net.window} slots, fp16, written in place") for net in nets),
        ("cache, constant while it speaks", size_text(plan.cache.bytes)),
        ("longest position", str(plan.options.max_position - 1)),
        ("weights", request.weights),
        ("caches", "states" if request.stateful else "inputs and outputs"),
    ]
    show_rows(console, f"{request.kind.decoder} (functions {', '.join(plan.layout.functions)})", rows)
    show_warnings(console, plan.warnings)


def show_core_parity(console: Console, parity: CoreParity) -> None:
    """The figures of a report, then its verdict, one line per missed gate."""
    for engine, found in zip(parity.engine, parity.decoder, strict=True):
        show_rows(console, f"decoder ({parity.weights}) against torch: {engine}", _rows(found))
        for case, step, ours, theirs in found.different:
            console.print(f"  {case}, step {step}: chose logit {ours}, the voice {theirs}", highlight=False)
    for unit, counts in parity.placement.items():
        text = ", ".join(f"{count} on {device}" for device, count in counts.items())
        console.print(f"ops as Core ML would place them, {unit}: {text}", highlight=False)
    if parity.codec:
        rows = [
            ("codes compared", str(parity.codec.codes)),
            ("largest sample error", f"{parity.codec.largest_error:.1e}"),
            ("PSNR", f"{parity.codec.psnr:.1f} dB"),
        ]
        show_rows(console, f"codec against torch: {parity.engine[0]}", rows)
    for line in parity.lint:
        console.print(f"lint: {line}", highlight=False, soft_wrap=True)
    for line in parity.failures:
        console.print(f"failed: {line}", style="red", highlight=False, soft_wrap=True)
    console.print(f"parity: {'passed' if parity.passed else 'failed'}", style="bold", highlight=False)


def _rows(found: CoreReport) -> list[tuple[str, str]]:
    """One engine's figures."""
    error = found.weight_error
    return [
        ("cases", str(len(found.cases))),
        ("steps, all cases", str(found.steps)),
        ("ring wraps, longest case", f"{found.wraps:.1f}"),
        ("largest weight error, of its row's largest", "–" if error is None else f"{error:.1e}"),
        ("rms logit error, weights as written", f"{found.logit_error:.1e}"),
        ("PSNR of logits, weights as written", f"{found.psnr:.1f} dB"),
        ("rms cache error after prefill", f"{found.prefill_error:.1e}"),
        ("rms cache error at the end", f"{found.cache_error:.1e}"),
        ("rms logit error, against the voice", f"{found.voice_error:.1e}"),
        ("top-1 agreement with the voice, all steps", f"{found.top1:.2%}"),
        (f"top-1 agreement, {found.margin_steps} steps with a margin", f"{found.margin_top1:.2%}"),
    ]
