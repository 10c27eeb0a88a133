"""ExecuTorch with XNNPACK: transformers' own exportable module, whose cache is as long as the context may grow."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from executorch.extension.pybindings.portable_lib import _load_for_executorch, _unsafe_reset_threadpool

from benchmarks.peers.serve import main

FILE = "model.pte"

ROOM = 2304
"""Tokens its buffers hold, read whole at each step; longer ones are not measured."""


def prepare(checkpoint: Path, folder: Path, format: str) -> None:
    """Exported for one token at a time, lowered to XNNPACK, fp32."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.integrations.executorch import TorchExportableModuleForDecoderOnlyLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval().requires_grad_(False)
    cache = {"batch_size": 1, "max_cache_len": ROOM}
    model.generation_config = GenerationConfig(use_cache=True, cache_implementation="static", cache_config=cache)
    module = TorchExportableModuleForDecoderOnlyLM(model, batch_size=1, max_cache_len=ROOM)
    one = torch.zeros((1, 1), dtype=torch.long)
    # Not strictly, transformers 5.23 lifts its cache as constants that nothing writes to.
    with torch.no_grad():
        program = module.export(
            input_ids=one, cache_position=torch.zeros(1, dtype=torch.long), dynamic_shapes={}, strict=True
        )
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    with (folder / FILE).open("wb") as file:
        lowered.write_to_file(file)


class Xnnpack:
    """One token at a time, its prefix too."""

    def __init__(self, folder: Path, format: str, threads: int, room: int) -> None:
        """The cache is as long as it was exported, whatever `room` is asked for."""
        _unsafe_reset_threadpool(threads)
        self.module = _load_for_executorch(str(folder / FILE))
        self.count = 0

    def read(self, ids: list[int], ahead: int) -> Any:
        """See `Contender`; ValueError where it does not fit."""
        if len(ids) + ahead > ROOM:
            raise ValueError(f"exported for {ROOM} tokens")
        for token in ids[self.count :]:
            logits = self.step(token)
        return logits

    def step(self, token: int) -> Any:
        """See `Contender`."""
        inputs = torch.tensor([[token]]), torch.tensor([self.count])
        self.count += 1
        return np.asarray(self.module.forward(inputs)[0])[0, -1]


if __name__ == "__main__":
    main(prepare, Xnnpack)
