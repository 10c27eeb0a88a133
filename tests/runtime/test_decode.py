"""The loop over the cache contract: what each step may see, where it writes, and why it ends."""

from collections import Counter
from dataclasses import replace

import pytest

from sottovoce.errors import OptionError, TextError
from sottovoce.runtime.decode import PREFILL_CHUNK, Stream, TokenSource
from sottovoce.runtime.manifest import SamplingSpec
from sottovoce.runtime.sampling import Sampler
from sottovoce.runtime.utterance import Generation, Utterance
from tests.runtime.fakes import CODES, GARBAGE, STOP, fake_bundle, manifest

PREFIX = [21, 22, 23]
GREEDY = SamplingSpec(temperature=0)


def open_stream(folder, chunk=PREFILL_CHUNK, choose=None, **sizes):
    bundle = fake_bundle(folder, manifest(**sizes), choose)
    stream = Stream(bundle, chunk)
    for buffers in stream.cache.arrays:
        buffers[:] = GARBAGE
    return bundle, stream


def visible(prefix, fed, window):
    """Ids that the step feeding `fed[-1]` may see: all conditioning, and the last `window` generated ones."""
    return sorted([*prefix, *fed[-window:]])


@pytest.mark.parametrize("aliased", [True, False])
@pytest.mark.parametrize("window", [1, 2, 5, 60])
@pytest.mark.parametrize("prefix", [PREFIX, [21], list(range(20, 60))])
def test_each_step_sees_the_prefix_and_the_window(tmp_path, aliased, window, prefix):
    bundle, stream = open_stream(tmp_path / "b", window=window, aliased=aliased)
    stream.prefill(prefix)
    fed = []
    for token in range(100, 130):
        stream.step(token)
        fed.append(token)
        assert sorted(bundle.decoder.seen[-1]) == visible(prefix, fed, window)
    assert bundle.decoder.positions == list(range(len(prefix) + 30))


@pytest.mark.parametrize(
    ("prefix", "window", "reaches"),
    [(3, 200, {64: 61, 128: 64, 192: 5}), (70, 100, {128: 58, 180: 72}), (40, 9, {64: 130})],
)
def test_a_step_reads_what_is_in_use(tmp_path, prefix, window, reaches):
    """In steps of 64 slots, however many there are; utterance by utterance."""
    bundle, stream = open_stream(tmp_path / "b", window=window, prefix=80)
    for _ in range(2):
        stream.prefill([20] * prefix)
        del bundle.decoder.biases[:]
        for token in range(130):
            stream.step(token % 90)
        assert Counter(bias.shape[-1] for bias in bundle.decoder.biases) == reaches


def test_a_step_of_fixed_shapes_reads_every_slot(tmp_path):
    bundle, stream = open_stream(tmp_path / "b", window=200, aliased=False)
    stream.prefill(PREFIX)
    stream.step(1)
    assert bundle.decoder.biases[-1].shape[-1] == 240


@pytest.mark.parametrize(("chunk", "aliased"), [(1, True), (2, True), (3, True), (100, True), (2, False)])
def test_chunked_prefill_sees_the_same(tmp_path, chunk, aliased):
    """A portable bundle reads its prefix whole, whatever the chunk."""
    bundle, stream = open_stream(tmp_path / "b", chunk, aliased=aliased)
    prefix = list(range(20, 31))
    stream.prefill(prefix)
    assert bundle.decoder.seen[-1] == prefix
    assert bundle.decoder.positions == list(range(11))
    assert len(bundle.decoder.seen) == (-(-11 // chunk) if aliased else 1)
    stream.step(7)
    assert bundle.decoder.seen[-1] == [*prefix, 7]


@pytest.mark.parametrize("chunk", [2, 3, 100])
def test_prefill_hides_the_future(tmp_path, chunk):
    bundle, stream = open_stream(tmp_path / "b", chunk)
    stream.prefill([21, 22, 23, 24, 25])
    rows = [(row == 0).nonzero()[0].tolist() for bias in bundle.decoder.biases for row in bias]
    assert rows == [list(range(q + 1)) for q in range(5)]


def test_a_stream_forgets_the_last_utterance(tmp_path):
    bundle, stream = open_stream(tmp_path / "b", window=4)
    stream.prefill(list(range(20, 50)))
    for token in range(100, 110):
        stream.step(token)
    stream.prefill(PREFIX)
    assert bundle.decoder.seen[-1] == PREFIX
    stream.step(7)
    assert bundle.decoder.seen[-1] == [*PREFIX, 7]
    assert bundle.decoder.positions[-1] == 3


def test_shorter_and_longer_utterances_see_their_own(tmp_path):
    bundle, stream = open_stream(tmp_path / "b", window=200)
    for prefix, count in ((list(range(20, 60)), 150), (PREFIX, 3), ([21], 70), (PREFIX, 140)):
        stream.prefill(prefix)
        for step in range(count):
            stream.step(100 + step)
            assert bundle.decoder.seen[-1][: len(prefix)] == prefix
            assert sorted(bundle.decoder.seen[-1][len(prefix) :]) == list(range(100, 101 + step))


@pytest.mark.parametrize("aliased", [True, False])
def test_steps_bind_the_same_memory(tmp_path, aliased):
    bundle, stream = open_stream(tmp_path / "b", aliased=aliased)
    stream.prefill(PREFIX)
    for token in range(20):
        stream.step(token)
    names = [name for name, _ in bundle.decoder.pointers]
    once = [n for n in names if not n.startswith("past_key")]
    assert len(once) == len(set(once)) == (5 if aliased else 3)
    assert len(names) - len(once) == 2


def test_cache_bytes_are_the_manifests(tmp_path):
    for aliased in (True, False):
        bundle, stream = open_stream(tmp_path / str(aliased), aliased=aliased)
        assert stream.cache.nbytes == bundle.manifest.cache.bytes


def test_prefix_too_long_says_how_long_is_allowed(tmp_path):
    _, stream = open_stream(tmp_path / "b", prefix=8)
    with pytest.raises(TextError, match=r"need 9 prefix slots and this bundle holds 8: .*--prefix 9"):
        stream.prefill([20] * 9)
    with pytest.raises(TextError, match="empty"):
        stream.prefill([])


def test_step_past_the_last_position_is_refused(tmp_path):
    _, stream = open_stream(tmp_path / "b", max_position=4)
    stream.prefill(PREFIX)
    stream.step(1)
    with pytest.raises(TextError, match=r"position 4 is past the graph's last one, 3"):
        stream.step(1)


def test_bad_chunk_is_refused(tmp_path):
    with pytest.raises(OptionError, match="--prefill-chunk 0"):
        open_stream(tmp_path / "b", 0)


def generate(bundle, max_tokens=50, min_tokens=0):
    utterance = Utterance(tuple(PREFIX), GREEDY, 0, min_tokens, max_tokens)
    generation = Generation(TokenSource(bundle), utterance)
    return list(generation), generation


def stop_at(position):
    return lambda seen, at: STOP if at >= position else at % CODES


@pytest.mark.parametrize(
    ("max_tokens", "max_position", "stops_at", "stopped", "count"),
    [
        (50, 400, 9, "stop token", 7),
        (5, 400, 9, "max length", 5),
        (50, 6, 9, "max position", 4),
        (50, 400, 2, "stop token", 0),
        (1, 400, 9, "max length", 1),
    ],
)
def test_it_says_why_it_stopped(tmp_path, max_tokens, max_position, stops_at, stopped, count):
    bundle, _ = open_stream(tmp_path / "b", choose=stop_at(stops_at), max_position=max_position)
    tokens, generation = generate(bundle, max_tokens)
    assert (generation.stopped, len(tokens)) == (stopped, count)
    assert tokens == generation.tokens == [p % CODES for p in range(2, 2 + count)]
    assert len(generation.step_seconds) == len(bundle.decoder.seen) - 1


def test_the_times_hold_the_draws(tmp_path, monkeypatch):
    bundle, _ = open_stream(tmp_path / "b", choose=stop_at(6))
    clock, draw = [0.0], Sampler.draw

    def slow(self, logits):
        clock[0] += 5
        return draw(self, logits)

    monkeypatch.setattr(Sampler, "draw", slow)
    monkeypatch.setattr("sottovoce.runtime.utterance.time.perf_counter", lambda: clock[0])
    _, generation = generate(bundle)
    assert (generation.prefill_seconds, generation.step_seconds) == (5, [5] * 4)


def test_stop_is_suppressed_below_the_minimum(tmp_path):
    bundle, _ = open_stream(tmp_path / "b", choose=stop_at(0))
    tokens, generation = generate(bundle, min_tokens=6)
    assert (len(tokens), generation.stopped) == (6, "stop token")


def test_two_streams_share_a_bundle(tmp_path):
    bundle, first = open_stream(tmp_path / "b")
    second = Stream(bundle)
    first.prefill([21])
    second.prefill([31])
    first.step(1)
    second.step(2)
    assert bundle.decoder.seen[-2:] == [[21, 1], [31, 2]]
    with pytest.raises(AttributeError):
        bundle.threads = 2
    assert replace(bundle, threads=2).threads == 2
