"""What is left on a target when the command that measures there is ended: nothing may be."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest


def leaves_nothing(url: str, store: Path, bundle: Path, number: signal.Signals) -> None:
    """Begin to profile `bundle` on `url`, end it by `number`, and wait until neither process nor file is left there.

    `store` is where the target keeps what it is sent, as a path on this machine.
    """
    options = ["--on", url, "--python", sys.executable, "--runs", "100000", "--threads", "1"]
    command = [sys.executable, "-m", "sottovoce", "profile", str(bundle), *options]
    profile = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True, preexec_fn=hear_ctrl_c)
    try:
        wait(lambda: sum(map(measuring, running(store))) >= 2)
        os.killpg(profile.pid, number)
        profile.wait(timeout=60)
        wait(lambda: not running(store))
    finally:  # a test that fails leaves nothing either
        for pid in running(store):
            os.kill(pid, signal.SIGKILL)
    wait(lambda: not list((store / "runs").iterdir()))
    assert profile.returncode == (130 if number == signal.SIGINT else -number)


def hear_ctrl_c() -> None:
    """Where the tests run in the background Ctrl-C is ignored, and whoever they start would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def running(store: Path) -> list[int]:
    """Processes that were told of `store`: supervisors, workers, and whatever else they or their shells started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if str(store).encode() in (path / "environ").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def measuring(pid: int) -> bool:
    """Whether that is a supervisor or a worker."""
    try:
        return b"sottovoce.devices" in (Path("/proc") / str(pid) / "cmdline").read_bytes()
    except OSError:
        return False


def wait(condition: Callable[[], bool]) -> None:
    """Until `condition` holds; a minute at most."""
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("waited for a minute")
