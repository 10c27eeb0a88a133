"""Compressed voices on disk: what goes along, what does not, and disks that refuse."""

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sottovoce.compress import voice_folder
from sottovoce.compress.voice_folder import history_entry, write_voice
from sottovoce.errors import BundleError, OptionError, OutputError, VoiceError
from sottovoce.export.plan import Request, plan_export
from sottovoce.models.voice import Voice


@pytest.fixture
def source(tiny_voice: Path, tmp_path: Path) -> Path:
    """A copy of the tiny voice with what voices have beside it."""
    folder = tmp_path / "in" / "voice"
    shutil.copytree(tiny_voice, folder)
    for name in ("LICENSE", "NOTICE.md", "CARD.md", "model.onnx", ".secret"):
        (folder / name).write_text(name)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": "bfloat16"}))
    return folder


def write(folder: Path, target: Path) -> None:
    """The voice in `folder` with another window."""
    voice = Voice.open(folder)
    spec = replace(voice.complete(), window=5, history=history_entry(voice, "window", window=5))
    write_voice(voice, voice.checkpoint.load(), spec, target)


def test_what_goes_along(source: Path, tmp_path: Path) -> None:
    write(source, tmp_path / "out" / "new" / "voice")
    made = tmp_path / "out" / "new" / "voice"
    names = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    codec = {"codec/config.json", "codec/model.safetensors"}
    prompts = {"prompts/ada.json", "prompts/bob.json"}
    assert names == {"config.json", "model.safetensors", "text.json", "LICENSE", "NOTICE.md", *codec, *prompts}
    assert json.loads((made / "config.json").read_text())["torch_dtype"] == "float16"
    assert list((tmp_path / "out" / "new").iterdir()) == [made]


def test_history_grows(source: Path, tmp_path: Path) -> None:
    write(source, tmp_path / "one")
    write(tmp_path / "one", tmp_path / "two")
    first, second = Voice.open(tmp_path / "two").complete().history
    assert first["source"] == Voice.open(source).checkpoint.sha256()
    assert second["source"] == Voice.open(tmp_path / "one").checkpoint.sha256() != first["source"]


def test_an_empty_folder_may_be_filled_and_a_full_one_not(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(source, tmp_path / "out")
    assert Voice.open(tmp_path / "out").complete().window == 5
    with pytest.raises(OptionError, match="out exists: choose another --output"):
        write(source, tmp_path / "out")


def test_a_full_disk_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(voice_folder, "save_voice", full)
    with pytest.raises(OutputError, match=r"out cannot be written: No space left on device$"):
        write(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_data_outside_the_voice_is_not_read(source: Path, tmp_path: Path) -> None:
    (source / "text.json").write_text(json.dumps({"kind": "characters", "symbols": {}, "file": "../secret.txt"}))
    (source.parent / "secret.txt").write_text("secret")
    with pytest.raises(BundleError, match="points outside"):
        write(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def share(folder: Path, target: Path) -> None:
    """The voice in `folder`, all but its weights left there."""
    voice = Voice.open(folder)
    write_voice(voice, voice.checkpoint.load(), voice.complete(), target, share=True)


def test_a_voice_that_shares_has_weights_and_licences_alone(source: Path) -> None:
    made, again = source.with_name("small"), source.with_name("smaller")
    share(source, made)
    share(made, again)
    for folder in (made, again):
        assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "LICENSE", "NOTICE.md"}
        voice = Voice.open(folder)
        assert voice.complete().base == "voice" and sorted(voice.prompts()) == ["ada", "bob"]
        assert voice.codec_folder.samefile(source / "codec") and voice.text_file.samefile(source / "text.json")
        assert plan_export(voice, Request()).sizes == plan_export(Voice.open(source), Request()).sizes


def test_a_voice_that_shares_can_be_made_whole_again(source: Path, tmp_path: Path) -> None:
    share(source, source.with_name("small"))
    write(source.with_name("small"), tmp_path / "whole")
    voice = Voice.open(tmp_path / "whole")
    assert voice.complete().base is None and voice.codec_folder.parent == tmp_path / "whole"


def test_sharing_asks_for_neighbours(source: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"--share: .*out must lie beside"):
        share(source, tmp_path / "out")
    share(source, source.with_name("small"))
    moved = tmp_path / "moved"
    shutil.copytree(source.with_name("small"), moved)
    with pytest.raises(VoiceError, match="has only weights of its own, put that voice beside it"):
        Voice.open(moved)
    config = json.loads((moved / "config.json").read_text())
    for name in ("..", "../in/voice", "/etc"):
        config["sottovoce"]["base"] = name
        (moved / "config.json").write_text(json.dumps(config))
        with pytest.raises(VoiceError, match="must be the plain name"):
            Voice.open(moved)
