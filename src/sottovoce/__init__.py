"""sottovoce: autoregressive text-to-speech decoders, made small, for phones and boards."""

__version__ = "0.1.0"
