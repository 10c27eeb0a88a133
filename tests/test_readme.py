"""The README's own commands and code, run as they stand, one after the other in one folder, on the committed voice."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

REPOSITORY = Path(__file__).parents[1]
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    (folder / "voices").symlink_to(REPOSITORY / "voices")
    return folder


def run(block: tuple[str, str], folder: Path) -> str:
    language, code = block
    command = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", code]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_block_runs(folder: Path) -> None:
    assert len(BLOCKS) >= 4
    printed = [run(block, folder) for block in BLOCKS]
    assert any("s of audio, RTF" in text for text in printed)
    assert soundfile.info(folder / "out.wav").frames > 8000
    assert (folder / "report.json").stat().st_size > 100
    assert (folder / "speech.pcm").stat().st_size > 8000
    assert (folder / "mine.wav").is_file()
