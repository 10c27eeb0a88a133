"""The commands `say` and `prompt save`, and `python -m sottovoce.runtime`, over fakes: one line per bad input."""

import io
import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from sottovoce.__main__ import main
from sottovoce.runtime import __main__ as standalone
from sottovoce.runtime import bundle as bundle_module
from sottovoce.runtime import codec as codec_module
from sottovoce.runtime.strict_json import decode_json
from tests.runtime.fakes import RATE, STOP, FakeDecoder, FakeEncoder, fake_session, manifest, sound, write_files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A sound bundle folder over fake graphs; the working directory is beside it."""
    spec = write_files(tmp_path / "b", manifest())
    monkeypatch.setattr(bundle_module, "open_session", lambda path, threads: fake_session(spec, path))
    monkeypatch.setattr(codec_module, "open_session", lambda path, threads: FakeEncoder())
    monkeypatch.chdir(tmp_path)
    return tmp_path / "b"


def fails(capsys, message, *arguments):
    """Run, expect exit status 2 and one line on stderr that holds `message`."""
    assert main([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("sottovoce: ")
    assert message in captured.err


def test_wav_file(folder, capsys):
    assert main(["say", str(folder), "Hello there.", "-o", "hello.wav"]) == 0
    audio, rate = soundfile.read("hello.wav")
    captured = capsys.readouterr()
    assert rate == RATE
    assert captured.out.startswith(f"hello.wav: {len(audio) / RATE:.2f} s of speech at {RATE} Hz, RTF ")
    assert "warning: cut at max length: 'hello there.'" in captured.err


def test_wav_and_raw_pcm_on_stdout_are_the_same_samples(folder, capsysbinary):
    assert main(["say", str(folder), "Hello there.", "-o", "-"]) == 0
    audio, _ = soundfile.read(io.BytesIO(capsysbinary.readouterr().out), dtype="int16")
    assert main(["say", str(folder), "Hello there.", "-o", "-", "--stream"]) == 0
    np.testing.assert_array_equal(np.frombuffer(capsysbinary.readouterr().out, "<i2"), audio)


def test_json_says_what_was_read(folder, capsys):
    assert main(["say", str(folder), "It is 5. Yes!", "--seed", "7", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [s["read"] for s in told["sentences"]] == ["it is five.", "yes."]
    assert [s["seed"] for s in told["sentences"]] == [7, 8]
    assert told["output"] == "out.wav"
    assert told["sample_rate"] == RATE
    assert told["sentences"][0]["tokens"] > 0
    assert told["ttfa_ms"] > 0
    assert set(told["load_s"]) == {"hashes", "decoder", "codec", "text"}


def test_json_stays_out_of_the_audio(folder, capsysbinary):
    assert main(["say", str(folder), "hello", "-o", "-", "--json"]) == 0
    captured = capsysbinary.readouterr()
    soundfile.read(io.BytesIO(captured.out))
    assert json.loads(captured.err.split(b"\n", 1)[1])["output"] == "-"


def test_a_bundle_that_failed_its_gates_says_so(folder, capsys):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "parity": "failed"}))
    assert main(["say", str(folder), "hello"]) == 0
    assert "failed its parity gates" in capsys.readouterr().err


def test_text_from_stdin_and_file(folder, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.stdin", io.StringIO("from stdin"))
    assert main(["say", str(folder), "-", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sentences"][0]["read"] == "from stdin."
    (tmp_path / "text.txt").write_text("from a file")
    assert main(["say", str(folder), "--file", "text.txt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sentences"][0]["read"] == "from a file."


def test_sampling_options_replace_the_defaults(folder, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr("sottovoce.runtime.speak.check_sampling", seen.append)
    options = ["--temperature", "0.5", "--top-k", "3", "--top-p", "0.9"]
    options += ["--repetition-penalty", "1.2", "--repetition-window", "4"]
    assert main(["say", str(folder), "hello", *options]) == 0
    wanted = replace(manifest().sampling, temperature=0.5, top_k=3, top_p=0.9)
    wanted = replace(wanted, repetition_penalty=1.2, repetition_window=4)
    assert seen == [wanted]


def test_prompt_save_then_say(folder, capsys):
    soundfile.write("ref.wav", sound([4, 5, 6]), RATE, subtype="FLOAT")
    assert main(["prompt", "save", str(folder), "ref.wav", "eve", "--consent", "mine"]) == 0
    assert "eve.json: 3 codes" in capsys.readouterr().out
    assert json.loads((folder / "prompts" / "eve.json").read_text())["codes"] == [4, 5, 6]
    assert main(["say", str(folder), "hello", "--prompt", "eve", "--json"]) == 0
    named = json.loads(capsys.readouterr().out)
    assert main(["say", str(folder), "hello", "--prompt", "ref.wav", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sentences"][0]["tokens"] == named["sentences"][0]["tokens"]


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_empty_text(folder, capsys, text):
    fails(capsys, "the text is empty", "say", folder, text)


def test_bad_input_is_one_line(folder, capsys, tmp_path):
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "words.wav").write_text("words")
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE // 2), RATE)
    soundfile.write(tmp_path / "long.wav", np.full(RATE * 3, 0.5), RATE)
    fails(capsys, "☃", "say", folder, "a ☃ b")
    fails(capsys, "give the text", "say", folder)
    fails(capsys, "give the text", "say", folder, "a", "--file", "bytes.txt")
    fails(capsys, "not UTF-8", "say", folder, "--file", "bytes.txt")
    fails(capsys, "no such file", "say", folder, "--file", "absent.txt")
    fails(capsys, "larger --prefix", "say", folder, "a" * 200)
    fails(capsys, "is not audio", "say", folder, "hello", "--prompt", "words.wav")
    fails(capsys, "is silent", "say", folder, "hello", "--prompt", "silent.wav")
    fails(capsys, "at most 1.20 s", "say", folder, "hello", "--prompt", "long.wav")
    fails(capsys, "neither a file nor a prompt", "say", folder, "hello", "--prompt", "eve")
    fails(capsys, "--threads 0", "say", folder, "hello", "--threads", "0")
    fails(capsys, "--seed -1", "say", folder, "hello", "--seed", "-1")
    fails(capsys, "add -o -", "say", folder, "hello", "--stream")
    fails(capsys, "cannot be written", "say", folder, "hello", "-o", "absent/out.wav")
    fails(capsys, "repetition_window is 0", "say", folder, "hello", "--repetition-penalty", "1.2")
    fails(capsys, "leave --prompt-text out", "say", folder, "hello", "--prompt-text", "hi")
    fails(capsys, "leave --prompt-text out", "prompt", "save", folder, "long.wav", "eve", "--prompt-text", "hi")
    for place in (".", "", ".."):
        fails(capsys, "not a regular file", "say", tmp_path / "nowhere", "hello", "-o", place)
    fails(capsys, "is not a bundle", "say", tmp_path / "nowhere", "hello")
    fails(capsys, "is silent", "prompt", "save", folder, "silent.wav", "eve")
    fails(capsys, "came with the bundle", "prompt", "save", folder, _clip(tmp_path), "ada")
    (folder / "decoder.onnx").write_text("b graph")
    fails(capsys, "decoder.onnx is altered", "say", folder, "hello")
    made = {"b", "bytes.txt", "words.wav", "silent.wav", "long.wav", "ref.wav"}
    assert {p.name for p in tmp_path.iterdir()} == made
    assert {p.name for p in (folder / "prompts").iterdir()} == {"ada.json"}


def _clip(tmp_path):
    """A clip that can be encoded."""
    soundfile.write(tmp_path / "ref.wav", sound([4, 5, 6]), RATE, subtype="FLOAT")
    return tmp_path / "ref.wav"


def test_a_voice_that_stops_at_once_is_told_as_it_is(folder, capsys, monkeypatch):
    monkeypatch.setattr(FakeDecoder, "__init__", stopping(FakeDecoder.__init__))
    assert main(["say", str(folder), "hello"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"out.wav: 0.00 s of speech at {RATE} Hz\n"
    assert "warning: the voice said nothing for 'hello.'" in captured.err
    assert len(soundfile.read("out.wav")[0]) == 0
    assert main(["say", str(folder), "hello", "--json"]) == 0
    told = decode_json(capsys.readouterr().out)
    assert (told["rtf"], told["ttfa_ms"], told["audio_s"]) == (None, None, 0)


def stopping(begin):
    """A decoder whose first token is the stop id."""
    return lambda self, spec: begin(self, spec, lambda seen, position: STOP)


def test_speech_goes_to_the_file_chunk_by_chunk(folder, monkeypatch):
    """However long the text, `say` does not gather it in memory."""
    monkeypatch.setattr("sottovoce.runtime.speak.Speech.whole", lambda self: pytest.fail("gathered"))
    assert main(["say", str(folder), "Hello there. And more.", "-o", "out.wav"]) == 0
    assert len(soundfile.read("out.wav")[0]) > RATE


def test_being_asked_to_end_leaves_no_file(folder, monkeypatch, tmp_path):
    def asked(self, binding):
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(FakeDecoder, "run_with_iobinding", asked)
    assert main(["say", str(folder), "hello"]) == 130
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_failure_in_mid_speech_leaves_no_file(folder, monkeypatch, tmp_path):
    def broken(self, binding):
        raise RuntimeError("the graph failed")

    monkeypatch.setattr(FakeDecoder, "run_with_iobinding", broken)
    with pytest.raises(RuntimeError):
        main(["say", str(folder), "hello"])
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_standalone_runner(folder, capsys):
    assert standalone.main([str(folder), "hello", "-o", "a.wav"]) == 0
    assert main(["say", str(folder), "hello", "-o", "b.wav"]) == 0
    assert (folder.parent / "a.wav").read_bytes() == (folder.parent / "b.wav").read_bytes()
    assert standalone.main([str(folder), ""]) == 2
