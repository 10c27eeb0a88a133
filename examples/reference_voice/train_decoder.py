"""Stage 5: the full-attention decoder.

`python -m examples.reference_voice.train_decoder --data work/codes --lexicon voices/reference/lexicon.txt -o
work/decoder` trains on cross-entropy of the speech codes, short utterances first, with part of the speech history
hidden so that the text has to be read. Held-out loss is taken on the last shard. Checkpoints every 200 steps; run
again to resume.
With `torchrun --nproc-per-node N -m …` N processes share the work.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize

from examples.reference_voice import layout
from examples.reference_voice.attention import guide, guide_loss, set_guide, use_grouped_attention
from examples.reference_voice.corpus import Batch, Corpus
from sottovoce.models.codec import CodecConfig
from sottovoce.models.config import DecoderConfig
from sottovoce.models.decoder import Decoder
from sottovoce.models.fsq import FSQ

GUIDE = 0.3
"""Weight of the attention guide."""

DRIFT = 0.5
"""Temperature of the codes that take the place of the teacher's in the history."""

HF_CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": layout.VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}


class AddDigits(nn.Module):
    """Embedding row of a code += the sum of its FSQ digits' vectors: codes that sound alike start out alike."""

    digits: Tensor

    def __init__(self, width: int) -> None:
        """One vector per level of each FSQ dimension."""
        super().__init__()
        quantizer = FSQ(CodecConfig().levels)
        digits = quantizer.digits(torch.arange(quantizer.size))
        one_hot = [F.one_hot(digits[:, i], n) for i, n in enumerate(quantizer.levels)]
        table = F.pad(torch.cat(one_hot, 1).float(), (0, 0, 0, layout.VOCABULARY - quantizer.size))
        self.register_buffer("digits", table, persistent=False)
        self.vectors = nn.Parameter(0.02 * torch.randn(table.shape[1], width))

    def forward(self, weight: Tensor) -> Tensor:
        """Embedding `[V,d]` with the digits' vectors added."""
        return weight + self.digits @ self.vectors


def build(seed: int, init: Path | None) -> Decoder:
    """The decoder with its code embeddings tied to FSQ digits; its weights from the folder `init` where given."""
    torch.manual_seed(seed)
    decoder = Decoder(DecoderConfig.from_hf(HF_CONFIG), seed)
    if init:
        decoder.load_state_dict({k: v.float() for k, v in load_file(init / "model.safetensors").items()})
    parametrize.register_parametrization(decoder.model.embed_tokens, "weight", AddDigits(decoder.config.hidden_size))
    if init:
        decoder.model.embed_tokens.parametrizations.weight[0].vectors.data.zero_()
    use_grouped_attention(decoder)
    return decoder


class Loss(nn.Module):
    """Mean cross-entropy over a batch's speech codes and stops."""

    def __init__(self, decoder: Decoder) -> None:
        """Of `decoder`."""
        super().__init__()
        self.decoder = decoder

    def forward(self, batch: Batch, learning: bool = False) -> tuple[Tensor, Tensor]:
        """Cross-entropy, and the guide's loss; both scalars. Unless `learning`, there is neither drift nor guide."""
        wanted = batch.targets >= 0
        targets = batch.targets[wanted]
        set_guide(self.decoder, None)
        ids = self.drifted(batch) if learning else batch.ids
        if learning:
            set_guide(self.decoder, guide(batch.prefixes, batch.places, ids.shape[1]))
        with parametrize.cached(), torch.autocast("cpu", torch.bfloat16):
            hidden = self.decoder(ids)[wanted]
            # In pieces, so that the logits of one stay in the processor's cache.
            pieces = [
                F.cross_entropy(self.decoder.logits(h, slice(0, layout.STOP + 1)).float(), t, reduction="sum")
                for h, t in zip(hidden.split(400), targets.split(400), strict=True)
            ]
        return torch.stack(pieces).sum() / len(targets), guide_loss(self.decoder) if learning else torch.zeros(())

    @torch.no_grad()
    def drifted(self, batch: Batch) -> Tensor:
        """The batch's ids, with a share of each row's history as the decoder itself would have said it.

        Alone it hears only itself: what it learns from the teacher's codes must hold on its own (scheduled sampling in
        two passes, arXiv 1906.07651). What is masked stays so.
        """
        generator = torch.Generator().manual_seed(batch.seed)
        wanted, said = batch.targets >= 0, torch.full_like(batch.ids, layout.STOP)
        with parametrize.cached(), torch.autocast("cpu", torch.bfloat16):
            logits = self.decoder.logits(self.decoder(batch.ids)[wanted], slice(0, layout.STOP)).float() / DRIFT
        said[wanted] = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
        share = torch.rand(len(said), 1, generator=generator)
        replaced = wanted[:, 1:] & (torch.rand(said[:, 1:].shape, generator=generator) < share)
        replaced &= (batch.ids[:, 1:] != layout.MASK) & (said[:, :-1] < layout.CODES)
        return torch.cat([batch.ids[:, :1], torch.where(replaced, said[:, :-1], batch.ids[:, 1:])], 1)


def save(path: Path, decoder: Decoder, optimizer: torch.optim.Optimizer, step: int) -> None:
    """The whole training state, replaced at once; and the weights alone, fp16, as a Hugging Face folder."""
    part = path.with_suffix(".part")
    torch.save({"decoder": decoder.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, part)
    part.replace(path)
    weights = {k: v for k, v in decoder.state_dict().items() if "parametrizations" not in k}
    weights["model.embed_tokens.weight"] = decoder.model.embed_tokens.weight.detach()
    save_file({k: v.half().contiguous() for k, v in weights.items()}, path.parent / "model.safetensors")
    (path.parent / "config.json").write_text(json.dumps(HF_CONFIG, indent=1) + "\n")


def schedule(step: int, args: argparse.Namespace) -> float:
    """Learning rate: linear warm-up over 200 steps, constant, then linear to 0 over the last `args.decay` steps.

    The constant part can be prolonged at will: `--steps` is only known to the decay.
    """
    return float(args.lr * min(1, (step + 1) / 200, (args.steps - step) / max(1, args.decay)))


@torch.no_grad()
def held_out_loss(loss: Loss, corpus: Corpus) -> float:
    """Mean loss over 12 fixed batches of held-out utterances."""
    rng = np.random.default_rng(0)
    return float(np.mean([loss(corpus.batch(rng, 2500, 1000, 0.0))[0].item() for _ in range(12)]))


def optimizer_of(decoder: Decoder, lr: float) -> torch.optim.Optimizer:
    """AdamW; norms and biases do not decay."""
    matrices = [p for p in decoder.parameters() if p.dim() > 1]
    rest = [p for p in decoder.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), eps=1e-9)


def train(args: argparse.Namespace, rank: int) -> None:
    """Train up to `args.steps`, resuming where a checkpoint is found; every process draws batches of its own."""
    *paths, last = sorted(args.data.glob("rms-slt_*[0-9].npz"))
    corpus, held_out = Corpus(paths, args.lexicon), Corpus([last], args.lexicon)
    hours = sum(map(len, corpus.codes)) / 50 / 3600
    print(f"{len(corpus.codes)} utterances, {hours:.1f} h", flush=True)
    decoder = build(args.seed, args.init)
    optimizer = optimizer_of(decoder, args.lr)
    args.output.mkdir(parents=True, exist_ok=True)
    path, first = args.output / "state.pt", 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        decoder.load_state_dict(state["decoder"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    loss_of = Loss(decoder)
    parallel = DistributedDataParallel(loss_of) if dist.is_initialized() else loss_of
    began, recent = time.time(), []
    for step in range(first, args.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule(step, args)
        longest = 1000 if args.init else int(min(1000, 140 + step * 0.25))
        rng = np.random.default_rng([args.seed, step, rank])
        loss, guided = parallel(corpus.batch(rng, args.tokens, longest, args.mask), learning=True)
        optimizer.zero_grad()
        (loss + GUIDE * guided).backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        recent.append((loss.item(), guided.item()))
        last = step + 1 == args.steps
        if ((step + 1) % 50 == 0 or last) and rank == 0:
            mean = [round(float(m), 4) for m in np.mean(recent, 0)]
            row = {"step": step + 1, "loss": mean[0], "guide": mean[1], "seconds": round(time.time() - began, 1)}
            recent = []
            if (step + 1) % 200 == 0 or last:
                row["held_out"] = round(held_out_loss(loss_of, held_out), 4)
                save(path, decoder, optimizer, step + 1)
            print(json.dumps(row), flush=True)


def main() -> None:
    """Parse arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--lexicon", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--tokens", type=int, default=2600)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--mask", type=float, default=0.15, help="largest share of speech history hidden")
    parser.add_argument("--decay", type=int, default=1500, help="steps of decay at the end")
    parser.add_argument("--init", type=Path, help="start from the weights of this folder (model.safetensors)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rank = int(os.environ.get("RANK", 0))
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    train(args, rank)


if __name__ == "__main__":
    main()
