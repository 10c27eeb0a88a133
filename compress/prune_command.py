"""`sottovoce compress prune`: a voice with fewer layers, or a report of what each layer is worth."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

from sottovoce.compress.evaluate.judges import JUDGES
from sottovoce.compress.layer_index import LayerIndex, Ranking
from sottovoce.compress.options import add_training, chosen_lesson, is_first, refuse
from sottovoce.compress.recipe import PruneRecipe
from sottovoce.errors import OptionError

if TYPE_CHECKING:
    from sottovoce.compress.find_index import IndexRequest

_WORDS: Final = ("sentences", "speakers", "judge", "judge_weights")
"""Options of the word error index alone."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("voice", type=Path, help="voice folder (config.json, model.safetensors, codec/ …)")
    output = "voice folder to make (index and training: OUTPUT.training); with --report, a JSON file, chart beside it"
    add("-o", "--output", type=Path, required=True, help=output)
    add("--keep", type=int, metavar="N", help="layers that stay")
    index = "what a layer is worth: word errors without it, 1 − cosine of its input and output, or an index file"
    add("--index", default="wer", metavar="wer|cosine|FILE", help=f"{index} (default: %(default)s)")
    ranking = "measure all layers once, or again after each that goes (default: one-shot)"
    add("--ranking", choices=get_args(Ranking), help=ranking)
    add("--utterances", type=int, metavar="N", help="to measure on (40)")
    add("--sentences", type=Path, metavar="FILE", help="wer: a sentence per line (default: forty built-in ones)")
    speakers = "wer: presets, or clips, words in CLIP.txt, taking turns (default: all presets)"
    add("--speakers", nargs="+", metavar="NAME|CLIP", help=speakers)
    add("--judge", choices=JUDGES, help=f"wer: what listens (default: {JUDGES[0]})")
    add("--judge-weights", type=Path, metavar="FOLDER", help="wer: local weights of the judge, where it is a Whisper")
    distill = "train on this folder, and measure cosines on it; without it layers are left out and no more"
    add("--distill", type=Path, metavar="CORPUS", help=distill)
    add("--report", action="store_true", help="tell what each layer is worth, and make no voice")
    add_training(parser, "prune")


def run(args: argparse.Namespace) -> int:
    """Write the voice, or the report, and return exit status 0."""
    from sottovoce.compress.layer_report import table

    if args.keep is None and not (args.report and args.ranking != "iterative"):
        raise OptionError("--keep N is missing: how many layers stay")
    index = _report(args) if args.report else _prune(args)
    if is_first():
        print(table(index, args.keep))
        if not args.report:
            print(f"{args.output}: layers {', '.join(map(str, index.kept(args.keep)))} of {index.layers}")
    return 0


def _prune(args: argparse.Namespace) -> LayerIndex:
    """`compress prune`."""
    from sottovoce.compress.prune_voice import PruneRequest, prune_voice

    lesson = chosen_lesson(args, PruneRecipe, "prune")
    return prune_voice(PruneRequest(args.voice, args.output, args.keep, _index(args), lesson, args.share))


def _report(args: argparse.Namespace) -> LayerIndex:
    """`compress prune --report`."""
    from sottovoce.compress.prune_voice import report_layers

    refuse(args, ["recipe", "steps", "resume", "share"], "training, not with --report")
    if args.index != "cosine":
        refuse(args, ["distill", "cache", "skip_bad"], "--index cosine, where no voice is made")
    elif args.distill is None:
        refuse(args, ["cache", "skip_bad"], "--distill CORPUS")
    return report_layers(args.voice, _index(args), args.keep, args.output)


def _index(args: argparse.Namespace) -> "IndexRequest":
    """What to measure, or the file to read."""
    from sottovoce.compress.find_index import UTTERANCES, IndexRequest

    measured = args.index in ("wer", "cosine")
    if not measured:
        refuse(args, ["ranking", "utterances"], "an index that is measured, not with --index FILE")
    if args.index != "wer":
        refuse(args, _WORDS, "--index wer")
    return IndexRequest(
        kind=args.index if measured else "wer",
        ranking=args.ranking or "one-shot",
        file=None if measured else Path(args.index),
        utterances=UTTERANCES if args.utterances is None else args.utterances,
        sentences=args.sentences,
        speakers=tuple(args.speakers or ()),
        judge=args.judge or JUDGES[0],
        judge_weights=args.judge_weights,
        corpus=args.distill,
        cache=args.cache,
        skip_bad=args.skip_bad,
    )
