"""A corpus as tokens: recordings through the voice's codec, words through its text front end, each made once.

What was made is kept in a cache folder under a hash of what it depends on: the recording, the codec's weights and code;
the words, `text.json`, its data and the front end's code. So a run that was killed goes on where it was, any number of
processes share the work, and a changed codec or lexicon is never served with old tokens.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

import numpy as np
import torch

import sottovoce.runtime.text
from sottovoce.compress.corpus.layout import Corpus, Utterance
from sottovoce.compress.corpus.store import Ids, Store, key_of, key_of_files
from sottovoce.errors import CorpusError, PromptError, TextError
from sottovoce.models import codec, fsq, spectrum
from sottovoce.models.voice import Voice
from sottovoce.runtime import clip
from sottovoce.runtime.bundle import sha256
from sottovoce.runtime.strict_json import read_json
from sottovoce.runtime.text.frontend import load_frontend

LONGEST: Final = 600.0
"""Seconds of a recording that are still taken for one utterance."""


@dataclass(frozen=True)
class Spoken:
    """An utterance as tokens: `text` [T] ids of its words, `codes` [N] of the codec, both int32."""

    id: str
    speaker: str
    text: Ids
    codes: Ids


@dataclass(frozen=True)
class Tokens:
    """The utterances that can be used, in the corpus's order, and a line for each one that cannot."""

    spoken: tuple[Spoken, ...]
    problems: tuple[str, ...]


class Tokeniser:
    """Turns a corpus into tokens of one voice, through a cache that processes share."""

    def __init__(self, voice: Voice, cache: Path, device: str = "cpu") -> None:
        """Load codec (to `device`) and front end of `voice`; `cache` is a folder, made when needed."""
        spec = voice.complete()
        self.prompt = spec.prompt
        self.store = Store(cache)
        self.frontend = load_frontend(voice.home, spec.text)
        self.codec = codec.Codec.load(voice.codec_folder).to(device)
        self.device = device
        self._codec_key = key_of_files([*_files(voice.codec_folder), *_sources(codec, fsq, spectrum, clip)])
        data = read_json(voice.text_file).get("file")
        text_files = [voice.text_file, *([voice.home / data] if data else [])]
        self._text_key = key_of_files([*text_files, *_files(Path(sottovoce.runtime.text.__path__[0]), "*.py")])

    def prepare(
        self, corpus: Corpus, rank: int = 0, world: int = 1, done: Callable[[int], object] = lambda count: None
    ) -> None:
        """Fill the cache with the share of process `rank` of `world`; `done` is told after each of its utterances.

        Utterances that cannot be used are passed over: `load` says so. Raises OutputError where the cache cannot be
        written.
        """
        for count, utterance in enumerate(corpus.utterances[rank::world], 1):
            self._spoken(utterance)
            done(count)

    def load(self, corpus: Corpus, skip_bad: bool = False) -> Tokens:
        """All utterances, those that the cache lacks made now: call it once every process has prepared its share.

        Raises CorpusError that counts and lists the ones that cannot be used, unless `skip_bad` leaves them out, and
        where none is left.
        """
        rows = [self._spoken(utterance) for utterance in corpus.utterances]
        problems = (*corpus.problems, *(row for row in rows if isinstance(row, str)))
        spoken = tuple(row for row in rows if isinstance(row, Spoken))
        if problems and not (skip_bad and spoken):
            total = len(corpus.utterances) + len(corpus.problems)
            mend = "mend them, or leave them out with --skip-bad" if spoken else "nothing is left to learn from"
            what = f"{len(problems)} of {total} utterances cannot be used"
            raise CorpusError(f"{corpus.folder}: {what} ({mend}): {'; '.join(problems)}")
        return Tokens(spoken, problems)

    def _spoken(self, utterance: Utterance) -> Spoken | str:
        """`utterance` as tokens, or the line that says why it cannot be used."""
        try:
            codes = self._given(utterance.path) if utterance.kind == "codes" else self._encoded(utterance.path)
            return Spoken(utterance.id, utterance.speaker, self._text(utterance.text), codes)
        except (CorpusError, PromptError, TextError) as error:
            # Errors of a clip name its file in full, which the id says already.
            return f"{utterance.id}: {str(error).removeprefix(str(utterance.path)).removeprefix(':').strip()}"

    def _text(self, text: str) -> Ids:
        """Ids of `text`."""
        key = key_of("text", self._text_key, text)
        return self._kept(key, lambda: np.array(self.frontend.whole(text).ids, np.int32))

    def _encoded(self, path: Path) -> Ids:
        """Codes of a recording."""
        with _readable(path):
            content = sha256(path)
        return self._kept(key_of("codes", self._codec_key, content), lambda: self._encode(path))

    def _kept(self, key: str, make: Callable[[], Ids]) -> Ids:
        """What the cache holds under `key`, else what `make` makes, kept from now on."""
        ids = self.store.get(key)
        if ids is None:
            ids = make()
            self.store.put(key, ids)
        return ids

    def _encode(self, path: Path) -> Ids:
        """Run the codec; what is left over of the last hop is dropped, as the runtime does."""
        config = self.codec.config
        audio = clip.read_audio(path, config.sample_rate, LONGEST)
        if clip.is_silent(audio):
            raise CorpusError("silent")
        if len(audio) < config.hop:
            raise CorpusError(f"{len(audio)} samples, a code takes {config.hop}")
        whole = torch.from_numpy(clip.levelled(audio, config.level)[: len(audio) - len(audio) % config.hop])
        with torch.inference_mode():
            codes = self.codec.encode(whole[None].to(self.device))[0].cpu().numpy()
        return self._checked(codes.astype(np.int32))

    def _given(self, path: Path) -> Ids:
        """Codes from a file of them: `.npy`, whole numbers [N]. Mapped first, so that a false header costs nothing."""
        with _readable(path):
            values = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "iu":
            raise CorpusError("not a .npy file of whole numbers [N]")
        return self._checked(np.asarray(values).astype(np.int64))

    def _checked(self, codes: np.ndarray) -> Ids:
        """`codes` if there are any and the voice has a token for each."""
        if not codes.size:
            raise CorpusError("no codes")
        if codes.min() < 0 or codes.max() >= self.prompt.code_count:
            wrong = int(codes.min() if codes.min() < 0 else codes.max())
            raise CorpusError(f"code {wrong}, the voice has 0 to {self.prompt.code_count - 1}")
        return codes.astype(np.int32)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what goes wrong while `path` is read into a CorpusError that does not repeat its name."""
    try:
        yield
    except FileNotFoundError:
        raise CorpusError("no such file") from None
    except OSError as error:
        raise CorpusError(f"cannot be read: {error.strerror}") from None
    except (ValueError, EOFError):
        raise CorpusError("not a .npy file of codes") from None


def _files(folder: Path, pattern: str = "*") -> list[Path]:
    """The files of `folder`, in order of name."""
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def _sources(*modules: ModuleType) -> list[Path]:
    """The files that `modules` were read from."""
    return [Path(module.__file__ or "") for module in modules]
