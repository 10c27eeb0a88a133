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
    """The interpreter, overheard."""

    def __init__(self, path: Path, functions: Sequence[str], recording: Recording) -> None:
        self._engine, self._recording = InterpretedEngine(path, functions), recording

    def make_state(self, function: str) -> Any:
        return function, self._engine.make_state(function)

    def predict(self, function: str, feeds: Mapping[str, np.ndarray], state: Any) -> dict[str, np.ndarray]:
        owner, states = state or (None, None)
        asked = {name: self._recording.piece(array) for name, array in feeds.items()}
        outputs = self._engine.predict(function, feeds, states)
        said = {name: self._recording.piece(array) for name, array in outputs.items()}
        self._recording.calls.append({"function": function, "state": owner, "feeds": asked, "outputs": said})
        return outputs


def record(bundle: Path, folder: Path, utterance: Utterance) -> None:
    """Say `utterance` by `bundle` and write what was said and asked into `folder`, beside a copy of the bundle's host
    files."""
    decoder, codec = Recording(), Recording()

    def opened(path: Path, functions: Sequence[str]) -> Recorder:
        return Recorder(path, functions, codec if path.name.startswith("codec") else decoder)

    voice = load_bundle(bundle, threads=1, open_engine=opened)
    tokens = list(Generation(open_source(voice, 64), utterance))
    codes = [token - voice.voice.prompt.code_offset for token in tokens]
    samples = CodecStream(voice.voice).finish(codes)
    folder.mkdir(parents=True)
    shutil.copytree(bundle, folder / "bundle", ignore=shutil.ignore_patterns("*.mlpackage", "*.onnx"))
    said = {
        "prefix": utterance.prefix, "codes": codes, "seed": utterance.seed, "samples": samples.tolist(),
        "maxTokens": utterance.max_tokens, "minTokens": utterance.min_tokens,
    }  # fmt: skip
    (folder / "said.json").write_text(json.dumps(said))
    decoder.write(folder, "decoder")
    codec.write(folder, "codec")
