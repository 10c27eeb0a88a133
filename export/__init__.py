"""Voice → bundle: graphs, quantization, manifest, parity."""
