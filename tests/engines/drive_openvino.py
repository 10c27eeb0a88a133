"""Drives a portable bundle with OpenVINO, in an interpreter that has no more than it and numpy.

    python drive_openvino.py BUNDLE TOKENS.json OUT.npy

TOKENS.json: {"prefix": [...], "tokens": [...]}; OUT: logits [tokens + 1, V'] after the prefix and after each token.
Activations stay float32, so that nothing but the graph is compared: where weights have a scale per channel, OpenVINO
would round them to int8.
"""

import json
import sys
from pathlib import Path

import numpy as np
import openvino


def main() -> None:
    bundle, fed, out = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), sys.argv[3]
    (group,) = json.loads((bundle / "manifest.json").read_text())["cache"]["groups"]
    core = openvino.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    config = {**exact, "INFERENCE_NUM_THREADS": 1}
    prefill, decode = (core.compile_model(bundle / f"{name}.onnx", "CPU", config) for name in ("prefill", "decode"))
    width, slots, names = group["prefix"], group["prefix"] + group["window"], []
    for layer in range(group["layers"]):
        names += [f"{layer}.key", f"{layer}.value"]
    hidden, count = np.float32(-1e30), len(fed["prefix"])
    ids = np.zeros((1, width), np.int64)
    ids[0, :count] = fed["prefix"]
    feed = {
        "input_ids": ids,
        "position_ids": np.arange(width)[None],
        "seqlens_k": np.array([count - 1], np.int32),
        "attention_bias": np.triu(np.full((1, 1, width, width), hidden), 1),
    }
    found = prefill(feed)
    logits = [found["logits"].ravel().copy()]
    buffers = {name: found[f"present.{name}"].copy() for name in names}
    bias = np.full((1, 1, 1, slots), hidden)
    bias[..., :count] = bias[..., -1] = 0
    for step, token in enumerate(fed["tokens"]):
        feed = {f"past_key_values.{name}": buffer for name, buffer in buffers.items()}
        feed |= {"input_ids": np.array([[token]]), "position_ids": np.array([[count + step]]), "attention_bias": bias}
        found = decode(feed)
        logits.append(found["logits"].ravel().copy())
        slot = width + step % (group["window"] - 1)
        for name, buffer in buffers.items():
            buffer[:, :, slot] = found[f"present.{name}"][:, :, 0]
        bias[..., slot] = 0
    np.save(out, np.stack(logits))


if __name__ == "__main__":
    main()
