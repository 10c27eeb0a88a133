"""Opening a bundle: every kind of damage is one line that names the file."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import pytest

from sottovoce.errors import BundleError, ContractError, OptionError
from sottovoce.runtime import bundle as module
from sottovoce.runtime import session as session_module
from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.contract import token_ids
from sottovoce.runtime.manifest import HeadSpec, TensorSpec
from sottovoce.runtime.paths import inside
from sottovoce.runtime.session import NO_TILES, SPIN_US, Graph, open_session, thread_count
from tests.runtime.fakes import CODEC, PROMPT, SAMPLING, fake_session, manifest, write_files


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


@pytest.mark.parametrize("name", ["decoder.onnx.data", "lexicon.txt", "parity.json", "prompts/deep/ada.json"])
def test_files_without_an_entry_are_not_trusted(folder, name):
    (folder / "prompts" / "deep").mkdir()
    (folder / "prompts" / "saved.json").write_text("{}")
    (folder / ".DS_Store").touch()
    load_bundle(folder)
    (folder / name).touch()
    with pytest.raises(BundleError, match=f"no entry for {name}"):
        load_bundle(folder, verify_hashes=False)


def test_no_manifest(tmp_path):
    with pytest.raises(BundleError, match="is not a bundle"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 99}, "schema 99 is newer"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"min_onnxruntime": "99.0"}, "needs onnxruntime 99.0"),
        ({"flavour": "portable"}, "flavour portable contradicts"),
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


def changed(spec, **changes):
    """`spec` as JSON with some of its numbers changed."""
    return {**asdict(spec), **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codec": changed(CODEC, hop=0)}, "codec.hop is 0"),
        ({"codec": changed(CODEC, sample_rate=0)}, "codec.sample_rate is 0"),
        ({"codec": changed(CODEC, delay=-1)}, "codec.delay is -1"),
        ({"codec": changed(CODEC, flush_codes=-3)}, "codec.flush_codes is -3"),
        ({"codec": changed(CODEC, flush_code=10)}, "codec.flush_code is 10, between 0 and 9"),
        ({"codec": changed(CODEC, states=[{"name": "state.0", "shape": [1, -1]}])}, "state.0 is -1"),
        ({"codec": changed(CODEC, states=[{"name": "state.0", "shape": [1 << 20, 1 << 20]}])}, "size of state.0"),
        ({"sampling": changed(SAMPLING, max_ratio=float("inf"))}, "Infinity is not JSON"),
        ({"sampling": changed(SAMPLING, max_ratio=1e300)}, "max_ratio is 1e[+]300"),
        ({"sampling": changed(SAMPLING, temperature=10**400)}, "temperature: expected a finite number"),
        ({"sampling": changed(SAMPLING, ras_tau=-1.0)}, "ras_tau is -1"),
        ({"sampling": changed(SAMPLING, max_extra=10**400)}, "max_extra is 1000"),
        ({"prompt": changed(PROMPT, layout=[2**70, "{text}"])}, "prompt.layout is 1180591"),
        ({"prompt": changed(PROMPT, layout=[-1, "{text}"])}, "prompt.layout is -1"),
        ({"prompt": changed(PROMPT, stop=[2**70])}, "prompt.stop is 1180591"),
        ({"prompt": changed(PROMPT, code_count=10**12)}, "prompt.code_count is 1000000000000"),
        ({"prompt": changed(PROMPT, code_offset=2**70)}, "prompt.code_offset"),
        ({"prompt": changed(PROMPT, max_text_tokens=0)}, "prompt.max_text_tokens is 0"),
        ({"prompt": changed(PROMPT, max_prompt_codes=0)}, "prompt.max_prompt_codes is 0"),
        ({"max_position": 0}, "max_position is 0"),
        ({"max_position": 2**70}, "max_position is 1180591"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"head": {"ids": [[2**70, 2**70 + 11]]}}, "head.ids"),
    ],
)
def test_numbers_out_of_range(folder, changes, message):
    rewrite(folder, **changes)
    with pytest.raises(BundleError, match=message):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("size", "value", "message"),
    [
        ("layers", 10**9, "layers is 1000000000"),
        ("layers", 10**6, "past_key_values.999999.key is not in the graph"),
        ("window", 10**12, "window is 1000000000000"),
        ("prefix", 0, "prefix is 0"),
    ],
)
def test_absurd_caches_are_refused_before_they_are_built(folder, size, value, message):
    cache = asdict(manifest().cache)
    cache["groups"][0][size] = value
    rewrite(folder, cache=cache)
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


@pytest.mark.parametrize(("version", "spins"), [("1.30.2", "0"), ("1.31.1", "1"), ("2.0", "1")])
def test_threads_spin_only_where_the_engine_bounds_it(tmp_path, monkeypatch, version, spins):
    monkeypatch.setattr(session_module.onnxruntime, "__version__", version)
    seen = []
    with pytest.raises(BundleError):
        open_session(tmp_path / "none.onnx", 2, seen.append)
    entries = [
        seen[0].get_session_config_entry(f"session.intra_op.{key}") for key in ("allow_spinning", "spin_duration_us")
    ]
    assert entries == [spins, str(SPIN_US)]


@pytest.mark.parametrize(
    ("name", "planned"), [("decoder", True), ("codec_decoder", True), ("prefill", False), ("decode", False)]
)
def test_graphs_of_fixed_shapes_are_not_planned(tmp_path, name, planned):
    seen = []
    with pytest.raises(BundleError):
        open_session(tmp_path / f"{name}.onnx", 1, seen.append)
    assert seen[0].enable_mem_pattern is planned


@pytest.mark.parametrize(
    ("machine", "before", "meanwhile"),
    [("x86_64", None, "1"), ("AMD64", None, "1"), ("x86_64", "0", "0"), ("aarch64", None, None)],
)
def test_attention_in_tiles_only_where_that_is_wished_or_the_processor_is_another(
    tmp_path, monkeypatch, machine, before, meanwhile
):
    monkeypatch.setattr(session_module.platform, "machine", lambda: machine)
    monkeypatch.delenv(NO_TILES, raising=False)
    if before:
        monkeypatch.setenv(NO_TILES, before)
    seen = []
    opened = session_module.onnxruntime.InferenceSession
    monkeypatch.setattr(
        session_module.onnxruntime,
        "InferenceSession",
        lambda *args, **kwargs: seen.append(os.environ.get(NO_TILES)) or opened(*args, **kwargs),
    )
    with pytest.raises(BundleError):
        open_session(tmp_path / "none.onnx", 1)
    assert seen == [meanwhile]
    assert os.environ.get(NO_TILES) == before


def test_threads_that_open_graphs_at_once_all_get_what_they_ask_for(tmp_path, monkeypatch):
    monkeypatch.setattr(session_module.platform, "machine", lambda: "x86_64")
    monkeypatch.delenv(NO_TILES, raising=False)
    seen = []

    def opened(*args, **kwargs):
        time.sleep(0.02 * (1 + len(seen) % 2))
        seen.append(os.environ.get(NO_TILES))
        raise RuntimeError("not a graph")

    monkeypatch.setattr(session_module.onnxruntime, "InferenceSession", opened)
    with ThreadPoolExecutor(4) as pool:
        made = [pool.submit(open_session, tmp_path / "none.onnx", 1) for _ in range(8)]
    assert all(isinstance(done.exception(), BundleError) for done in made)
    assert seen == ["1"] * 8
    assert NO_TILES not in os.environ


class Refusing:
    """A session that cannot run."""

    def run(self, names, feeds):
        raise RuntimeError("indices out of bounds\nat node 7")

    def run_with_iobinding(self, binding):
        raise RuntimeError("")


def test_what_a_graph_refuses_is_one_line(tmp_path):
    graph = Graph(tmp_path / "decoder.onnx", Refusing())
    with pytest.raises(ContractError, match=r"decoder\.onnx and .*do not go together: indices out of bounds$"):
        graph.run(None, {})
    with pytest.raises(ContractError, match="RuntimeError"):
        graph.run_with_iobinding(None)


def test_thread_counts():
    assert thread_count(7) == 7
    assert 1 <= thread_count(None) <= 4
    with pytest.raises(OptionError, match="--threads 0"):
        thread_count(0)


def test_head_of_absurd_size_is_refused_before_it_is_built():
    with pytest.raises(ContractError, match="not half-open ranges"):
        token_ids(HeadSpec(((0, 1 << 40),)))
    assert token_ids(HeadSpec(((3, 5), (9, 10)))).tolist() == [3, 4, 9]
