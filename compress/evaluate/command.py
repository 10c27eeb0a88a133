"""`sottovoce evaluate`: how well a voice or a bundle speaks, a row per utterance, and the figures with intervals."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import PartialState

from sottovoce.compress.evaluate.evaluator import Evaluator, jobs_of
from sottovoce.compress.evaluate.judges import JUDGES, open_judge, words_of
from sottovoce.compress.evaluate.nll import Likelihood, held_out, likelihood
from sottovoce.compress.evaluate.reference import Reference, classifier_of, open_reference
from sottovoce.compress.evaluate.rows import Row, read_rows
from sottovoce.compress.evaluate.run import check_same, run_rows
from sottovoce.compress.evaluate.sentences import read_sentences
from sottovoce.compress.evaluate.speaker import ACCURACY, SpeakerClassifier
from sottovoce.compress.evaluate.summary import passes, summarise, table
from sottovoce.compress.evaluate.synthesise import Subject, open_subject
from sottovoce.errors import OptionError, TextError
from sottovoce.models.voice import Voice
from sottovoce.runtime.manifest import MANIFEST


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `evaluate`."""
    parser.epilog = "Several processes: torchrun --nproc-per-node N -m sottovoce evaluate …"
    add = parser.add_argument
    add("subject", type=Path, metavar="BUNDLE|VOICE", help="bundle folder, or voice folder (run by torch)")
    add("-o", "--output", type=Path, required=True, metavar="ROWS", help="rows, JSONL; those that it holds are kept")
    add("--sentences", type=Path, metavar="FILE", help="a sentence per line (default: forty built-in ones)")
    add(
        "--speakers",
        nargs="+",
        default=[],
        metavar="NAME|CLIP",
        help="presets, or clips, words in CLIP.txt (default: all presets)",
    )
    add("--seeds", type=int, default=1, metavar="N", help="utterances per sentence and speaker (default: %(default)s)")
    add("--judge", choices=JUDGES, default=JUDGES[0], help="what listens (default: %(default)s)")
    add("--judge-weights", type=Path, metavar="FOLDER", help="local weights of the judge, where it is a Whisper")
    add("--reference", metavar="flite|CORPUS", help="the speakers themselves: MCD, speaker match, lengths")
    add("--against", type=Path, metavar="ROWS", help="rows of another voice: differences, paired by sentence")
    add("--gate", type=float, metavar="POINTS", help="with --against: exit status 1 where the WER is more above it")
    add("--held-out", type=Path, metavar="CORPUS", help="of a voice: teacher-forced NLL on this folder's utterances")
    add("--teacher", type=Path, metavar="VOICE", help="with --held-out: KL to this voice's distribution")
    add("--cache", type=Path, metavar="FOLDER", help="where the corpus is kept as tokens (default: CORPUS.tokens)")
    add("--skip-bad", action="store_true", help="leave out files of the corpus that are missing or unreadable")
    add("--threads", type=int, default=1, help="threads per process (default: %(default)s)")
    add("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the figures, and return the exit status: 1 where the gate is missed."""
    _check(args)
    base = read_rows(args.against) if args.against else []
    torch.set_num_threads(args.threads)
    state = PartialState(cpu=True)
    rows = _rows(args, state, base) if args.seeds else []
    summary = summarise(rows, base, _likelihood(args, state))
    if args.gate is not None and "wer" not in summary.differences:
        raise OptionError(f"{args.against} has no utterance of these sentences, speakers and seeds: nothing to compare")
    if state.is_main_process:
        print(json.dumps(summary.to_json(), indent=1) if args.json else table(summary))
    return 0 if passes(summary, args.gate) else 1


def _check(args: argparse.Namespace) -> None:
    """Raise OptionError for options that contradict each other, before any work."""
    if args.seeds < 0 or args.threads < 1:
        raise OptionError("--seeds counts from 0 (no speech, tokens only), --threads from 1")
    if not args.seeds and args.held_out is None:
        raise OptionError("--seeds 0 leaves nothing to do without --held-out CORPUS")
    if args.gate is not None and args.against is None:
        raise OptionError("--gate needs --against ROWS: it bounds a difference")
    if args.held_out is None and (args.teacher or args.cache or args.skip_bad):
        raise OptionError("--teacher, --cache and --skip-bad go with --held-out CORPUS")
    if args.held_out is not None and (args.subject / MANIFEST).exists():
        raise OptionError(f"--held-out needs a voice, and {args.subject} is a bundle: name the voice it was made of")


def _rows(args: argparse.Namespace, state: PartialState, base: Sequence[Row]) -> list[Row]:
    """Every utterance, spoken and judged as those of `base` were."""
    texts = read_sentences(args.sentences)
    subject = open_subject(args.subject, args.speakers, args.threads)
    _check_texts(subject, texts)
    judge, reference = open_judge(args.judge, args.judge_weights), open_reference(args.reference)
    classifier = None if reference is None else _trusted(reference, state)
    evaluator = Evaluator(subject, judge, reference, classifier)
    check_same(args.output, subject.identity, evaluator.listening)
    if others := {row.judge for row in base} - {listening := evaluator.listening}:
        raise OptionError(f"{args.against} was judged by {min(others)!r}, not {listening!r}: judge both alike")
    jobs = jobs_of(texts, list(subject.prompts), range(1, args.seeds + 1))
    rows = run_rows([evaluator.key(job) for job in jobs], lambda i: evaluator.row(jobs[i]), args.output, state)
    if reference and state.is_main_process and all(row.reference_seconds is None for row in rows):
        speakers = ", ".join(map(repr, subject.prompts))
        print(f"{reference.identity} has none of these sentences by {speakers}: no MCD, no lengths", file=sys.stderr)
    return rows


def _check_texts(subject: Subject, texts: Sequence[str]) -> None:
    """Raise TextError for the first text that cannot be said or has no words to compare, before any is spoken."""
    for text in texts:
        try:
            subject.bundle.voice.frontend.whole(text)
        except TextError as error:
            raise TextError(f"{text!r}: {error}") from None
        if not words_of(text):
            raise TextError(f"{text!r} has no English words that could be compared with what is heard")


def _trusted(reference: Reference, state: PartialState) -> SpeakerClassifier | None:
    """The classifier of the reference's speakers, where it may judge; what it is worth is said once."""
    found = classifier_of(reference)
    if found is None:
        return None
    trusted = found.accuracy >= ACCURACY
    if state.is_main_process:
        verdict = "" if trusted else f", {ACCURACY:.0%} is needed: speaker match is left out"
        names = ", ".join(found.names)
        line = f"speaker classifier ({names}): {found.accuracy:.1%} of {found.clips} held-out reference clips{verdict}"
        print(line, file=sys.stderr)
    return found if trusted else None


def _likelihood(args: argparse.Namespace, state: PartialState) -> Likelihood | None:
    """Teacher-forced figures, where they are asked for."""
    if args.held_out is None:
        return None
    voice = Voice.open(args.subject)
    corpus = args.held_out.resolve()
    cache = args.cache or corpus.with_name(f"{corpus.name}.tokens")
    batches = held_out(voice, args.held_out, cache, state, args.skip_bad)
    return likelihood(voice, Voice.open(args.teacher) if args.teacher else None, batches, state)
