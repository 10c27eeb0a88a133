"""Who takes part, in which format, and the gates between them."""

from dataclasses import dataclass
from typing import Final

OURS: Final = "ours"
"""Module of this project's decoder as it is; it and others without pins run in this project's own environment."""


@dataclass(frozen=True)
class Entry:
    """`title` as the table has it; `module` of this package with its requirements beside it; `format` of the weights.

    `beside` names the entry of this project that its ratios are taken against.
    """

    title: str
    module: str
    format: str
    beside: str = ""


ENTRIES: Final[dict[str, Entry]] = {
    "ours-int4": Entry("sottovoce int4, W 512", OURS, "int4"),
    "narrow-int4": Entry("sottovoce int4, W 32", OURS, "int4-narrow", "ours-int4"),
    "fine-int4": Entry("sottovoce int4, W 512, blocks of 32", OURS, "int4-fine", "ours-int4"),
    "genai-int4": Entry("onnxruntime-genai int4", "genai", "int4", "ours-int4"),
    "llama-q4_0": Entry("llama.cpp Q4_0", "llama", "q4_0", "ours-int4"),
    "ours-int8": Entry("sottovoce int8", OURS, "int8"),
    "llama-q8_0": Entry("llama.cpp Q8_0", "llama", "q8_0", "ours-int8"),
    "optimum-int8": Entry("optimum-onnx int8", "optimum", "int8", "ours-int8"),
    "together-int4": Entry("half depth, window, patches of 4, int4", "together", "int4", "ours-int4"),
    "taught-int4": Entry("the same, nets as `compress patch` makes them", "together", "int4-taught", "ours-int4"),
    "growing-fp32": Entry("fp32, growing cache", "growing", "fp32", "ours-fp32"),
    "ours-fp32": Entry("sottovoce fp32", OURS, "fp32"),
    "optimum-fp32": Entry("optimum-onnx fp32", "optimum", "fp32", "ours-fp32"),
    "eager-fp32": Entry("transformers eager, StaticCache, fp32", "eager", "fp32", "ours-fp32"),
    "xnnpack-fp32": Entry("ExecuTorch, XNNPACK, fp32", "xnnpack", "fp32", "ours-fp32"),
}


@dataclass(frozen=True)
class Gate:
    """At `point` tokens `name` takes at most `limit` times what `other` does (`other_point`: at that length)."""

    name: str
    point: int
    other: str
    limit: float
    other_point: int = 0


GATES: Final = (
    Gate("ours-int4", 384, "genai-int4", 0.95),
    Gate("ours-int4", 2000, "genai-int4", 0.65),
    Gate("ours-int4", 6000, "genai-int4", 0.38),
    Gate("ours-int4", 384, "llama-q4_0", 0.8),
    Gate("ours-int4", 2000, "llama-q4_0", 0.65),
    Gate("ours-int4", 6000, "ours-int4", 1.03, 100),  # missed since a step reads the slots in use alone: fewer at 100
    Gate("ours-int4", 6000, "ours-int4", 1.03, 1000),  # of 768 slots in use at either
)
