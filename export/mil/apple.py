"""coremltools, imported without its chatter about the libraries that exist on macOS alone."""

import logging

logging.disable(logging.CRITICAL)
try:
    import coremltools
    from coremltools.proto import MIL_pb2, Model_pb2
finally:
    logging.disable(logging.NOTSET)

__all__ = ["MIL_pb2", "Model_pb2", "coremltools"]
