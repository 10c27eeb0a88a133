"""What is not plain JSON is one error that names the file."""

import pytest

from sottovoce.errors import BundleError, VoiceError
from sottovoce.runtime.strict_json import decode_json, read_json


def test_plain_json_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1, -2.5, 1e3, true, null, "ä"]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"a": [1, -2.5, 1000.0, True, None, "ä"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("[NaN]", "NaN is not JSON"),
        ("-Infinity", "-Infinity is not JSON"),
        ("1e999", "1e999 is too large"),
        ("9" * 5000, "4300"),
        ('{"a": 1, "b": 2, "a": 3}', "key 'a' stands there twice"),
    ],
)
def test_the_rest_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        decode_json(text)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BundleError, match=r"a\.json cannot be read: "):
        read_json(tmp_path / "a.json")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(VoiceError, match="No such file"):
        read_json(tmp_path / "absent.json", VoiceError)
    (tmp_path / "a.json").write_bytes(b"\xff")
    with pytest.raises(BundleError, match="utf-8"):
        read_json(tmp_path / "a.json")
