"""Speech and text to distil on: folders that people have, codes of them, and batches."""
