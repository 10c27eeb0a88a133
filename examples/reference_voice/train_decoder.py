"""Stage 5: the full-attention decoder.

`python -m examples.reference_voice.train_decoder --data work/codes --lexicon voices/reference/lexicon.txt -o
work/decoder` trains on cross-entropy of the speech codes, short utterances first, with part of the speech history
hidden so that the text has to be read. Held-out loss is taken on the last shard. Checkpoints every 250 steps; run
again to resume.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from examples.reference_voice import layout
from examples.reference_voice.corpus import Batch, Corpus
from sottovoce.models.codec import CodecConfig
from sottovoce.models.config import DecoderConfig
from sottovoce.models.decoder import Decoder
from sottovoce.models.fsq import FSQ

HF_CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": layout.VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
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


def build(seed: int) -> Decoder:
    """The decoder with its code embeddings tied to FSQ digits."""
    torch.manual_seed(seed)
    decoder = Decoder(DecoderConfig.from_hf(HF_CONFIG), seed)
    parametrize.register_parametrization(decoder.model.embed_tokens, "weight", AddDigits(decoder.config.hidden_size))
    return decoder


def loss_of(decoder: Decoder, batch: Batch) -> Tensor:
    """Mean cross-entropy over the batch's speech codes and stops."""
    with parametrize.cached(), torch.autocast("cpu", torch.bfloat16):
        hidden = decoder(batch.ids)
        wanted = batch.targets >= 0
        logits = decoder.logits(hidden[wanted], slice(0, layout.STOP + 1))
    return F.cross_entropy(logits.float(), batch.targets[wanted])


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
    """Learning rate: linear warm-up over 300 steps, cosine to 2 %."""
    return float(
        args.lr * min(1, (step + 1) / 300) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * step / args.steps)))
    )


@torch.no_grad()
def held_out_loss(decoder: Decoder, corpus: Corpus) -> float:
    """Mean loss over 12 fixed batches of held-out utterances."""
    rng = np.random.default_rng(0)
    return float(np.mean([loss_of(decoder, corpus.batch(rng, 2500, 600, 0.0)).item() for _ in range(12)]))


def train(args: argparse.Namespace) -> None:
    """Train up to `args.steps`, resuming where a checkpoint is found."""
    *paths, last = sorted(args.data.glob("rms-slt-kal16_*[0-9].npz"))
    corpus, held_out = Corpus(paths, args.lexicon), Corpus([last], args.lexicon)
    print(f"{len(corpus.codes)} utterances, {sum(map(len, corpus.codes)) / 25 / 3600:.1f} h", flush=True)
    decoder = build(args.seed)
    matrices = [p for p in decoder.parameters() if p.dim() > 1]
    rest = [p for p in decoder.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98), eps=1e-9)
    args.output.mkdir(parents=True, exist_ok=True)
    path, first = args.output / "state.pt", 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        decoder.load_state_dict(state["decoder"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    began, recent = time.time(), []
    for step in range(first, args.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule(step, args)
        longest = int(min(600, 90 + step * 0.15))
        loss = loss_of(decoder, corpus.batch(np.random.default_rng([args.seed, step]), args.tokens, longest, args.mask))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        recent.append(loss.item())
        if (step + 1) % 50 == 0:
            row = {"step": step + 1, "loss": round(float(np.mean(recent)), 4), "seconds": round(time.time() - began, 1)}
            recent = []
            if (step + 1) % 250 == 0 or step + 1 == args.steps:
                row["held_out"] = round(held_out_loss(decoder, held_out), 4)
                save(path, decoder, optimizer, step + 1)
            print(json.dumps(row), flush=True)


def main() -> None:
    """Parse arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--lexicon", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--tokens", type=int, default=3000)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--mask", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
