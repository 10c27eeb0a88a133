"""What the graph of a patch voice takes and gives: one run reads a patch, or a piece of the prefix, and draws k tokens.

For loops in any language, beside `manifest.json`. Letters: T text tokens, N patches, k tokens of a patch, C = N·k, M
places that the backbone reads, P prefix slots, W patches of its window, w tokens of the compressor's, J tokens that are
drawn, R remembered indices of logits, V' logits, d numbers of the speaker.

What the backbone reads is picked by `source` [M] from T embedded tokens and N patches behind them. In the prefix these
are the layout's tokens but codes, each a place and a slot, and the clip's codes in patches, each a place where its
codes stand; after it the one patch that was said last. What `source` leaves out may be any one token, or a patch of -1
alone. `patch_ids` [N,k] hold token ids, and -1 behind the last one of the clip, whose last patch may be short.

`position_ids` count tokens: a place's is that of its last token among all of prefix and utterance, from 0 on. In the
first run of an utterance they have to be consecutive: the engine's attention reads the first one there and counts on,
so the clip's patches, which are further apart, wait for the next run.

`speaker` [1,1,d] gains `speaker_share` [1,1,N] of the patches and comes out as `next_speaker`, to be fed to the next
run: zeros at first; shares of 1/count in the runs that read the clip, count its patches in all; 0 otherwise.

Each run draws as many tokens as there are `uniforms`: none in pieces of the prefix but its last, k otherwise; a stop
ends it. `token_ids` [n] are those drawn, a stop included, `count` of them to be heard: fewer than k end the utterance.

Caches. `backbone`: as in a plain voice, its slots patches. `compressor`, of w − 1 + k slots or more: the clip's tokens
take slots from 0 on; what is said is a stream of its own at positions from 0 on: k tokens take the k slots behind the
first w − 1, then token t moves to slot t mod (w − 1). A token sees w tokens of its stream, itself included. Each group
has its own bias, 0 or -1e30, which hides slots that are empty or out of the window; tokens of one run are causal by
themselves. The extractor's keys and values live and die inside a run.
"""

from sottovoce.runtime.manifest import PatchSpec, TensorSpec

SAMPLING_INPUTS = (
    TensorSpec("temperature", "tensor(float)", ()),
    TensorSpec("top_k", "tensor(int64)", (1,)),
    TensorSpec("top_p", "tensor(float)", ()),
    TensorSpec("logit_bias", "tensor(float)", ("V",)),
    TensorSpec("repetition_penalty", "tensor(float)", ()),
    TensorSpec("repetition_window", "tensor(int64)", ()),
    TensorSpec("ras_window", "tensor(int64)", ()),
    TensorSpec("ras_limit", "tensor(int64)", ()),
    TensorSpec("wait", "tensor(int64)", ()),
    TensorSpec("uniforms", "tensor(float)", ("J", 2)),
    TensorSpec("history", "tensor(int64)", ("R",)),
)
"""What the sampler is told.

`top_k` 1..V' (greedy is 1, with `temperature` and `top_p` 1); `logit_bias` [V'] is added to the logits before anything
else; `ras_limit`: as often among the last `ras_window` as starts a redraw, more than R for never; no stop among the
first `wait` tokens; `uniforms`: draw and redraw of each token of this run; `history`: the last R indices drawn, -1
before the first, R ≥ both windows.
"""

COMPRESSOR = "compressor."
"""What the names of the compressor's own inputs begin with."""


def patch_inputs(spec: PatchSpec) -> tuple[TensorSpec, ...]:
    """Inputs of the graph besides the caches, in its order."""
    compressor = _attention(COMPRESSOR, "C") if spec.window is not None else ()
    speaker = TensorSpec("speaker", "tensor(float)", (1, 1, spec.speaker))
    share = TensorSpec("speaker_share", "tensor(float)", (1, 1, "N"))
    return (
        TensorSpec("input_ids", "tensor(int64)", (1, "T")),
        TensorSpec("patch_ids", "tensor(int64)", ("N", spec.size)),
        TensorSpec("source", "tensor(int64)", ("M",)),
        *_attention("", "M"),
        *compressor,
        *((speaker, share) if spec.speaker else ()),
        *SAMPLING_INPUTS,
    )


def patch_outputs(spec: PatchSpec) -> tuple[TensorSpec, ...]:
    """Outputs of the graph besides the caches, in its order."""
    speaker = TensorSpec("next_speaker", "tensor(float)", (1, 1, spec.speaker))
    return (
        TensorSpec("token_ids", "tensor(int64)", ("n",)),
        TensorSpec("count", "tensor(int64)", ()),
        TensorSpec("next_history", "tensor(int64)", ("R",)),
        *((speaker,) if spec.speaker else ()),
    )


def _attention(stem: str, queries: str) -> tuple[TensorSpec, ...]:
    """What tells the attention over one group where it is; `queries` of its unit are read at a time."""
    return (
        TensorSpec(f"{stem}position_ids", "tensor(int64)", (1, queries)),
        TensorSpec(f"{stem}seqlens_k", "tensor(int32)", (1,)),
        TensorSpec(f"{stem}total_sequence_length", "tensor(int32)", ()),
        TensorSpec(f"{stem}attention_bias", "tensor(float)", (1, 1, queries, f"{queries}_total")),
    )
