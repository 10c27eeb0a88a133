"""The sampler in the graph draws what the runtime's does, whatever is asked of it."""

import numpy as np
import onnxruntime
import pytest

from sottovoce.export.blobs import WeightFile
from sottovoce.export.graph import make_decoder
from sottovoce.export.patch_drive import empty_history, sampling_feed
from sottovoce.export.patch_sampler import GraphSampler
from sottovoce.export.weights import Nodes, Source
from sottovoce.runtime.manifest import IoSpec, SamplingSpec, TensorSpec
from sottovoce.runtime.patch_contract import SAMPLING_INPUTS
from sottovoce.runtime.sampling import Sampler, draw
from tests.models.shapes import tiny_decoder

RANGES, STOP = ((3, 40), (50, 51), (60, 90)), (50, 89)
IDS = np.concatenate([np.arange(*ids) for ids in RANGES])
TOKENS = 12
Case = dict[str, float]

PENALTY = {"repetition_penalty": 1.7, "repetition_window": 5}
RAS = {"ras_window": 6, "ras_tau": 0.3}
CASES: list[Case] = [
    {"temperature": 0},
    {"temperature": 0, **PENALTY, **RAS},
    *({"temperature": t, "top_k": k, "top_p": p} for t in (0.3, 1.0) for k in (0, 1, 7, 99) for p in (1.0, 0.8, 1e-6)),
    {"temperature": 0.8, "top_k": 20, "top_p": 0.9, **PENALTY},
    {"repetition_penalty": 0.5, "repetition_window": 3},
    {"temperature": 0.5, "top_k": 2, **RAS},
    {"temperature": 0.5, "top_k": 5, "top_p": 0.5, "ras_window": 9, "ras_tau": 0.1, **PENALTY},
]


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    """Logits → index and the history with it."""
    nodes = Nodes(Source(tiny_decoder("qwen2_tied")), WeightFile("none.data"))
    sampler = GraphSampler(nodes, RANGES, STOP)
    step = nodes.add("Identity", ["sampler.zero"], "step")
    sampler.append(nodes, "history", sampler.draw(nodes, "logits", "history", step))
    outputs = (TensorSpec("index", "tensor(int64)", ()), TensorSpec("history.next", "tensor(int64)", ("R",)))
    inputs = (TensorSpec("logits", "tensor(float)", (len(IDS),)), *SAMPLING_INPUTS)
    model = make_decoder(nodes, IoSpec(inputs, outputs))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def logits(random: np.random.Generator, kind: int) -> np.ndarray:
    """Smooth ones, ones with many ties, and steep ones whose tails are nothing in float32."""
    scores = random.normal(0, 2, len(IDS))
    return np.asarray([scores, scores.round(), 30 * scores][kind], np.float32)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("min_tokens", [0, 5])
def test_indices_are_the_runtimes(session: onnxruntime.InferenceSession, case: Case, min_tokens: int) -> None:
    """Ten utterances of twelve tokens, stops among them: what is drawn next depends on all that was."""
    spec = SamplingSpec(**case)  # type: ignore[arg-type]
    for seed in range(10):
        random, history = np.random.default_rng(seed), empty_history(spec)
        sampler = Sampler(spec, IDS, STOP, seed, min_tokens)
        for drawn in range(TOKENS):
            scores = logits(random, seed % 3)
            sampler.draw(scores.copy())
            feed = sampling_feed(spec, len(IDS), drawn, seed, min_tokens, 1)
            index, history = session.run(None, {"logits": scores, "history": history, **feed})
            assert index == sampler.drawn[-1]
        assert history.tolist() == ([-1] * len(history) + sampler.drawn)[TOKENS:]


def test_a_bias_comes_before_the_rules(session: onnxruntime.InferenceSession) -> None:
    """As if the logits had been others: penalties see its sign, and -inf hides a token for good."""
    spec, random = SamplingSpec(temperature=0.8, top_k=20, top_p=0.9, **PENALTY), np.random.default_rng(0)  # type: ignore[arg-type]
    bias = random.normal(0, 3, len(IDS)).astype(np.float32)
    bias[::3] = -np.inf
    sampler, history = Sampler(spec, IDS, STOP, 4, 0), empty_history(spec)
    for drawn in range(2 * TOKENS):
        scores = logits(random, 0)
        sampler.draw(scores + bias)
        feed = sampling_feed(spec, len(IDS), drawn, 4, 0, 1) | {"logit_bias": bias}
        index, history = session.run(None, {"logits": scores, "history": history, **feed})
        assert index == sampler.drawn[-1] and index % 3


@pytest.mark.parametrize(("visible", "uniform", "index"), [(2, 0.5, 1), (2, 0.5 - 2**-24, 0), (12, 1 - 2**-24, 11)])
def test_the_edges_of_the_distribution(session, visible: int, uniform: float, index: int) -> None:
    """Equal logits: a sum is not yet passed by a uniform below it, and the last sum may end below the last uniform."""
    scores = np.full(len(IDS), -200, np.float32)
    scores[:visible] = 1
    feed = sampling_feed(SamplingSpec(), len(IDS), 0, 0, 1, 1) | {"uniforms": np.full((1, 2), uniform, np.float32)}
    drawn, _ = session.run(None, {"logits": scores, "history": np.zeros(0, np.int64), **feed})
    assert drawn == index == draw(scores, uniform)
