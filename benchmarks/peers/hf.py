"""The checkpoint as tools expect it that also want a tokenizer; runs in a peer's environment."""

import json
from pathlib import Path


def with_tokenizer(checkpoint: Path, folder: Path) -> Path:
    """`folder`, made: links to the files of `checkpoint`, and a tokenizer of as many words as it has ids."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).symlink_to(path.resolve())
    size = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    words = Tokenizer(WordLevel({f"w{number}": number for number in range(size)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", eos_token="w1").save_pretrained(folder)
    return folder
