"""Patches (TLDR, arXiv 2606.09019): a decoder takes a step for k tokens; two small nets go between tokens and steps."""
