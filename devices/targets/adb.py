"""An Android device or anything else that runs adbd, reached by the `adb` program and its server.

ANDROID_ADB_SERVER_PORT and the like hold, as for adb itself.
"""

import re
import shlex
from collections.abc import Sequence

from sottovoce.errors import OptionError

LOST = re.compile(
    r"^(adb: |error: )?(no devices|device .*(offline|not found|unauthorized)|.*connection reset|closed)", re.M
)
"""What adb itself says when the device is gone."""


class Adb:
    """See `Target`."""

    def __init__(self, name: str, serial: str) -> None:
        """Take a device by its serial number, as `adb devices` lists it."""
        if not re.fullmatch(r"[\w.][\w.:\[\]%-]*", serial):
            raise OptionError(f"--on {name}: {serial!r} is no serial number (adb devices lists them)")
        self.name = name
        self.serial = serial

    def command(self, arguments: Sequence[str]) -> list[str]:
        """See `Target`: -T, because a terminal would change bytes on their way."""
        return ["adb", "-s", self.serial, "shell", "-T", shlex.join(arguments)]

    def refusal(self, status: int, said: str) -> str | None:
        """See `Target`."""
        if status and "unauthorized" in said:
            return "it has not authorised this computer: unlock it and allow debugging"
        if status and re.search(r"device .*not found|no devices", said):
            return f"adb knows no device {self.serial} (adb devices lists them)"
        return None

    def dropped(self, status: int, said: str) -> bool:
        """See `Target`: adb has no exit status of its own, so that its words decide."""
        return status < 0 or (status != 0 and LOST.search(said) is not None)
