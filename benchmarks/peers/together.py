"""This project's three methods at once: half the layers, a window, and a patch of four tokens with each step."""

from pathlib import Path
from typing import Any

from benchmarks.patch_source import PREFIX, PROMPT, SAMPLING, open_source
from benchmarks.peers.ours import POSITIONS, WINDOW
from benchmarks.peers.serve import main
from sottovoce.runtime.utterance import Utterance

ENDLESS = 10**6


def prepare(checkpoint: Path, folder: Path, format: str) -> None:
    """Every other layer, the paper's nets around them, a ring of as many tokens as `ours` has.

    With `-taught` behind the format, nets of the sizes that `compress patch` gives such a backbone.
    """
    import tempfile

    from benchmarks.checkpoints import write_manifest
    from benchmarks.patch import PAPER
    from benchmarks.pruned import Setting, halve
    from sottovoce.export.patch_graph import PatchOptions, export_patches
    from sottovoce.models.checkpoint import Checkpoint
    from sottovoce.models.patch.config import PatchConfig
    from sottovoce.models.patch.decoder import PatchDecoder

    size, (weights, *taught) = PAPER.patches.patch, format.split("-")
    slots = len(PREFIX) - PROMPT.max_prompt_codes + -(-PROMPT.max_prompt_codes // size)
    options = PatchOptions(weights, slots, WINDOW // size, PROMPT.max_prompt_codes, POSITIONS)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as name:
        half = Path(name)
        halve(checkpoint, Setting(Checkpoint.open(checkpoint).hf).kept, half)
        backbone = Checkpoint.open(half).load()
        nets = PatchConfig.of(backbone.config, size) if taught else PAPER.patches
        decoder = PatchDecoder(backbone, nets, PROMPT)
        write_manifest(folder, export_patches(decoder, PROMPT, options, folder))


class Together:
    """A source that says `size` tokens with each run of its graph, which draws them."""

    def __init__(self, folder: Path, format: str, threads: int, room: int) -> None:
        """Tokens are drawn as the paper draws them."""
        self.source, _ = open_source(folder, threads=threads)
        self.size = self.source.size
        self.count = 0

    def read(self, ids: list[int], ahead: int) -> Any:
        """See `Contender`: its own prefix, and then what it says; it has no logits to give."""
        if not self.count:
            self.count = len(PREFIX) + len(self.source.begin(Utterance(PREFIX, SAMPLING, 0, ENDLESS, ENDLESS)))
        while self.count < len(ids):
            self.step(0)

    def step(self, token: int) -> Any:
        """See `Contender`."""
        self.count += len(self.source.step())


if __name__ == "__main__":
    main(prepare, Together)
