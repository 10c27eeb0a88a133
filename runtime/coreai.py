"""Core AI (beta) behind the seam of Core ML: an `.aimodel` asset run by coreai-core, on Linux as on macOS.

That its Linux runtime runs assets was seen here, and is no promise of its makers. Not verified on Apple hardware. A
damaged asset ends the process, which is why a bundle's files are hashed before any is opened.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sottovoce.errors import BundleError, MissingExtraError
from sottovoce.runtime.coreml import Feeds
from sottovoce.runtime.session import Array


class AIEngine:
    """An asset's functions; `runtime.coreml.Engine`. Each call waits for its own result."""

    def __init__(self, path: Path, functions: Sequence[str]) -> None:
        """Lower and load `functions` of the asset in `path`: some seconds, and a copy of it while that lasts.

        Raises MissingExtraError without coreai-core, BundleError for what Core AI does not read.
        """
        import asyncio  # takes time and memory that no other engine asks for

        try:
            from coreai.authoring import AIModelAsset
            from coreai.runtime import NDArray
        except ModuleNotFoundError:
            raise MissingExtraError("coreai", "coreai") from None
        self._wrap, self._runner = NDArray, asyncio.Runner()
        try:
            self._functions = self._runner.run(_load(AIModelAsset.load(path), functions))
        except (RuntimeError, KeyError) as error:
            raise BundleError(f"{path} cannot be loaded by Core AI: {error}") from None

    def make_state(self, function: str) -> None:
        """See `Engine`: there is none."""

    def predict(self, function: str, feeds: Feeds, state: Any) -> dict[str, Array]:
        """See `Engine`."""
        arrays = {name: self._wrap(np.ascontiguousarray(array)) for name, array in feeds.items()}
        made: Mapping[str, Any] = self._runner.run(self._functions[function](arrays))
        return {name: np.asarray(value.numpy(), np.float16) for name, value in made.items()}


async def _load(asset: Any, functions: Sequence[str]) -> dict[str, Any]:
    """The functions by name."""
    async with asset.executable() as model:
        return {name: model.load_function(name) for name in functions}
