"""A voice → the same voice with fewer layers: measured, pruned, distilled where a corpus is given, and written.

Every process runs this, shares the measuring and the training, and the first one alone writes.
"""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from accelerate import Accelerator, PartialState

from sottovoce.compress.corpus.layout import read_corpus
from sottovoce.compress.distil import Lesson, distil, training_folder
from sottovoce.compress.find_index import CHART, ROWS, IndexRequest, find_index, save_index
from sottovoce.compress.layer_index import LayerIndex
from sottovoce.compress.layers import keep_in_config, keep_layers
from sottovoce.compress.loop import open_accelerator
from sottovoce.compress.prune import PruneObjective
from sottovoce.compress.recipe import PruneRecipe
from sottovoce.compress.training_state import STATE
from sottovoce.compress.voice_folder import check_free, check_share, check_tokens, history_entry, write_voice
from sottovoce.errors import OptionError, OutputError
from sottovoce.models.decoder import Decoder
from sottovoce.models.voice import Voice
from sottovoce.runtime.output import check_output

INDEX: Final = "index.json"
"""The index that was measured, in the folder of the training's files."""


@dataclass(frozen=True)
class PruneRequest:
    """What a user asks for: `keep` layers of `voice`, chosen by an index, written to `output`; without `lesson`
    nothing is learned."""

    voice: Path
    output: Path
    keep: int
    index: IndexRequest = field(default_factory=IndexRequest)
    lesson: Lesson[PruneRecipe] | None = None
    share: bool = False


def prune_voice(request: PruneRequest) -> LayerIndex:
    """Write the voice that is asked for; the index that its layers were chosen by.

    Raises OptionError for a number of layers, an index, recipe or output that cannot be, VoiceError for a voice that
    cannot be used, CorpusError for a corpus with files that cannot, TrainingError where training breaks down, and
    OutputError where the disk refuses.
    """
    check_free(request.output)
    voice = Voice.open(request.voice)
    check_tokens(voice, "prune")
    check_share(voice, request.output, request.share)
    check_keep(request.keep, voice)
    lesson, training = request.lesson, training_folder(request.output)
    if lesson:
        read_corpus(lesson.corpus)  # an index may take hours: a corpus that is not there is told of before
    # Before the index: whoever opens the processes first decides which device they are on.
    accelerator = open_accelerator(lesson.recipe.train.precision) if lesson else None
    state = PartialState() if accelerator else PartialState(cpu=True)
    if request.index.file is None:
        _make_folder(training)
    index = find_index(voice, request.index, request.keep, training / INDEX, state)
    kept = index.kept(request.keep)
    student = keep_layers(voice.checkpoint.load(), kept)
    facts = _distil(lesson, voice, student, kept, accelerator) if lesson and accelerator else None
    if state.is_main_process:
        _write(voice, student, index, kept, facts, request)
        (training / STATE).unlink(missing_ok=True)
    if accelerator:
        accelerator.end_training()
    return index


def report_layers(folder: Path, request: IndexRequest, keep: int | None, path: Path) -> LayerIndex:
    """The index of the voice in `folder`, written to `path` with its chart beside it; no voice is made.

    `keep` layers are told as kept (None: none, which only a one-shot index can do without). Raises as `prune_voice`.
    """
    voice = Voice.open(folder)
    check_tokens(voice, "prune")
    if keep is not None:
        check_keep(keep, voice)
    check_output(path)
    if path.suffix in (CHART, ROWS):
        raise OptionError(f"{path} is where its chart or rows go: name the index {path.with_suffix('.json').name}")
    state = PartialState(cpu=True)
    index = find_index(voice, request, keep, path, state)
    if keep is not None:
        index.kept(keep)  # an iterative index from a file may end earlier
    if request.file is not None and state.is_main_process:
        save_index(index, keep, path)
    return index


def check_keep(keep: int, voice: Voice) -> None:
    """Raise OptionError unless `keep` of the voice's layers can stay while others go."""
    layers = voice.checkpoint.config.layers
    if not 1 <= keep < layers:
        raise OptionError(f"--keep {keep}: {voice.folder} has {layers} layers, 1 to {layers - 1} of them can be kept")


def _make_folder(folder: Path) -> None:
    """Make the folder of the training's files, where the index goes too."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}") from None


def _distil(
    lesson: Lesson[PruneRecipe], voice: Voice, student: Decoder, kept: tuple[int, ...], accelerator: Accelerator
) -> dict[str, Any]:
    """Train `student` in place; what its history says about it."""
    spec, teacher = voice.complete(), voice.checkpoint.load()

    def objective(steps: int) -> PruneObjective:
        return PruneObjective(student, teacher, spec, lesson.recipe.loss, kept)

    return distil(voice, lesson, objective, {"kept": list(kept)}, {}, accelerator)


def _write(
    voice: Voice,
    decoder: Decoder,
    index: LayerIndex,
    kept: tuple[int, ...],
    distilled: dict[str, Any] | None,
    request: PruneRequest,
) -> None:
    """Write the pruned voice, its history telling how it came about."""
    facts = {"layers": index.layers, "kept": list(kept), "index": asdict(index), "distilled": distilled}
    spec = replace(voice.complete(), history=history_entry(voice, "prune", **facts))
    checkpoint = voice.checkpoint
    hf = keep_in_config(checkpoint.hf, checkpoint.config.traits, kept)
    write_voice(replace(voice, checkpoint=replace(checkpoint, hf=hf)), decoder, spec, request.output, request.share)
