"""Drives a bundle with this package's runtime on another ONNX Runtime; arguments as those of drive_openvino.py."""

import json
import sys
from pathlib import Path

import numpy as np

from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.decode import Stream


def main() -> None:
    fed = json.loads(Path(sys.argv[2]).read_text())
    stream = Stream(load_bundle(sys.argv[1], threads=1))
    logits = [stream.prefill(fed["prefix"]).copy()]
    logits += [stream.step(token).copy() for token in fed["tokens"]]
    np.save(sys.argv[3], np.stack(logits))


if __name__ == "__main__":
    main()
