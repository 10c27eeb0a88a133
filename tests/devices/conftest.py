"""A server to measure on, shared by the tests of targets."""

import shutil
from collections.abc import Iterator

import pytest

from tests.devices.sshd import Server, serving


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def board(sshd: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, nothing sent to it yet."""
    monkeypatch.setenv("SOTTOVOCE_SSH", sshd.ssh)
    shutil.rmtree(sshd.root, ignore_errors=True)
    return sshd
