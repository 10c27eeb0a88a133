"""Opening a bundle: every kind of damage is one line that names the file."""

import json
from dataclasses import replace

import pytest

from sottovoce.errors import BundleError, ContractError, OptionError
from sottovoce.runtime import bundle as module
from sottovoce.runtime.bundle import inside, load_bundle
from sottovoce.runtime.contract import token_ids
from sottovoce.runtime.manifest import HeadSpec, TensorSpec
from sottovoce.runtime.session import open_session, thread_count
from tests.runtime.fakes import PROMPT, fake_session, manifest, write_files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A sound bundle folder over fake graphs."""
    spec = write_files(tmp_path / "b", manifest())
    monkeypatch.setattr(module, "open_session", lambda path, threads: fake_session(spec, path))
    return tmp_path / "b"


def rewrite(folder, **changes):
    """Change fields of the manifest on disk."""
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_sound_bundle_opens(folder):
    bundle = load_bundle(folder, threads=3)
    assert bundle.threads == 3
    assert bundle.token_ids.tolist() == list(range(11))
    assert set(bundle.load_seconds) == {"hashes", "decoder", "codec", "text"}
    assert bundle.voice.prompt == PROMPT
    assert load_bundle(folder).threads == thread_count(None)
    with pytest.raises(ValueError, match="read-only"):
        bundle.token_ids[0] = 5


@pytest.mark.parametrize("name", ["decoder.onnx", "codec_decoder.onnx", "codec_encoder.onnx", "prompts/ada.json"])
def test_damaged_files_are_named(folder, name):
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"#")
    with pytest.raises(BundleError, match=rf"{name} is altered"):
        load_bundle(folder)
    load_bundle(folder, verify_hashes=False)
    path.write_bytes(content[:-1])
    with pytest.raises(BundleError, match=rf"{name} is truncated: {len(content) - 1} bytes"):
        load_bundle(folder, verify_hashes=False)
    path.unlink()
    with pytest.raises(BundleError, match=rf"{name} is missing"):
        load_bundle(folder)


def test_no_manifest(tmp_path):
    with pytest.raises(BundleError, match="is not a bundle"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 99}, "schema 99 is newer"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"min_onnxruntime": "99.0"}, "needs onnxruntime 99.0"),
        ({"flavour": "portable"}, "--flavour ort"),
        ({"codec": None}, "codec is missing"),
        ({"prompt": None}, "prompt is missing"),
        ({"max_position": "many"}, "max_position: expected int"),
        ({"decoder": "other.onnx"}, "no entry for other.onnx"),
    ],
)
def test_manifests_that_cannot_be_used(folder, changes, message):
    rewrite(folder, **changes)
    with pytest.raises(BundleError, match=message):
        load_bundle(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "..\\secret", "C:\\secret", ""])
def test_names_stay_inside(folder, name):
    files = json.loads((folder / "manifest.json").read_text())["files"]
    rewrite(folder, files={**files, name: {"sha256": "0" * 64, "size": 1}})
    with pytest.raises(BundleError, match="outside the bundle"):
        load_bundle(folder)


def test_links_stay_inside(folder):
    outside = folder.parent / "secret"
    outside.write_text("secret")
    (folder / "link").symlink_to(outside)
    with pytest.raises(BundleError, match="leads outside"):
        inside(folder, "link")
    (folder / "near").symlink_to("decoder.onnx")
    assert inside(folder, "near") == folder / "near"


def with_io(spec, index, tensor):
    """`spec` whose decoder graph reports `tensor` as its input number `index`."""
    inputs = list(spec.io.inputs)
    inputs[index : index + 1] = [tensor] if tensor else []
    return replace(spec, io=replace(spec.io, inputs=tuple(inputs)))


@pytest.mark.parametrize(
    ("index", "tensor", "message"),
    [
        (0, TensorSpec("input_ids", "tensor(int32)", (1, "T")), "input input_ids is .*int32"),
        (5, TensorSpec("past_key_values.0.key", "tensor(float)", (1, 1, 46, 1)), "past_key_values.0.key is .*46"),
        (4, None, "input attention_bias of .* is not in the graph"),
        (4, TensorSpec("mask", "tensor(float)", (1,)), "attention_bias"),
        (99, TensorSpec("extra", "tensor(float)", (1,)), "input extra of the graph is unknown"),
    ],
)
def test_graphs_that_contradict_the_manifest(folder, monkeypatch, index, tensor, message):
    graph = with_io(manifest(), index, tensor)
    monkeypatch.setattr(module, "open_session", lambda path, threads: fake_session(graph, path))
    with pytest.raises(ContractError, match=message):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": {"ids": [[0, 10]]}}, "logits"),
        ({"head": {"ids": []}}, "head.ids"),
        ({"head": {"ids": [[5, 3]]}}, "head.ids"),
        ({"head": {"ids": [[0, 10], [11, 12]]}}, "token 10 is in only one"),
        ({"prompt": {**PROMPT.__dict__, "layout": [60, "{text}", "{mood}"]}}, "'{mood}' is not one of"),
        ({"prompt": {**PROMPT.__dict__, "layout": [60]}}, "no {text}"),
        ({"prompt": {**PROMPT.__dict__, "code_count": 11, "stop": []}}, "stop is empty"),
    ],
)
def test_voices_that_contradict_themselves(folder, changes, message):
    rewrite(folder, **changes)
    with pytest.raises(ContractError, match=message):
        load_bundle(folder)


def test_a_decoder_alone_opens_but_does_not_speak(folder):
    rewrite(folder, prompt=None, text=None, sampling=None, codec=None)
    bundle = load_bundle(folder)
    with pytest.raises(BundleError, match="holds a decoder only"):
        _ = bundle.voice


def test_not_a_graph(tmp_path):
    path = tmp_path / "decoder.onnx"
    path.write_text("not a graph")
    with pytest.raises(BundleError, match="onnxruntime cannot open it"):
        open_session(path, 1)


def test_thread_counts():
    assert thread_count(7) == 7
    assert 1 <= thread_count(None) <= 4
    with pytest.raises(OptionError, match="--threads 0"):
        thread_count(0)


def test_head_of_absurd_size_is_refused_before_it_is_built():
    with pytest.raises(ContractError, match="not half-open ranges"):
        token_ids(HeadSpec(((0, 1 << 40),)))
    assert token_ids(HeadSpec(((3, 5), (9, 10)))).tolist() == [3, 4, 9]
