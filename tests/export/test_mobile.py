"""What a phone gets: graphs that need nothing beside them and say the same, and every operator they use in a list."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from sottovoce.__main__ import main
from sottovoce.export.mobile import OPERATORS, write_mobile
from sottovoce.runtime.session import open_session


@pytest.fixture(scope="module")
def mobile(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mobile") / "phone"
    assert write_mobile(tiny_bundle, folder) == (
        *("codec_decoder.ort", "codec_encoder.ort", "decoder.ort"),
        OPERATORS,
    )
    return folder


def operators(text: str) -> set[tuple[str, str]]:
    """Domain and name of each operator of a list."""
    rows = [line.split(";") for line in text.splitlines()]
    return {(domain, name) for domain, _, names in rows for name in names.split(",")}


def test_the_list_holds_what_the_graphs_use(mobile: Path, tiny_bundle: Path) -> None:
    text = (mobile / OPERATORS).read_text()
    found = operators(text)
    assert ("com.microsoft", "GroupQueryAttention") in found
    assert str(mobile.parent) not in text
    used = {node.op_type for node in onnx.load(tiny_bundle / "decoder.onnx", load_external_data=False).graph.node}
    assert "GroupQueryAttention" in used
    assert ("ai.onnx", "Conv") in found


def test_the_graphs_say_the_same(mobile: Path, tiny_bundle: Path) -> None:
    codes = np.arange(6)[None]
    said = []
    for path in (tiny_bundle / "codec_decoder.onnx", mobile / "codec_decoder.ort"):
        session = open_session(path, 1)
        shapes = {node.name: node.shape for node in session.get_inputs() if node.name != "codes"}
        feeds = {name: np.zeros([int(n or 0) for n in shape], np.float32) for name, shape in shapes.items()}
        said.append(session.run(["audio"], {"codes": codes, **feeds})[0])
    assert np.abs(said[0] - said[1]).max() < 1e-5
    nodes = [open_session(path, 1).get_inputs() for path in (tiny_bundle / "decoder.onnx", mobile / "decoder.ort")]
    assert [node.name for node in nodes[0]] == [node.name for node in nodes[1]]
    assert (mobile / "decoder.ort").stat().st_size > (tiny_bundle / "decoder.onnx.data").stat().st_size


def test_export_writes_it_on_request(tiny_voice: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    options = ["--weights", "fp32", "--window", "12", "--prefix", "100", "--threads", "1"]
    command = ["export", str(tiny_voice), "-o", str(tmp_path / "bundle"), *options, "--mobile"]
    assert main([*command, str(tmp_path / "there")]) == 2
    assert not (tmp_path / "bundle").exists()
    assert main([*command, str(tmp_path / "phone"), "--target", "coreml"]) == 2
    capsys.readouterr()
    assert main([*command, str(tmp_path / "phone")]) == 0
    assert "required_operators.config" in capsys.readouterr().out
    assert (tmp_path / "phone" / "decoder.ort").exists()
