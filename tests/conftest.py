"""One thread everywhere: two libraries with a pool each would fight over a small machine's processors."""

import os

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"


def pytest_report_header() -> str:
    """Versions that the figures in tests depend on."""
    import numpy
    import onnxruntime

    return f"numpy {numpy.__version__}, onnxruntime {onnxruntime.__version__}"
