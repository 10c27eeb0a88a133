"""A machine reached by ssh, a real one: what is quoted, whose key is trusted, what is left behind."""

import json
import signal
import sys
from pathlib import Path

import pytest

from sottovoce.__main__ import main
from sottovoce.devices.report import read_profile
from sottovoce.devices.targets import session
from sottovoce.devices.targets.probe import probe
from sottovoce.devices.targets.session import open_place
from sottovoce.devices.targets.target import open_target, start
from sottovoce.errors import BundleError, OptionError, TargetError
from tests.devices.interrupted import leaves_nothing
from tests.devices.sshd import Server, needs_sshd, new_key, serving

ODD = ["two words", "$HOME `id` $(id)", 'it\'s "quoted"', "-x", "a\nb", "*", "", "ü~!&;|"]


@pytest.mark.parametrize(
    "name",
    "pi@board http://board ssh:// ssh://board/path ssh://-oProxyCommand=id ssh://-l@board ssh://board:99999 "
    "ssh://user:secret@board ssh://[::1 adb:// adb://-x adb://;id".split(),
)
def test_names_that_are_no_machine_are_refused(name: str) -> None:
    with pytest.raises(OptionError) as caught:
        open_target(name)
    assert "secret" not in str(caught.value)


def test_user_and_port_are_told_to_ssh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOTTOVOCE_SSH", raising=False)
    command = open_target("ssh://pi@board.local:2222").command(["echo", "a b"])
    assert command[0] == "ssh"
    assert "StrictHostKeyChecking=yes" in command
    assert command[-7:] == ["-p", "2222", "-l", "pi", "--", "board.local", "echo 'a b'"]
    assert "-p" not in open_target("ssh://board").command(["true"])


@needs_sshd
def test_arguments_arrive_as_they_are(board: Server) -> None:
    process = start(
        open_target(board.url), [sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))", *ODD]
    )
    assert json.loads(process.communicate()[0]) == ODD


@needs_sshd
def test_exit_status_and_streams_are_kept_apart(board: Server) -> None:
    process = start(open_target(board.url), ["sh", "-c", "cat; echo two >&2; exit 7"])
    assert process.communicate(bytes(range(256))) == (bytes(range(256)), b"two\n")
    assert process.returncode == 7


@needs_sshd
def test_a_machine_is_surveyed(board: Server) -> None:
    survey = probe(open_target(board.url), sys.executable)
    assert survey.executable == sys.executable
    assert survey.python == sys.version_info[:2]
    assert survey.lacks == []
    with pytest.raises(TargetError, match="--python"):
        probe(open_target(board.url), "no-such-python")


@needs_sshd
def test_a_changed_host_key_stops_the_run(tmp_path: Path, tiny_bundle: Path, monkeypatch, capsys) -> None:
    with serving(tmp_path) as server:
        monkeypatch.setenv("SOTTOVOCE_SSH", server.ssh + " -o StrictHostKeyChecking=no")
        with (tmp_path / "client_config").open("a") as file:
            file.write("  StrictHostKeyChecking no\n")
        new_key(tmp_path / "other")
        key = " ".join((tmp_path / "other.pub").read_text().split()[:2])
        (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {key}\n")
        options = ["--on", server.url, "--python", sys.executable, "-o", str(tmp_path / "report.json")]
        assert main(["profile", str(tiny_bundle), *options]) == 2
        assert "its host key is not the known one" in capsys.readouterr().err
        (tmp_path / "known_hosts").write_text("")
        assert main(["profile", str(tiny_bundle), *options]) == 2
        assert "its host key is not known" in capsys.readouterr().err
    assert not server.root.exists()
    assert not (tmp_path / "report.json").exists()


def test_a_machine_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TargetError, match="connection failed"):
        probe(open_target("ssh://127.0.0.1:1"))
    monkeypatch.setenv("SOTTOVOCE_SSH", "no-such-ssh")
    with pytest.raises(TargetError, match="no-such-ssh, which is not installed"):
        probe(open_target("ssh://127.0.0.1:1"))


@needs_sshd
def test_one_command_profiles_over_ssh(board: Server, tiny_bundle: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / "report.json"
    options = ["--on", board.url, "--python", sys.executable, "--text", "hello, it's", "--runs", "1"]
    assert main(["profile", str(tiny_bundle), *options, "--threads", "1", "-o", str(path)]) == 0
    report = read_profile(path)
    assert report.target == board.url
    assert report.text == "hello, it's"
    assert report.timing.rtf
    assert report.memory.peak > 30e6
    assert list((board.root / "runs").iterdir()) == []
    first = capsys.readouterr().err
    assert "sending decoder.onnx" in first
    assert main(["profile", str(tiny_bundle), *options, "--threads", "1"]) == 0
    assert "sending" not in capsys.readouterr().err


@needs_sshd
def test_what_runs_there_is_what_was_sent(board: Server, tiny_bundle: Path) -> None:
    with open_place(open_target(board.url), tiny_bundle, sys.executable) as place:
        code = "import sottovoce.runtime.speak as m; print(m.__file__)"
        out, _ = start(place.target, [*place.python, "-c", code]).communicate()
    assert out.decode().startswith(f"{place.folder}/{session.PACKAGE}/")


@needs_sshd
def test_an_error_there_is_the_error_here(board: Server, tiny_bundle: Path, monkeypatch) -> None:
    with open_place(open_target(board.url), tiny_bundle, sys.executable) as place:
        job = {"bundle": f"{place.folder}/nothing", "text": "hello", "runs": 1, "threads": 1}
        place.run("sottovoce.devices.supervise", {"job": job, "folder": place.folder})
        assert "is not a bundle" in json.loads(place.pull("report.json"))["message"]
        with pytest.raises(TargetError, match="No module named"):
            place.run("sottovoce.devices.nothing", {})
        with pytest.raises(TargetError, match="No such file"):
            place.pull("nothing")
    broken = tiny_bundle.parent / "broken"
    with pytest.raises(BundleError), open_place(open_target(board.url), broken, sys.executable):
        pass


@needs_sshd
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_nothing_is_left_running(board: Server, tiny_bundle: Path, number: signal.Signals) -> None:
    leaves_nothing(board.url, board.root, tiny_bundle, number)
