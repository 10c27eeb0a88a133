"""Text → token ids: normalisation, lexicon, sentence splitting. Standard library only."""
