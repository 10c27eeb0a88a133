"""What the ops compute, by kind; importing this package fills the table in `registry.py`.

Definitions are those of the MIL reference (coremltools, `converters/mil/mil/ops/defs`).
"""

from sottovoce.export.mil.ops import constexpr, elementwise, index, network, reduce, shape, state

__all__ = ["constexpr", "elementwise", "index", "network", "reduce", "shape", "state"]
