"""llama.cpp through llama-cpp-python: a GGUF file of the checkpoint, and the library's own calls."""

import json
from pathlib import Path
from typing import Any, Final

import llama_cpp
import numpy as np

from benchmarks.peers.serve import main

CHUNK = 256
"""Tokens read at once."""

FILE = "model.gguf"

TYPES: Final = {"q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0", "q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0"}


def prepare(checkpoint: Path, folder: Path, format: str) -> None:
    """Half precision by the `gguf` package, then llama.cpp's own quantizer."""
    plain = folder / "f16.gguf"
    write_gguf(checkpoint, plain)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, TYPES[format])
    if llama_cpp.llama_model_quantize(str(plain).encode(), str(folder / FILE).encode(), params):
        raise RuntimeError(f"llama_model_quantize to {format} failed")
    plain.unlink()


def write_gguf(checkpoint: Path, path: Path) -> None:
    """The Qwen2 `checkpoint` as GGUF, without vocabulary."""
    import gguf
    from safetensors.numpy import load_file

    hf = json.loads((checkpoint / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(hf["max_position_embeddings"])
    writer.add_embedding_length(hf["hidden_size"])
    writer.add_block_count(hf["num_hidden_layers"])
    writer.add_feed_forward_length(hf["intermediate_size"])
    writer.add_head_count(hf["num_attention_heads"])
    writer.add_head_count_kv(hf["num_key_value_heads"])
    writer.add_rope_freq_base(hf["rope_theta"])
    writer.add_layer_norm_rms_eps(hf["rms_norm_eps"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(hf["vocab_size"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, hf["num_hidden_layers"])
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        matrix = tensor.ndim > 1
        writer.add_tensor(
            names.get_name(name, (".weight", ".bias")), tensor.astype(np.float16 if matrix else np.float32)
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Llama:
    """A context of `room` tokens; keys and values in half precision, as is the library's default."""

    def __init__(self, folder: Path, format: str, threads: int, room: int) -> None:
        """Weights are mapped and, where the processor has kernels for it, packed anew."""
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            str(folder / FILE).encode(), llama_cpp.llama_model_default_params()
        )
        if not self.model:
            raise RuntimeError(f"{folder / FILE} was not loaded")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = room, CHUNK, CHUNK
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.count = 0

    def _decode(self, ids: list[int]) -> Any:
        """Logits after `ids`."""
        tokens = (llama_cpp.llama_token * len(ids))(*ids)
        if status := llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(tokens, len(ids))):
            raise RuntimeError(f"llama_decode returned {status}")
        self.count += len(ids)
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, -1), (self.vocabulary,))

    def read(self, ids: list[int], ahead: int) -> Any:
        """See `Contender`."""
        for start in range(self.count, len(ids), CHUNK):
            logits = self._decode(ids[start : start + CHUNK])
        return logits

    def step(self, token: int) -> Any:
        """See `Contender`."""
        return self._decode([token])


if __name__ == "__main__":
    main(prepare, Llama)
