"""One Core ML bundle of a tiny voice for all tests here: converting takes the better part of a minute."""

from pathlib import Path

import pytest

from tests.export.coreml.voices import engine_voice, exported

WINDOW = 12


@pytest.fixture(scope="session")
def core_voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A voice with a window, its prefix no multiple of anything."""
    return engine_voice(tmp_path_factory.mktemp("voices") / "tiny", prefix=100, window=WINDOW)


@pytest.fixture(scope="session")
def core_bundle(core_voice: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its fp16 bundle."""
    return exported(core_voice, tmp_path_factory.mktemp("bundles") / "tiny")
