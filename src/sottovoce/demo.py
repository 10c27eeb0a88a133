"""`sottovoce demo`: the committed voices exported, verified, heard and measured side by side; ends in one table.

Needs a checkout of the repository, since no voice is part of the installed package.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from sottovoce.devices.figures import figures, machine_line, side_by_side
from sottovoce.devices.profile import profile_bundle
from sottovoce.devices.report import Profile
from sottovoce.errors import VoiceError
from sottovoce.export.assemble import Progress, export_bundle
from sottovoce.export.plan import Request
from sottovoce.export.verify import BundleParity, verify_bundle
from sottovoce.models.voice import Voice
from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.output import wav, written_whole
from sottovoce.runtime.prompt import find_prompt, preset_names
from sottovoce.runtime.speak import speak

VOICES = Path(__file__).resolve().parents[2] / "voices"
"""Where the committed voices are."""

NAMES = ("reference", "reference-w64")
"""Those to compare: full attention, and the same voice that has learned to do with a window."""

SENTENCES = (
    "Good morning, and welcome to a small voice.",
    "The train to Oxford leaves at half past nine from platform four.",
    "It fits on a phone, and it never needs more memory than this.",
)
"""What is said."""

SPEAKERS = 2
"""How many of the voice's presets say it."""


@dataclass(frozen=True)
class Made:
    """One bundle of the demo and what was found out about it."""

    parity: BundleParity
    bytes: int
    recordings: int
    profile: Profile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `demo`."""
    voices = [VOICES / name for name in NAMES]
    parser.add_argument("--voices", type=Path, nargs="+", default=voices, help="voice folders (the repository's)")
    parser.add_argument("-o", "--output", type=Path, default=Path("demo"), help="folder to fill (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Make the bundles, print the table, and return the exit status: 1 where a bundle fails its gates."""
    if missing := [voice for voice in args.voices if not voice.is_dir()]:
        raise VoiceError(f"{missing[0]} is missing: the demo runs in a checkout of the repository (or name --voices)")
    made = [_make(voice, args.output / voice.resolve().name, args.threads) for voice in args.voices]
    print(side_by_side([_rows(item) for item in made]))
    print(machine_line(made[0].profile))
    print(f"recordings: {args.output}/*.wav, the bundle's name first")
    return 0 if all(item.parity.passed for item in made) else 1


def _make(voice: Path, target: Path, threads: int) -> Made:
    """Export, verify, speak and profile one bundle."""
    name = target.name
    manifest = export_bundle(
        voice,
        target,
        Request(weights="int8"),
        force=True,
        threads=threads,
        progress=Progress(lambda text: _tell(f"{name}: {text}")),
    )
    _tell(f"{name}: verifying the bundle on disk")
    parity = verify_bundle(target, Voice.open(voice), threads)
    _tell(f"{name}: speaking")
    recordings = _speak(target, threads)
    _tell(f"{name}: profiling")
    size = sum(entry.size for entry in manifest.files.values())
    return Made(parity, size, recordings, profile_bundle(target, threads=threads))


def _speak(target: Path, threads: int) -> int:
    """Every sentence by every speaker, as a WAV file beside the bundle; how many there are."""
    bundle = load_bundle(target, threads)
    speakers = preset_names(bundle)[-SPEAKERS:]
    for speaker in speakers:
        for number, text in enumerate(SENTENCES, 1):
            speech = speak(bundle, text, find_prompt(bundle, speaker), seed=number)
            with written_whole(target.parent / f"{target.name}-{speaker}-{number}.wav") as file:
                file.write(wav(speech.whole(), speech.sample_rate))
    return len(speakers) * len(SENTENCES)


def _rows(made: Made) -> list[tuple[str, str]]:
    """The profile's figures, then size and proof."""
    decoder = made.parity.decoder
    return [
        *figures(made.profile),
        ("bundle on disk", f"{made.bytes / 1e6:.1f} MB"),
        ("recordings", str(made.recordings)),
        ("parity with torch", "passed" if made.parity.passed else "failed"),
        (f"  top-1, margin > 0.1 ({made.parity.weights})", f"{decoder.margin_top1:.1%}"),
    ]


def _tell(text: str) -> None:
    """Say what is being done."""
    print(text, file=sys.stderr, flush=True)
