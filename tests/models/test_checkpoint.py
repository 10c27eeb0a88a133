"""HF folders: whole and sharded, every dtype, and each way in which one can be bad."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sottovoce.errors import OutputError, VoiceError
from sottovoce.models.checkpoint import INDEX, WEIGHTS, Checkpoint, save_weights, write_atomic
from sottovoce.models.names import pack
from tests.models.shapes import CONFIGS, tiny_decoder


def write_folder(folder: Path, name: str = "qwen2_tied", dtype: torch.dtype = torch.float32, shards: int = 1) -> Path:
    """An HF folder of the tiny decoder `name`."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
    decoder = tiny_decoder(name)
    if shards == 1:
        save_weights(decoder, folder, dtype)
        return folder
    packed = pack(decoder.state_dict(), decoder.config.traits)
    tensors = {key: value.to(dtype).contiguous() for key, value in packed.items()}
    where = {key: f"model-{index % shards}.safetensors" for index, key in enumerate(tensors)}
    for shard in set(where.values()):
        save_file({key: tensors[key] for key in tensors if where[key] == shard}, folder / shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_loads(tmp_path: Path, name: str, shards: int, dtype: torch.dtype) -> None:
    expected = tiny_decoder(name).state_dict()
    actual = Checkpoint.open(write_folder(tmp_path, name, dtype, shards)).load().state_dict()
    assert actual.keys() == expected.keys()
    for key in expected:
        assert actual[key].dtype == torch.float32
        assert torch.equal(actual[key], expected[key].to(dtype).float())


@pytest.mark.parametrize("name", ["qwen2_tied", "gpt2_tied", "gpt2_own_head"])
def test_reads_what_transformers_saves(tmp_path: Path, name: str) -> None:
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = dict(CONFIGS[name])
    oracle = AutoModelForCausalLM.from_config(CONFIG_MAPPING[config.pop("model_type")](**config)).eval()
    oracle.save_pretrained(tmp_path, max_shard_size="60KB")
    assert (tmp_path / INDEX).exists()
    ids = torch.arange(40)[None]
    decoder = Checkpoint.open(tmp_path).load()
    with torch.no_grad():
        torch.testing.assert_close(decoder.logits(decoder(ids)), oracle(ids).logits, rtol=0, atol=1e-5)


def test_transformers_reads_what_is_saved(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    decoder = tiny_decoder("gpt2_tied")
    oracle = AutoModelForCausalLM.from_pretrained(write_folder(tmp_path, "gpt2_tied")).eval()
    ids = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(decoder.logits(decoder(ids)), oracle(ids).logits, rtol=0, atol=1e-5)


def test_hash_follows_the_weights(tmp_path: Path) -> None:
    first = Checkpoint.open(write_folder(tmp_path)).sha256()
    assert Checkpoint.open(tmp_path).sha256() == first
    tensors = load_file(tmp_path / WEIGHTS)
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, tmp_path / WEIGHTS)
    assert Checkpoint.open(tmp_path).sha256() != first


def test_copy_of_tied_head_is_ignored(tmp_path: Path) -> None:
    tensors = load_file(write_folder(tmp_path) / WEIGHTS)
    tensors["lm_head.weight"] = torch.zeros(97, 64)
    save_file(tensors, tmp_path / WEIGHTS)
    assert "lm_head.weight" not in Checkpoint.open(tmp_path).load().state_dict()


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Replace tensors of the only file; None removes one (`__` stands for a dot)."""
    kept = load_file(folder / WEIGHTS) | {key.replace("__", "."): value for key, value in tensors.items()}
    save_file({key: value for key, value in kept.items() if value is not None}, folder / WEIGHTS)


def point_outside(folder: Path, target: str) -> None:
    """An index whose first shard lies at `target`."""
    write_folder(folder, shards=2)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = target
    (folder / INDEX).write_text(json.dumps(index))


def only_pickle(folder: Path) -> None:
    """A folder with a .bin file alone."""
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))


def truncate(folder: Path) -> None:
    """Half a weight file."""
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


BAD = {
    "missing tensor": (lambda f: change(f, model__norm__weight=None), "model.norm.weight is missing"),
    "unexpected tensor": (lambda f: change(f, extra=torch.zeros(2)), "unexpected tensor extra"),
    "wrong shape": (lambda f: change(f, model__norm__weight=torch.zeros(3)), r"model.norm.weight is \[3\]"),
    "wrong dtype": (lambda f: change(f, model__norm__weight=torch.zeros(64).double()), "F64"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "config not JSON": (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
    "config too deep": (lambda f: (f / "config.json").write_text("[" * 100_000), "nested too deeply"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "expected an object"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "model.safetensors is missing"),
    "pickle only": (only_pickle, "pickle"),
    "truncated": (truncate, "damaged"),
    "path above": (lambda f: point_outside(f, "../model.safetensors"), "inside the folder"),
    "absolute path": (lambda f: point_outside(f, "/etc/passwd"), "inside the folder"),
    "missing shard": (lambda f: point_outside(f, "model-9.safetensors"), "model-9.safetensors is missing"),
    "index without map": (lambda f: (f / INDEX).write_text("{}"), "weight_map"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_folder(tmp_path: Path, kind: str) -> None:
    spoil, says = BAD[kind]
    spoil(write_folder(tmp_path))
    with pytest.raises(VoiceError, match=says):
        Checkpoint.open(tmp_path)


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        write_atomic(target, fail)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert target.read_text() == "old"
