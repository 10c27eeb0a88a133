"""Voice → smaller voice: window (WAND), prune (SPADE), patch (TLDR), with distillation, and what it cost."""
