"""The reference voice's vocabulary and prompt layout.

Ids: the codec's codes, then BEGIN PROMPT SPEECH STOP MASK, then the symbols of the text.
A prefix is `[BEGIN, text…, PROMPT, codes of a clip…, SPEECH]`; generation ends with STOP.
"""

import string

from sottovoce.models.codec import CodecConfig

CODES = 1
for _levels in CodecConfig().levels:
    CODES *= _levels
BEGIN, PROMPT, SPEECH, STOP, MASK = range(CODES, CODES + 5)

PHONES = (
    "aa ae ah ao aw ax ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th uh uw v w y z zh"
).split()
SYMBOLS = {
    name: CODES + 5 + i
    for i, name in enumerate([" ", ",", ".", "?", *(f"letter:{c}" for c in string.ascii_lowercase), *PHONES])
}
"""Text symbols to ids: word boundary, marks, spelled letters, phones."""

VOCABULARY = -(-(CODES + 5 + len(SYMBOLS)) // 16) * 16
"""Rows of the embedding, rounded up."""

MIN_PROMPT, MAX_PROMPT = 30, 100
"""Codes of a reference clip in training: 0.6 to 2 s."""
MAX_TEXT = 190
"""Text symbols of the longest training sentences."""
LAYOUT = (BEGIN, "{text}", PROMPT, "{prompt_codes}", SPEECH)
