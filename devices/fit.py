"""Will a bundle fit a device, and keep up? A prediction from the manifest, every term of it a range with its reason.

Memory: the runtime's own terms were measured (`sottovoce profile` of the reference voices, int8 and fp32; onnxruntime
1.31.1, CPython 3.11, x86-64); weights, cache and what is mapped follow from the bundle's files. Speed: a step reads all
weights of the decoder and the slots in use once, so that memory bandwidth bounds it from below. Reports replace both
guesses.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sottovoce.devices.report import Profile
from sottovoce.devices.table import Device
from sottovoce.runtime.decode import PREFILL_CHUNK
from sottovoce.runtime.manifest import Manifest, PrefillSpec
from sottovoce.runtime.session import QDQ_BLOCK

Verdict = Literal["fits", "tight", "does not fit", "does not run"]

APPLE: Final = ("iOS", "macOS")
"""Systems that have Core ML."""

RUNTIME: Final = {"interpreter": 27.6e6, "libraries": 40.5e6, "graphs": 4.2e6, "text": 1.5e6}
"""Bytes that do not depend on the bundle's size."""

ARENA: Final = 4.2e6
"""Bytes that are used of the engine's arenas, decoder and codec, after prefills of PREFILL_CHUNK tokens."""

PER_TOKEN: Final = (27.0, 2.25)
"""Numbers that a token of a prefix takes where all P are read at once, by hidden and by intermediate size.

With SCORES, held against layers of 256 and 768 at 128, 320 and 640 tokens, and of 896 and 4,864 at 64, 256 and 512:
within 5 %. Other shapes may be further off.
"""

SCORES: Final = 1.8
"""How often a layer's attention scores, of each head P by P, are there at once."""

BITS: Final = {"int4": 4, "int8": 8, "fp16": 16, "fp32": 32}
"""Of a weight or a number in a cache; palettes, of Core ML alone, are not in it."""

RECLAIMABLE: Final = 0.5
"""Share of mapped files that a system under pressure may do without before it slows down noticeably: a rule."""

UTTERANCE: Final = (160, 260)
"""Prefix and generated tokens of the sentence that `profile` says, with the reference voice."""

REACHED: Final = (0.4, 0.7)
"""Share of the data sheet's bandwidth that programs reach.

A Raspberry Pi 4's STREAM gives 5.56 of 12.8 GB/s (sci-pi.org.uk), a Rock 5A's mbw 22.6 of 34.1 (forum.radxa.com).
"""

SHARES: Final = (0.5, 0.75)
"""Of a device's RAM: below the first a bundle fits, up to the second it is tight. A rule: systems take the rest."""

UNMEASURED: Final = "on no Apple hardware was memory or time ever measured by this project: every term is a guess there"

NEAR: Final = 0.05
"""How far predictions of memory may be off."""


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, most likely `expected`."""

    low: float
    expected: float
    high: float


@dataclass(frozen=True)
class Term:
    """One part of the memory a bundle takes, bytes, and why."""

    name: str
    size: Range
    reason: str


@dataclass(frozen=True)
class Fit:
    """A verdict: memory by terms (bytes) and real-time factor (None: it cannot be told), both with reasons."""

    verdict: Verdict
    terms: tuple[Term, ...]
    memory: Range
    rtf: Range | None
    reasons: tuple[str, ...]


def predict(manifest: Manifest, device: Device, reports: Sequence[Profile] = ()) -> Fit:
    """Whether the bundle of `manifest` fits `device`; `reports` are profiles of its flavour, taken on such a device."""
    terms = memory_terms(manifest, reports)
    low, expected, high = (
        sum(getattr(term.size, name) for term in terms) * factor
        for name, factor in (("low", 1 - NEAR), ("expected", 1), ("high", 1 + NEAR))
    )
    memory = Range(low, expected, high)
    fits, tight = (share * device.ram * 1e9 for share in SHARES)
    verdict: Verdict = "fits" if high <= fits else "tight" if expected <= tight else "does not fit"
    if manifest.flavour == "coreml" and device.system not in APPLE:
        reason = f"Core ML is on {' and '.join(APPLE)} alone, and this is {device.system}: export with --target onnx"
        return Fit("does not run", terms, memory, None, (reason,))
    rtf, reason = predict_rtf(manifest, device, reports)
    caveat = () if manifest.coreml is None else (UNMEASURED,)
    rule = f"fits: up to {SHARES[0]:.0%} of the {device.ram:g} GB, tight: up to {SHARES[1]:.0%}: a rule of thumb"
    return Fit(verdict, terms, memory, rtf, (*caveat, rule, f"RTF: {reason}"))


def memory_terms(manifest: Manifest, reports: Sequence[Profile] = ()) -> tuple[Term, ...]:
    """What a process that speaks holds at its peak."""
    runtime, reason = dict(RUNTIME), "measured with the reference voice on x86-64"
    runtime["graphs"] *= _decoders(manifest)
    least = 1.0
    if manifest.coreml is not None:
        # An app has neither Python nor ONNX Runtime in it, and whatever Apple's has instead.
        least, reason = 0.0, "of Python and ONNX Runtime"
    if known := [report.terms for report in reports if report.terms]:
        runtime = {name: statistics.median(getattr(terms, name) for terms in known) for name in RUNTIME}
        reason = "median of the reports given"
    libraries, sums = runtime["libraries"], sum_bytes(manifest)
    size = Range(least * RECLAIMABLE * libraries, libraries, libraries)
    return (
        *(
            Term(name, Range(least * runtime[name], runtime[name], runtime[name]), reason)
            for name in ("interpreter", "text", "graphs")
        ),
        Term("libraries", size, f"{reason}; pages of files can be read again, at the price of time"),
        Term(
            "weights",
            _certain(loaded_bytes(manifest) + sums),
            "the engine copies or packs the files of the graphs it opens"
            + (", with a sum for each block" if sums else "")
            + ("; each of two decoders its own, and keeps the scales besides" if _decoders(manifest) > 1 else ""),
        ),
        Term(
            "mapped",
            mapped(manifest),
            "read where it lies: rows of the embedding, and scales while a graph is opened",
        ),
        Term("cache", cache(manifest), "slots that an utterance writes; all of them at most"),
        _arena(manifest),
    )


def _decoders(manifest: Manifest) -> int:
    """Graphs that hold the decoder's weights."""
    return 1 if manifest.prefill is None else 2


def _arena(manifest: Manifest) -> Term:
    """Activations: what follows from the shapes of a whole prefix is an estimate."""
    if manifest.prefill is None:
        return Term("arena", _certain(ARENA), f"activations of prefills of {PREFILL_CHUNK} tokens and of the codec")
    tokens, floats = manifest.cache.groups[0].prefix, float_cache(manifest)
    whole, copied = whole_prefix(manifest.prefill, tokens), "; keys in float32, at every step" if floats else ""
    low, expected, high = (ARENA + share * whole + floats for share in (0.7, 1, 1.3))
    reason = f"activations of the codec, and of {tokens} tokens at once by the shapes of a layer{copied}"
    return Term("arena", Range(low, expected, high), reason)


def whole_prefix(graph: PrefillSpec, prefix: int) -> float:
    """Bytes of activations of a `graph` that reads all P tokens at once, float32."""
    hidden, intermediate = PER_TOKEN
    token = hidden * graph.hidden_size + intermediate * graph.intermediate_size
    return 4 * prefix * (token + SCORES * graph.heads * prefix)


def float_cache(manifest: Manifest) -> float:
    """Bytes of float32 copies of narrower caches, in the portable flavour: by the engine's own traces, those of all
    layers' keys are made before anything else, those of values when they are needed.
    """
    bits = BITS[manifest.cache.groups[0].dtype]
    return 32 / bits * manifest.cache.bytes / 2 if bits < 32 else 0.0


FILES: Final = ("libraries", "mapped")
"""Terms that are pages of files, which a system may take back."""


def private(fit: Fit) -> float:
    """Bytes of the expected peak that no file is behind: below that a process is killed where there is no swap."""
    return sum(term.size.expected for term in fit.terms if term.name not in FILES)


def _certain(size: float) -> Range:
    """A range of one value."""
    return Range(size, size, size)


def loaded_bytes(manifest: Manifest) -> int:
    """Bytes of the graph and weight files that stay open while speaking: all but the codec's encoder.

    Of a codec or layers in fp16 the engine makes float32. Where one graph reads prefixes and another takes single
    tokens, each packs weights of its own.
    """
    encoder = manifest.codec.encoder if manifest.codec else None
    if manifest.coreml is not None:
        return decoder_bytes(manifest) + (_bytes_in(manifest, manifest.codec.decoder) if manifest.codec else 0)
    files = manifest.files.items()
    codec = manifest.codec.decoder if manifest.codec and manifest.codec.weights == "fp16" else None
    more = manifest.files[codec].size if codec in manifest.files else 0
    more += _decoders(manifest) * packed_bytes(manifest) - decoder_bytes(manifest)
    return more + sum(e.size for name, e in files if name.endswith((".onnx", ".data")) and name != encoder)


def decoder_bytes(manifest: Manifest) -> int:
    """Bytes of the decoder's weights."""
    if manifest.coreml is not None:
        return _bytes_in(manifest, manifest.decoder)
    return sum(entry.size for name, entry in manifest.files.items() if name.endswith(".data"))


def packed_bytes(manifest: Manifest) -> int:
    """Bytes of the decoder's weights as an engine holds them for a graph: float32 where layers are fp16."""
    if manifest.prefill is not None:
        return manifest.prefill.packed
    return decoder_bytes(manifest) * (2 if manifest.weights.layers == "fp16" and manifest.coreml is None else 1)


def _bytes_in(manifest: Manifest, folder: str) -> int:
    """Bytes of a package or asset, which is a folder."""
    return sum(entry.size for name, entry in manifest.files.items() if name.startswith(f"{folder}/"))


def mapped(manifest: Manifest) -> Range:
    """Resident pages of the weight file itself: rows of the embedding; with Core ML those of the host's tables.

    While a graph is opened, scales are resident too. They go back before caches and activations come, and count where
    they are more than those.
    """
    if manifest.coreml is not None:
        tables = sum(entry.size for name, entry in manifest.files.items() if name.endswith(".npy"))
        return Range(0, tables, tables)
    size, scales = decoder_bytes(manifest), scale_bytes(manifest)
    return Range(0, max(min(0.5 * size, 6e6), scales - cache(manifest).expected - ARENA), min(size, 12e6) + scales)


def scale_bytes(manifest: Manifest) -> float:
    """Bytes of float32 scales, one for each block of the decoder's weights; of a scale per channel the engine makes
    blocks.
    """
    block = manifest.weights.block_size
    if block is None or manifest.weights.layers not in ("int8", "int4"):
        return 0.0
    block = QDQ_BLOCK if block == 0 else block
    whole = decoder_bytes(manifest) if manifest.prefill is None else manifest.prefill.packed
    return 4 / (BITS[manifest.weights.layers] * block / 8 + 4) * whole


def sum_bytes(manifest: Manifest) -> float:
    """Bytes of the sums that ONNX Runtime packs with blocks: one for each, float32 like its scale.

    In the portable flavour it turns weights and scales around first, and keeps those scales too; of a scale per channel
    it makes those of blocks besides, which no file has.
    """
    if manifest.coreml is not None:
        return 0.0
    kinds = 1 if manifest.prefill is None else 3 if manifest.weights.block_size == 0 else 2
    return _decoders(manifest) * kinds * scale_bytes(manifest)


def cache(manifest: Manifest) -> Range:
    """Bytes of the caches that are written to; the whole where past and present swap."""
    whole = manifest.cache.bytes
    used = whole * _slots(manifest) if manifest.cache.aliased else whole
    return Range(used, used, whole)


def _slots(manifest: Manifest, share: float = 1) -> float:
    """Share of the slots that is in use once so much of UTTERANCE was said."""
    group = manifest.cache.groups[0]
    generated = share * UTTERANCE[1] // (manifest.patch.size if manifest.patch else 1)
    return (min(UTTERANCE[0], group.prefix) + min(generated, group.window)) / group.slots


def step_bytes(manifest: Manifest) -> int:
    """Bytes a step of the decoder reads halfway through UTTERANCE: its weights and the slots in use.

    Where a graph's shapes are fixed, all slots are read, and copied where they are narrow. What draws the tokens of a
    patch is read for each of them.
    """
    again = (manifest.patch.size - 1) * manifest.patch.token_bytes if manifest.patch else 0
    seen = _slots(manifest, 0.5) if manifest.cache.aliased and manifest.coreml is None else 1.0
    copied = 2 * float_cache(manifest) if manifest.prefill else 0.0
    return packed_bytes(manifest) + again + round(seen * manifest.cache.bytes + copied)


def predict_rtf(manifest: Manifest, device: Device, reports: Sequence[Profile]) -> tuple[Range | None, str]:
    """Seconds of work per second of speech, and what that rests on."""
    if manifest.codec is None:
        return None, "a decoder alone makes no speech, so that there is no real-time factor"
    rate = manifest.codec.sample_rate / manifest.codec.hop / (manifest.patch.size if manifest.patch else 1)
    if known := [(report, cost) for report in reports if (cost := seconds_per_byte(report)) is not None]:
        rtf = statistics.median(cost for _, cost in known) * step_bytes(manifest) * rate
        taken = "; ".join(f"{report.bundle} on {report.machine.processor}" for report, _ in known)
        return Range(0.9 * rtf, rtf, 1.1 * rtf), f"by the bytes that speech reads, as measured of {taken}"
    if device.bandwidth is None:
        return None, "no source for its memory bandwidth: profile there and give the report with --report"
    low, high = (1.0, 1.0) if device.measured else REACHED
    fast, slow = (rate * step_bytes(manifest) / (device.bandwidth * 1e9 * share) for share in (high, low))
    how = "measured by STREAM" if device.measured else f"of which programs reach {low:.0%} to {high:.0%}"
    reason = f"{device.bandwidth:g} GB/s, {how}; a bound from below: slow cores and the codec add to it"
    return Range(fast, (fast + slow) / 2, slow), reason


def seconds_per_byte(report: Profile) -> float | None:
    """Seconds of work for each byte that the decoder read, the median of all utterances but the first; None where none
    made a sound.
    """
    spoken = [each for each in report.utterances[1:] if each.audio and each.steps]
    costs = [each.busy / (len(each.steps) * report.step_bytes) for each in spoken]
    return statistics.median(costs) if costs else None
