"""What a voice is: the decoder family, the codec, reading and writing checkpoints."""
