"""What a voice learns from when it learns patches, and what of it moves."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from sottovoce.compress.corpus.batches import IGNORED, Batch
from sottovoce.compress.history import hear_itself
from sottovoce.compress.loop import _groups
from sottovoce.compress.losses import skew_kl_sum
from sottovoce.compress.patch import TARGETS, PatchObjective, Windows
from sottovoce.compress.recipe import BatchRecipe, LoraRecipe, LossRecipe, PatchRecipe, TrainRecipe
from sottovoce.compress.training_state import trainable
from sottovoce.models.config import DecoderConfig
from sottovoce.models.decoder import Decoder
from sottovoce.models.masks import wand_mask
from sottovoce.models.patch.compressor import Compressor
from sottovoce.models.patch.config import PatchConfig, StackConfig
from sottovoce.models.patch.extractor import Extractor
from tests.models.patches import PROMPT, padded, row, tiny_patches
from tests.models.shapes import CONFIGS

TRAIN = TrainRecipe(1.0, 4, 1e-3, 0.0, 0.1, (0.9, 0.999), 0.0, 1.0, "fp32", 1, 2)
MATRICES = 7 * 2
"""Of attention and feed-forward, in two layers."""


def batch(*, taught: bool = True) -> Batch:
    """Two rows, the stop as their last target."""
    ids, prefix, lengths = padded(row(5, 9, 14), row(3, 2, 7, seed=1))
    targets = ids.roll(-1, 1)
    for targeted, start, length in zip(targets, prefix.tolist(), lengths.tolist(), strict=True):
        targeted[: start - 1], targeted[length - 1], targeted[length:] = IGNORED, 83, IGNORED
    return Batch(ids, targets if taught else torch.full_like(ids, IGNORED), prefix, lengths)


def objective(
    rank: int = 4, window: int | None = None, name: str = "qwen2_tied", kl: float = 0.0, seen: int | None = None
) -> PatchObjective:
    recipe = PatchRecipe(LossRecipe(1.0, kl, 0.1), LoraRecipe(rank, 1.0, 5e-4), BatchRecipe(400, 1), TRAIN)
    student = tiny_patches(name=name)
    return PatchObjective(student, PROMPT, recipe, Windows(window, seen), deepcopy(student.backbone))


@pytest.mark.parametrize("window", [None, 2])
def test_the_loss_is_that_of_every_token_and_of_the_stop(window: int | None) -> None:
    b, patches = batch(), tiny_patches()
    logits = patches.logits(patches(b.ids, b.prefix, b.lengths, window)).log_softmax(-1)
    ce = torch.zeros(())
    for place, t in (b.targets >= 0).nonzero().tolist():
        ce = ce - logits[place, t, patches.spoken.tolist().index(int(b.targets[place, t]))]
    losses = objective(window=window)(b, 0)
    torch.testing.assert_close(losses["ce"], ce)
    assert losses["loss"] == losses["ce"] and int((b.targets >= 0).sum()) == 14 + 1 + 7 + 1


@pytest.mark.parametrize("seen", [None, 5])
def test_a_teacher_is_the_voice_as_it_was_hearing_the_same(seen: int | None) -> None:
    b, learner = batch(), objective(kl=2.0, seen=seen)
    b = replace(b, drift=torch.where((b.targets >= 0) & (b.targets != 83), torch.rand(b.targets.shape), -1.0))
    heard = hear_itself(b, lambda ids: learner._hidden(ids, b), learner.student.backbone, PROMPT)
    assert not torch.equal(heard.ids, b.ids)
    learned, plain = b.targets >= 0, tiny_patches()
    mask = None if seen is None else wand_mask(b.ids.shape[1], b.prefix, seen)
    wanted = plain.logits(plain.backbone(heard.ids, mask=mask))[learned]
    said = plain.logits(plain(heard.ids, b.prefix, b.lengths))[learned]
    losses = learner(b, 0)
    torch.testing.assert_close(losses["kl"], skew_kl_sum(said, wanted, 0.1))
    torch.testing.assert_close(losses["loss"], losses["ce"] + 2 * losses["kl"])
    losses["loss"].backward()
    assert all(p.grad is None for p in learner.teacher.parameters())


@pytest.mark.parametrize(("name", "matrices"), [("qwen2_tied", MATRICES), ("gpt2_own_head", MATRICES - 2)])
def test_nets_and_low_rank_matrices_learn_at_rates_of_their_own(name: str, matrices: int) -> None:
    learner = objective(name=name)
    learner(batch(), 0)["loss"].backward()
    moving = trainable(learner)
    low = [n for n in moving if learner.share(n) != 1.0]
    assert len(low) == 2 * matrices and all(".lora_" in n and "backbone" in n for n in low)
    assert all(n.startswith(("student.compressor", "student.extractor")) for n in moving if n not in low)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in moving.values())
    assert all(p.grad is None for n, p in learner.named_parameters() if n not in moving)
    assert {group["share"]: len(group["params"]) for group in _groups(learner)} == {
        0.5: len(low),
        1.0: len(moving) - len(low),
    }


@pytest.mark.parametrize(("parts", "count"), [(("self_attn", "mlp"), 130_744_960), (("self_attn",), 104_202_880)])
def test_how_many_parameters_the_papers_sizes_make(parts: tuple[str, ...], count: int) -> None:
    """Its 136.2 M hold some 5.9 M more, as many as a table of its 6561 codes: it takes all matrices to come near."""
    shape = {"hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14, "num_hidden_layers": 24}
    config = DecoderConfig.from_hf(CONFIGS["qwen2_tied"] | shape)
    sizes = PatchConfig(4, StackConfig(1, 8, 112, 4, 3584), StackConfig(4, 8, 112, 4, 3584))
    with torch.device("meta"):
        nets, layers = (Compressor(sizes, config), Extractor(sizes, config)), Decoder(config).model.layers
    named = [(name, m) for name, m in layers.named_modules() if name.rsplit(".", 1)[-1] in TARGETS]
    low = sum(64 * (m.in_features + m.out_features) for name, m in named if any(part in name for part in parts))
    assert sum(p.numel() for net in nets for p in net.parameters()) + low == count


def test_rank_0_leaves_the_backbone() -> None:
    learner = objective(rank=0)
    assert all(n.startswith(("student.compressor", "student.extractor")) for n in trainable(learner))
    before = learner.student.backbone.state_dict()
    assert learner.merge() is learner.student and learner.student.backbone.state_dict().keys() == before.keys()


def test_merged_it_says_the_same() -> None:
    learner, b = objective(), batch()
    with torch.no_grad():
        for name, parameter in trainable(learner).items():
            if ".lora_" in name:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
        before, plain = learner(b, 0)["loss"], objective()(b, 0)["loss"]
        names = tiny_patches().state_dict().keys()
        merged = learner.merge()
        assert merged.state_dict().keys() == names
        torch.testing.assert_close(learner(b, 0)["loss"], before)
        assert (before - plain).abs() > 0.01


def test_the_same_seed_starts_the_same() -> None:
    first, again = (trainable(objective()) for _ in range(2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_a_share_without_targets_gives_zero_gradients() -> None:
    learner = objective()
    learner(batch(taught=False), 0)["loss"].backward()
    assert all(p.grad is not None and not p.grad.any() for p in trainable(learner).values())
