"""This project's decoder beside its peers': one checkpoint, the same threads, steps taken in turns."""
