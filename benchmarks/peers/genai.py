"""onnxruntime-genai: its model builder's graph, and its generator."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og

from benchmarks.peers.hf import with_tokenizer
from benchmarks.peers.serve import main

CHUNK = 256
"""Tokens read at once."""


def prepare(checkpoint: Path, folder: Path, format: str) -> None:
    """The model builder's output for the CPU, its options as they are."""
    source = with_tokenizer(checkpoint, folder / "hf")
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(source), "-o", str(folder)]
    subprocess.run([*builder, "-p", format, "-e", "cpu", "-c", str(folder / "hf")], check=True, cwd=folder)
    for path in (folder / "hf").iterdir():
        path.unlink()
    (folder / "hf").rmdir()


class Genai:
    """One generator; buffers hold `room` tokens, shared by past and present."""

    def __init__(self, folder: Path, format: str, threads: int, room: int) -> None:
        """Threads are a matter of the model's configuration."""
        config = og.Config(str(folder))
        session = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        model = og.Model(config)
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=room, do_sample=False)
        self.generator = og.Generator(model, params)
        self.count = 0

    def read(self, ids: list[int], ahead: int) -> Any:
        """See `Contender`."""
        for start in range(self.count, len(ids), CHUNK):
            self.generator.append_tokens(np.array(ids[start : start + CHUNK], np.int32))
        self.count = len(ids)
        return self.generator.get_logits()[0, -1]

    def step(self, token: int) -> Any:
        """See `Contender`."""
        self.generator.append_tokens(np.array([token], np.int32))
        self.count += 1
        return self.generator.get_logits()[0, -1]


if __name__ == "__main__":
    main(prepare, Genai)
