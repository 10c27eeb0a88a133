"""accelerate keeps one state per process; each test starts without it."""

from collections.abc import Iterator

import pytest
from accelerate.state import AcceleratorState


@pytest.fixture(autouse=True)
def _no_accelerator() -> Iterator[None]:
    """Forget processes and precision afterwards."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
