"""Stage 7: trained weights → the voice folder.

`python -m examples.reference_voice.pack --decoder work/decoder --codec work/codec -o voices/reference` writes config,
fp16 weights, codec, symbol table and one preset prompt per speaker (a flite clip of a sentence that nothing else
uses). The lexicon is already there.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from examples.reference_voice import layout, speech
from examples.reference_voice.tokenise import encode
from sottovoce.models.codec import Codec
from sottovoce.models.config import DecoderConfig
from sottovoce.models.decoder import Decoder
from sottovoce.models.voice import VoiceSpec, save_voice
from sottovoce.runtime.manifest import PromptSpec, SamplingSpec, TextSpec

CLIP = "the quick brown fox jumps over the lazy dog"
LICENCE = "CMU ARCTIC voice of Debian's flite, free licence (BSD-style)"
CONSENT = "recorded by the speaker for the public CMU ARCTIC databases; this clip is synthetic"

SPEC = VoiceSpec(
    codec="codec",
    prompt=PromptSpec(
        layout=layout.LAYOUT,
        code_offset=0,
        code_count=layout.CODES,
        stop=(layout.STOP,),
        max_text_tokens=layout.MAX_TEXT,
        max_prompt_codes=layout.MAX_PROMPT,
        default="rms",
    ),
    text=TextSpec("lexicon", "text.json"),
    sampling=SamplingSpec(temperature=0.3, top_p=0.9, min_ratio=1.0, max_ratio=6.0, max_extra=80),
    max_new_tokens=1024,
    prefix=320,
)


def write_prompts(codec: Codec, folder: Path) -> None:
    """`prompts/NAME.json` for every speaker: the last two seconds of the clip."""
    (folder / "prompts").mkdir(parents=True, exist_ok=True)
    for name in speech.SPEAKERS:
        audio = speech.tidy(speech.flite(CLIP + ".", name))
        codes = encode(codec, np.round(audio * 32767).astype(np.int16))[-layout.MAX_PROMPT :]
        value = {"codes": codes.tolist(), "transcript": CLIP, "licence": LICENCE, "consent": CONSENT}
        (folder / "prompts" / f"{name}.json").write_text(json.dumps(value) + "\n", encoding="utf-8")


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decoder", type=Path, required=True)
    parser.add_argument("--codec", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    hf = json.loads((args.decoder / "config.json").read_text())
    decoder = Decoder(DecoderConfig.from_hf(hf))
    decoder.load_state_dict({k: v.float() for k, v in load_file(args.decoder / "model.safetensors").items()})
    args.output.mkdir(parents=True, exist_ok=True)
    save_voice(decoder, hf, SPEC, args.output)
    codec = Codec.load(args.codec)
    codec.save(args.output / "codec")
    text = {"kind": "lexicon", "file": "lexicon.txt", "symbols": layout.SYMBOLS}
    (args.output / "text.json").write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
    write_prompts(codec, args.output)


if __name__ == "__main__":
    main()
