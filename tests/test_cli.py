"""The command table: lazily imported, errors as one line with the right exit status."""

import subprocess
import sys

import pytest

from sottovoce import __version__, errors
from sottovoce.__main__ import COMMANDS, main
from sottovoce.runtime.console import EXTRAS, guarded


def classes(root=errors.SottovoceError):
    """Every error class of the tree."""
    return [root, *(c for child in root.__subclasses__() for c in classes(child))]


def raiser(error):
    """A command that raises `error`."""

    def run():
        raise error

    return run


@pytest.mark.parametrize("kind", [c for c in classes() if c is not errors.MissingExtraError])
def test_errors_become_one_line_and_a_status(kind, capsys):
    assert guarded(raiser(kind("what is wrong,\n  and what mends it"))) == (
        1 if kind in (errors.ParityError, errors.FitError) else 2
    )
    assert capsys.readouterr().err == "sottovoce: what is wrong, and what mends it\n"
    with pytest.raises(kind):
        guarded(raiser(kind("x")), debug=True)


@pytest.mark.parametrize(("module", "extra"), EXTRAS.items())
def test_missing_modules_name_their_extra(module, extra, capsys):
    error = ModuleNotFoundError(f"No module named '{module}'", name=f"{module}.part")
    assert guarded(raiser(error)) == 2
    assert capsys.readouterr().err == f"sottovoce: {module} is not installed: pip install 'sottovoce[{extra}]'\n"


def test_other_missing_modules_are_bugs():
    with pytest.raises(ModuleNotFoundError):
        guarded(raiser(ModuleNotFoundError("x", name="sottovoce.nowhere")))


def test_errors_of_the_system_are_one_line(capsys):
    assert guarded(raiser(PermissionError(13, "Permission denied", "/x"))) == 2
    assert capsys.readouterr().err == "sottovoce: [Errno 13] Permission denied: '/x'\n"
    assert guarded(raiser(KeyboardInterrupt())) == 130


def test_the_tree_is_drawn_whole():
    for kind in classes():
        assert kind.__name__ in errors.__doc__
        assert kind.__doc__


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"sottovoce {name}" in capsys.readouterr().out


def test_unknown_command_and_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["sing"])
    assert ended.value.code == 2
    with pytest.raises(SystemExit):
        main(["--version"])
    assert __version__ in capsys.readouterr().out


def test_a_reader_that_leaves_early_is_no_error():
    code = "from sottovoce.runtime.console import guarded\nimport sys\n"
    code += "sys.exit(guarded(lambda: [print('x' * 99, flush=True) for _ in iter(int, 1)]))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(10) == 1
