"""Spectrograms of one sentence: the teacher, the codec, the voice.

`python -m examples.reference_voice.picture --bundle work/bundles/int8 -o voices/reference/spectrogram.png`
"""

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np

from examples.reference_voice import speech
from sottovoce.runtime.bundle import load_bundle
from sottovoce.runtime.codec import CodecStream, encode
from sottovoce.runtime.prompt import find_prompt
from sottovoce.runtime.speak import speak

TEXT = "the next station is three hundred meters away."


def main() -> None:
    """Draw the three, one above the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--speaker", default="rms")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    bundle = load_bundle(args.bundle, threads=1)
    teacher = speech.tidy(speech.flite(TEXT, args.speaker))
    stream = CodecStream(bundle.voice)
    resynthesis = np.concatenate([stream.decode(encode(bundle, teacher)), stream.finish([])])
    voice = speak(bundle, TEXT, find_prompt(bundle, args.speaker), seed=1).whole()
    figure, axes = plt.subplots(3, 1, figsize=(9, 6), layout="constrained", sharex=True)
    for axis, audio, title in zip(axes, (teacher, resynthesis, voice), ("teacher", "codec", "voice"), strict=True):
        axis.specgram(audio + 1e-5, NFFT=512, noverlap=384, Fs=speech.RATE, cmap="magma", vmin=-120, vmax=-40)
        axis.set(title=f"{title}, speaker {args.speaker}", ylabel="Hz")
    axes[-1].set_xlabel("seconds")
    figure.savefig(args.output, dpi=90)


if __name__ == "__main__":
    main()
