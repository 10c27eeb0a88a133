"""What a voice says of itself, in torch: tokens to listen to where weights are rounded for what they are used for."""

import math
from collections.abc import Iterator

import torch

from sottovoce.export.cache_scales import Utterance
from sottovoce.export.head import ids_of, speech_ranges
from sottovoce.export.heard import speakers
from sottovoce.models.decoder import Decoder
from sottovoce.models.ring import RingDecoder
from sottovoce.models.voice import Voice
from sottovoce.runtime.prefix import fill_layout
from sottovoce.runtime.sampling import Sampler
from sottovoce.runtime.text.frontend import load_frontend

SENTENCES = (
    "Rice is often served in round bowls. The juice of lemons makes fine punch. "
    "The box was thrown beside the parked truck. The hogs were fed chopped corn and garbage. "
    "The boy was there when the sun rose. A rod is used to catch pink salmon. "
    "The source of the huge river is the clear spring. Kick the ball straight and follow through. "
    "Help the woman get back to her feet. A pot of tea helps to pass the evening. "
    "Smoky fires lack flame and heat. The soft cushion broke the man's fall. "
    "The salt breeze came across from the sea. The girl at the booth sold fifty bonds. "
    "The small pup gnawed a hole in the sock. The fish twisted and turned on the bent hook. "
    "Press the pants and sew a button on the vest. The swan dive was far short of perfect. "
    "The beauty of the view stunned the young boy. Two blue fish swam in the tank."
)
"""Twenty of the Harvard sentences (IEEE 1969), others than those that exports are verified with."""


def own_speech(voice: Voice, decoder: Decoder, window: int, text: str = SENTENCES) -> tuple[Utterance, ...]:
    """`text` as `voice` says it under a window of W = `window` tokens: every sentence once, its speakers in turn.

    Sampled as the voice asks for, from seed 0. Raises BundleError or TextError where the text front end cannot be used.
    """
    spec = voice.complete()
    frontend = load_frontend(voice.home, spec.text)
    presets = list(speakers(voice.prompts(), spec.prompt, spec.prefix).values())
    heard = []
    for number, sentence in enumerate(frontend.sentences(text, spec.prompt.max_text_tokens)):
        prompt = presets[number % len(presets)]
        words = frontend.whole(prompt.transcript).ids if prompt.transcript else ()
        prefix = fill_layout(spec.prompt, sentence.ids, prompt.codes, words)
        heard.append((prefix, tuple(_say(voice, RingDecoder(decoder, len(prefix), window), prefix, len(sentence.ids)))))
    return tuple(heard)


def _say(voice: Voice, ring: RingDecoder, prefix: tuple[int, ...], text_tokens: int) -> Iterator[int]:
    """Tokens until a stop, which is the last of them, or the voice's limit."""
    spec = voice.complete()
    ids = torch.tensor(ids_of(speech_ranges(spec.prompt)))
    least, most = (math.ceil(ratio * text_tokens) for ratio in (spec.sampling.min_ratio, spec.sampling.max_ratio))
    sampler = Sampler(spec.sampling, ids.numpy(), spec.prompt.stop, seed=0, min_tokens=least)
    logits = ring.prefill(torch.tensor([prefix]))
    for _ in range(min(most + spec.sampling.max_extra, spec.max_new_tokens)):
        token = sampler.draw(logits[0, -1, ids].numpy())
        if token is None:
            yield spec.prompt.stop[0]
            return
        yield token
        logits = ring.step(token)
