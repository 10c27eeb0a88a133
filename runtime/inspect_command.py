"""`sottovoce inspect`: what a bundle holds, from its manifest and files alone; no graph is opened."""

import argparse
import json
from pathlib import Path
from typing import Final

from sottovoce.runtime.bundle import check_files
from sottovoce.runtime.manifest import CodecSpec, Manifest, PromptSpec, WeightFormat, WeightSpec, read_manifest
from sottovoce.runtime.table import columns, size_text

UNITS: Final = {"token": "tokens", "patch": "patches"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `inspect`."""
    parser.add_argument("bundle", type=Path, help="bundle folder")


def run(args: argparse.Namespace) -> int:
    """Check the files against the manifest, print it as a table and return exit status 0."""
    manifest = read_manifest(args.bundle)
    check_files(args.bundle, manifest)
    rows = [*decoder_rows(manifest)]
    if manifest.prompt:
        rows += prompt_rows(manifest.prompt)
    if manifest.codec:
        rows += codec_rows(manifest.codec)
    print(columns(rows, indent=""))
    for title, lines in sections(manifest).items():
        print(f"\n{title}\n{lines}")
    return 0


def decoder_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """The decoder: formats, cache, head, provenance."""
    group, *small = manifest.cache.groups
    return [
        ("parity", manifest.parity),
        ("weights", weights_text(manifest.weights)),
        ("cache", f"{size_text(manifest.cache.bytes)}, constant while it speaks"),
        ("  slots", f"prefix {group.prefix} + window {group.window} {UNITS[group.unit]}, {group.dtype}"),
        ("  layers × KV heads × head_dim", f"{group.layers} × {group.kv_heads} × {group.head_dim}"),
        *((f"  {each.name}", f"{each.window} {UNITS[each.unit]}, held by the {each.held}") for each in small),
        *([("tokens to a step", str(manifest.patch.size))] if manifest.patch else []),
        ("longest position", str(manifest.max_position - 1)),
        ("logits", str(sum(stop - start for start, stop in manifest.head.ids))),
        ("flavour", f"{manifest.flavour}, onnxruntime ≥ {manifest.min_onnxruntime}"),
        ("source", manifest.source[:16]),
    ]


def weights_text(spec: WeightSpec) -> str:
    """Formats with their blocks, in a line."""
    layers = _scales(spec.layers, spec.block_size)
    head, embedding = (_scales(name, spec.head_block) for name in (spec.head, spec.embedding))
    rounding = " by GPTQ" if spec.rounding == "gptq" else ""
    rest = f", {len(spec.overrides)} exceptions" if spec.overrides else ""
    return f"{layers}{rounding}{rest}; head {head}, embedding {embedding}"


def _scales(name: WeightFormat, block: int | None) -> str:
    """A format, and what shares a scale."""
    if block is None or name not in ("int8", "int4"):
        return name
    return f"{name} in blocks of {block}" if block else f"{name} per channel"


def prompt_rows(prompt: PromptSpec) -> list[tuple[str, str]]:
    """What a prefix may hold."""
    return [
        ("text per sentence", f"≤ {prompt.max_text_tokens} tokens"),
        ("speaker prompt", f"≤ {prompt.max_prompt_codes} codes"),
    ]


def codec_rows(codec: CodecSpec) -> list[tuple[str, str]]:
    """Rates and delay of the codec."""
    rate = codec.sample_rate / codec.hop
    return [
        ("codec", f"{codec.sample_rate} Hz, {rate:g} codes a second"),
        ("  decoder", codec.weights),
        ("  delay", f"{codec.delay / codec.sample_rate * 1e3:g} ms"),
    ]


def sections(manifest: Manifest) -> dict[str, str]:
    """Lists of any length by title, empty ones left out."""
    files = [(name, size_text(entry.size), entry.sha256[:16]) for name, entry in manifest.files.items()]
    total = ("total", size_text(sum(entry.size for entry in manifest.files.values())), "")
    found = {
        "files": columns([*files, total]),
        "made with": columns(list(manifest.tools.items())) if manifest.tools else "",
        "compression": "\n".join(f"  {json.dumps(step, ensure_ascii=False)}" for step in manifest.history),
        "warnings": "\n".join(f"  {line}" for line in manifest.warnings),
    }
    return {title: lines for title, lines in found.items() if lines}
