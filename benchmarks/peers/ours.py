"""This project's own decoder: fixed buffers of P + W slots, and the runtime's own loop."""

from pathlib import Path
from typing import Any

from benchmarks.peers.serve import main
from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.decode import Stream

PREFIX, WINDOW = 256, 512
"""P and W of `benchmarks/shape05b.py`: 768 slots are attended to once all are in use."""

NARROW, SHORT = "-narrow", (187, 32)
"""End of a format that has the P and W of `benchmarks/window_latency.py`, the paper's."""

FINE, BLOCK = "-fine", 32
"""End of a format with blocks as small as the peers', which take 32 weights to a scale."""

POSITIONS = 8192


def prepare(checkpoint: Path, folder: Path, format: str) -> None:
    """A bundle with the window."""
    slots = SHORT if format.endswith(NARROW) else (PREFIX, WINDOW)
    block = BLOCK if format.endswith(FINE) else None
    write_bundle(checkpoint, folder, format.partition("-")[0], *slots, block)


def write_bundle(
    checkpoint: Path, folder: Path, weights: str, prefix: int, window: int, block: int | None = None
) -> None:
    """A bundle of the decoder alone; random weights have nothing to be verified by."""
    from benchmarks.checkpoints import write_manifest
    from sottovoce.export.decoder import DecoderOptions, export_decoder
    from sottovoce.export.weight_recipe import WeightRecipe
    from sottovoce.models.checkpoint import Checkpoint

    options = DecoderOptions(WeightRecipe(weights, block), prefix, window, POSITIONS)  # type: ignore[arg-type]
    write_manifest(folder, export_decoder(Checkpoint.open(checkpoint), options, folder))


class Ours:
    """A stream of an open bundle: what does not fit into the prefix is spoken."""

    def __init__(self, folder: Path, format: str, threads: int, room: int) -> None:
        """Hashes are checked, as a user's are."""
        self.stream = Stream(load_bundle(folder, threads=threads))

    def read(self, ids: list[int], ahead: int) -> Any:
        """See `Contender`."""
        if not self.stream.position:
            logits: Any = self.stream.prefill(ids[: self.stream.cache.prefix])
        for token in ids[self.stream.position :]:
            logits = self.stream.step(token)
        return logits

    def step(self, token: int) -> Any:
        """See `Contender`."""
        return self.stream.step(token)


if __name__ == "__main__":
    main(prepare, Ours)
