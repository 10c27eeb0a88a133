"""transformers, eager, with a StaticCache: buffers of as many tokens as are asked for, read whole at each step."""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, StaticCache

from benchmarks.peers.serve import main

CHUNK = 256
"""Tokens read at once."""


def prepare(checkpoint: Path, folder: Path, format: str) -> None:
    """The checkpoint itself is what is loaded."""
    for path in checkpoint.iterdir():
        shutil.copyfile(path, folder / path.name)


class Eager:
    """fp32, attention as the library chooses it."""

    def __init__(self, folder: Path, format: str, threads: int, room: int) -> None:
        """Room is made at each point anew, or short contexts would pay for long ones."""
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.count = 0

    def _run(self, ids: list[int]) -> Any:
        """Logits after `ids`."""
        positions = torch.arange(self.count, self.count + len(ids))
        out = self.model(
            torch.tensor([ids]), past_key_values=self.cache, position_ids=positions[None], logits_to_keep=1
        )
        self.count += len(ids)
        return out.logits[0, -1].numpy()

    def read(self, ids: list[int], ahead: int) -> Any:
        """See `Contender`: from the beginning, into new buffers."""
        self.cache, self.count = StaticCache(self.model.config, max_cache_len=len(ids) + ahead), 0
        for start in range(0, len(ids), CHUNK):
            logits = self._run(ids[start : start + CHUNK])
        return logits

    def step(self, token: int) -> Any:
        """See `Contender`."""
        return self._run([token])


if __name__ == "__main__":
    main(prepare, Eager)
