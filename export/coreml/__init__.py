"""Voice → Core ML packages, made and checked on any machine."""
