"""What a corpus folder holds: utterances, each a recording (or its codes) and its words. Reads no audio.

Three layouts are read as they are, the first of these files that is there says which:
`manifest.jsonl`  a line per utterance: {"audio": "a.wav", "text": "…"}, or "codes": "a.npy"; "speaker" where there are
                  several. Paths are relative to the folder and stay inside it.
`metadata.csv`    LJSpeech: NAME|text|normalised text, and wavs/NAME.wav
`*.normalized.txt`  LibriTTS: SPEAKER/CHAPTER/NAME.wav beside NAME.normalized.txt, at any depth
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from sottovoce.errors import BundleError, CorpusError
from sottovoce.runtime.parse import parse
from sottovoce.runtime.paths import inside
from sottovoce.runtime.strict_json import decode_json

MANIFEST: Final = "manifest.jsonl"
METADATA: Final = "metadata.csv"
WORDS: Final = ".normalized.txt"


@dataclass(frozen=True)
class Utterance:
    """A recording, or a file of its codes, and its words; `id` is its path inside the corpus.

    Utterances that name no speaker (`""`) are taken for one speaker's.
    """

    id: str
    path: Path
    kind: Literal["audio", "codes"]
    text: str
    speaker: str = ""


@dataclass(frozen=True)
class Corpus:
    """The utterances of `folder`, sorted by id, and a line for each one that lacks its words."""

    folder: Path
    utterances: tuple[Utterance, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Line:
    """One line of `manifest.jsonl`."""

    text: str
    audio: str | None = None
    codes: str | None = None
    speaker: str = ""


@dataclass
class _Found:
    """What a layout has given so far."""

    utterances: dict[str, Utterance] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, utterance: Utterance, where: str) -> None:
        """Take `utterance`; raises CorpusError where its file stands there twice, as it could become its own prompt."""
        if utterance.id in self.utterances:
            raise CorpusError(f"{where}: {utterance.id} stands there twice: remove one of the two")
        self.utterances[utterance.id] = utterance


def read_corpus(folder: Path) -> Corpus:
    """The utterances of `folder`, whose files need not exist yet.

    Raises CorpusError where the folder is missing, empty or of no known layout, and for a malformed line of its list.
    """
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder")
    found = _Found()
    if (folder / MANIFEST).is_file():
        _read_manifest(folder, found)
    elif (folder / METADATA).is_file():
        _read_ljspeech(folder, found)
    else:
        _read_libritts(folder, found)
    if not found.utterances and not found.problems:
        raise CorpusError(
            f"{folder} holds no utterances: a corpus has a {MANIFEST}, LJSpeech's {METADATA}, or LibriTTS's *{WORDS}"
        )
    ordered = sorted(found.utterances.values(), key=lambda utterance: utterance.id)
    return Corpus(folder, tuple(ordered), tuple(sorted(found.problems)))


def _read_manifest(folder: Path, found: _Found) -> None:
    """The lines of `manifest.jsonl`."""
    for where, text in _lines(folder / MANIFEST):
        try:
            line: _Line = parse(_Line, decode_json(text), where)
        except BundleError as error:
            raise CorpusError(str(error)) from None
        except ValueError as error:
            raise CorpusError(f"{where} is not JSON: {error}") from None
        name = line.audio or line.codes
        if not name or (line.audio and line.codes):
            raise CorpusError(f"{where}: audio or codes must name the utterance's file, and only one of the two")
        path = _inside(folder, name, where)
        found.add(Utterance(name, path, "audio" if line.audio else "codes", line.text, line.speaker), where)


def _read_ljspeech(folder: Path, found: _Found) -> None:
    """The rows of `metadata.csv`, which knows no quotes: a name, the words as written, and as they are read."""
    for where, text in _lines(folder / METADATA):
        name, *words = text.split("|")
        if not name or not 1 <= len(words) <= 2:
            raise CorpusError(f"{where}: NAME|text|normalised text is needed, found {text[:40]!r}")
        name = f"wavs/{name}.wav"
        found.add(Utterance(name, _inside(folder, name, where), "audio", words[-1] or words[0]), where)


def _read_libritts(folder: Path, found: _Found) -> None:
    """Recordings and the texts beside them; the folder above a chapter names the speaker."""
    texts = {path.with_name(path.name.removesuffix(WORDS)): path for path in folder.rglob(f"*{WORDS}")}
    if not texts:
        return
    for stem in sorted({*texts, *(path.with_suffix("") for path in folder.rglob("*.wav"))}):
        path = stem.with_name(f"{stem.name}.wav")
        name = path.relative_to(folder).as_posix()
        try:
            words = texts[stem].read_text(encoding="utf-8").strip()
        except KeyError:
            found.problems.append(f"{name}: {stem.name}{WORDS} is missing")
        except (OSError, ValueError) as error:
            found.problems.append(f"{name}: {stem.name}{WORDS} cannot be read: {error}")
        else:
            found.add(Utterance(name, _inside(folder, name, name), "audio", words, path.parent.parent.name), name)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Where each line of `path` that is not blank stands, and its text."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if text := line.strip():
                    yield f"{path}, line {number}", text
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} cannot be read: {error}") from None


def _inside(folder: Path, name: str, where: str) -> Path:
    """The file `name` of the corpus; raises CorpusError where that leads out of it."""
    try:
        return inside(folder, name)
    except BundleError:
        raise CorpusError(f"{where}: {name!r} is outside the corpus folder: copy the file into it") from None
