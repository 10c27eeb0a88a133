"""What the runtime's loop asks of the interpreter, and is answered: for a loop in another language to be held to."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sottovoce.export.coreml.interpreted import InterpretedEngine
from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.codec import CodecStream
from sottovoce.runtime.source import open_source
from sottovoce.runtime.utterance import Generation, Utterance


@dataclass
class Recording:
    """Calls of one package, and their arrays, equal ones once."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    halves: list[np.ndarray] = field(default_factory=list)
    places: dict[bytes, int] = field(default_factory=dict)
    size: int = 0

    def piece(self, array: np.ndarray) -> dict[str, Any]:
        """Where `array` lies."""
        assert array.dtype == np.float16
        key = array.tobytes()
        if key not in self.places:
            self.places[key] = self.size
            self.halves.append(array.flatten())  # a copy: the loop writes its masks in place
            self.size += array.size
        return {"shape": array.shape, "start": self.places[key]}

    def write(self, folder: Path, name: str) -> None:
        """`name`.json and `name`.bin."""
        (folder / f"{name}.json").write_text(json.dumps(self.calls))
        (folder / f"{name}.bin").write_bytes(np.concatenate(self.halves).tobytes())


class Recorder:
    """The interpreter, overheard; states are told apart by their function and the order in which they were made."""

    def __init__(self, path: Path, functions: Sequence[str], recording: Recording) -> None:
        self._engine, self._recording, self._states = InterpretedEngine(path, functions), recording, 0

    def make_state(self, function: str) -> Any:
        self._states += 1
        return f"{function} {self._states}", self._engine.make_state(function)

    def predict(self, function: str, feeds: Mapping[str, np.ndarray], state: Any) -> dict[str, np.ndarray]:
        name, states = state or (None, None)
        asked = {name: self._recording.piece(array) for name, array in feeds.items()}
        outputs = self._engine.predict(function, feeds, states)
        said = {name: self._recording.piece(array) for name, array in outputs.items()}
        self._recording.calls.append({"function": function, "state": name, "feeds": asked, "outputs": said})
        return outputs


def record(bundle: Path, folder: Path, prefix: tuple[int, ...], length: int) -> bool:
    """Say three utterances by one stream of `bundle`: `length` tokens, up to a stop, and nine; write what was said and
    asked into `folder`, beside a copy of the bundle's host files. Whether a stop was drawn."""
    decoder, codec = Recording(), Recording()

    def opened(path: Path, functions: Sequence[str]) -> Recorder:
        return Recorder(path, functions, codec if path.name.startswith("codec") else decoder)

    voice = load_bundle(bundle, threads=1, open_engine=opened)
    sampling, source = voice.voice.sampling, open_source(voice, 64)
    utterances = (
        Utterance(prefix, sampling, 7, length, length),
        Utterance(prefix[:-3], sampling, _stopping(bundle, prefix[:-3], length), 0, length),
        Utterance(prefix, sampling, 8, 9, 9),
    )
    folder.mkdir(parents=True)
    shutil.copytree(bundle, folder / "bundle", ignore=shutil.ignore_patterns("*.mlpackage", "*.onnx"))
    said, stopped = [], False
    for utterance in utterances:
        generation = Generation(source, utterance)
        codes = [token - voice.voice.prompt.code_offset for token in generation]
        samples, stopped = CodecStream(voice.voice).finish(codes), stopped or generation.stopped == "stop token"
        said.append({
            "prefix": utterance.prefix, "codes": codes, "seed": utterance.seed, "samples": samples.tolist(),
            "maxTokens": utterance.max_tokens, "minTokens": utterance.min_tokens,
        })  # fmt: skip
    (folder / "said.json").write_text(json.dumps(said))
    decoder.write(folder, "decoder")
    codec.write(folder, "codec")
    return stopped


def _stopping(bundle: Path, prefix: tuple[int, ...], length: int) -> int:
    """A seed with which a stop is drawn behind some tokens and before `length`, if there is one among the first."""
    voice = load_bundle(bundle, threads=1, open_engine=InterpretedEngine)
    source = open_source(voice, 64)
    for seed in range(9):
        generation = Generation(source, Utterance(prefix, voice.voice.sampling, seed, 0, length))
        if len(list(generation)) > 1 and generation.stopped == "stop token":
            return seed
    return 0
