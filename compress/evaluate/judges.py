"""What listens: speech recognisers behind one method, each named by what its hearing depends on."""

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from sottovoce.compress.evaluate.features import RATE
from sottovoce.errors import MissingExtraError, OptionError, TextError
from sottovoce.runtime.session import Floats
from sottovoce.runtime.text.normalise import normalise

PADDING: Final = RATE // 5
"""Samples of silence put on both sides of a clip before it is judged."""


class Judge(Protocol):
    """A recogniser; `identity` names it, its version and its weights."""

    identity: str

    def hear(self, audio: Floats) -> str:
        """Words heard in `audio` [S] float32 at 16 kHz, as they are compared."""
        ...


def compared(words: list[str]) -> str:
    """Words as they are compared: marks dropped, spelled "ay" written like the letter."""
    return " ".join("a" if w == "ay" else w for w in words if w not in ",.?")


def words_of(text: str) -> str:
    """Written `text` as the words that are compared; none where it has no words."""
    try:
        return compared(normalise(text))
    except TextError:
        return ""


class Pocketsphinx:
    """pocketsphinx with its own US-English model; it starts every utterance from the same state."""

    def __init__(self) -> None:
        """Load the recogniser; raises MissingExtraError."""
        try:
            from pocketsphinx import Decoder
        except ImportError:
            raise MissingExtraError("pocketsphinx", "evaluate") from None
        self.identity = f"pocketsphinx {version('pocketsphinx')}"
        self._decoder = Decoder(samprate=RATE, loglevel="FATAL")

    def hear(self, audio: Floats) -> str:
        """See `Judge`."""
        # Its noise estimate would let one utterance sway how the next is heard.
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        self._decoder.process_raw(_pcm(audio), full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return compared(hypothesis.hypstr.replace(".", "").split()) if hypothesis else ""


class Whisper:
    """Whisper of `transformers`, greedy, in English, from a local folder; clips of at most 30 s, its window."""

    def __init__(self, folder: Path) -> None:
        """Load the weights in `folder`; raises OptionError where they are not Whisper's."""
        try:
            from transformers import WhisperForConditionalGeneration, WhisperProcessor
        except ImportError:
            raise OptionError("transformers is not installed: pip install transformers") from None
        try:
            self._processor = WhisperProcessor.from_pretrained(folder, local_files_only=True)
            self._model = WhisperForConditionalGeneration.from_pretrained(folder, local_files_only=True).eval()
        except (OSError, ValueError, TypeError) as error:
            raise OptionError(f"--judge-weights {folder} holds no Whisper: {str(error).splitlines()[0]}") from None
        self.identity = f"whisper {version('transformers')} {folder_hash(folder)}"

    def hear(self, audio: Floats) -> str:
        """See `Judge`."""
        if len(audio) + 2 * PADDING > (longest := self._processor.feature_extractor.n_samples):
            allowed = f"hears {longest / RATE:.0f} s at most: take faster-whisper, or shorter sentences"
            raise OptionError(f"a clip lasts {len(audio) / RATE:.1f} s, and --judge whisper {allowed}")
        features = self._processor(_padded(audio), sampling_rate=RATE, return_tensors="pt").input_features
        english = {} if not getattr(self._model.generation_config, "is_multilingual", False) else {"language": "en"}
        ids = self._model.generate(features, do_sample=False, num_beams=1, **english)
        return words_of(self._processor.batch_decode(ids, skip_special_tokens=True)[0])


class FasterWhisper:
    """Whisper of `faster-whisper` (CTranslate2), greedy, in English, from a local folder, on the CPU in float32."""

    def __init__(self, folder: Path) -> None:
        """Load the weights in `folder`; raises OptionError where they are not CTranslate2's."""
        try:
            from faster_whisper import WhisperModel
        except ImportError:
            raise OptionError("faster-whisper is not installed: pip install faster-whisper") from None
        try:
            self._model = WhisperModel(str(folder), device="cpu", compute_type="float32", local_files_only=True)
        except (RuntimeError, ValueError, OSError) as error:
            raise OptionError(f"--judge-weights {folder} holds no Whisper: {str(error).splitlines()[0]}") from None
        self.identity = f"faster-whisper {version('faster-whisper')} {folder_hash(folder)}"

    def hear(self, audio: Floats) -> str:
        """See `Judge`."""
        segments, _ = self._model.transcribe(_padded(audio), language="en", beam_size=1, temperature=0.0)
        return words_of(" ".join(segment.text for segment in segments))


WITH_WEIGHTS: Final[dict[str, Any]] = {"whisper": Whisper, "faster-whisper": FasterWhisper}
JUDGES: Final = ("pocketsphinx", *WITH_WEIGHTS)
"""Recognisers by the name of the option."""


def open_judge(name: str, weights: Path | None) -> Judge:
    """The judge called `name`; raises OptionError where it needs a folder of weights and has none, or the reverse."""
    if name == "pocketsphinx":
        if weights is not None:
            raise OptionError("--judge-weights goes with --judge whisper or faster-whisper: pocketsphinx has its own")
        return Pocketsphinx()
    if weights is None or not weights.is_dir():
        raise OptionError(f"--judge {name} needs --judge-weights FOLDER, a local folder of its weights")
    judge: Judge = WITH_WEIGHTS[name](weights)
    return judge


def folder_hash(folder: Path) -> str:
    """Hash of the names and contents of the files of `folder`, 16 hex digits."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _padded(audio: Floats) -> Floats:
    """`audio` with silence on both sides."""
    return np.pad(audio, PADDING)


def _pcm(audio: Floats) -> bytes:
    """Padded `audio` as 16-bit samples."""
    return np.clip(np.round(_padded(audio) * 32767), -32768, 32767).astype(np.int16).tobytes()
