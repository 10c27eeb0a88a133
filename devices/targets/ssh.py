"""A machine reached by the system's `ssh`: the user's configuration, agents, keys and jump hosts all count.

SOTTOVOCE_SSH replaces the program and may add options, as in `ssh -F other_config`.
"""

import os
import re
import shlex
from collections.abc import Sequence
from typing import Final
from urllib.parse import SplitResult

from sottovoce.errors import OptionError

OPTIONS: Final = (
    # Said on the command line, so that no configuration can weaken it: a host whose key is unknown or changed is not
    # spoken to.
    *("-o", "StrictHostKeyChecking=yes"),
    *("-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3"),
    *("-T", "-o", "ForwardX11=no", "-o", "ForwardAgent=no", "-o", "ClearAllForwardings=yes"),
)
"""Options of every call."""

REFUSALS: Final = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "its host key is not the known one: find out why before you trust it"),
    ("Host key verification failed", "its host key is not known: run `ssh HOST` once and compare the fingerprint"),
    ("Permission denied", "it does not let you in: check that `ssh HOST` works"),
    ("Could not resolve hostname", "there is no machine of that name"),
)
"""What ssh says when trying again is no use, and what to tell the user."""


class Ssh:
    """See `Target`; `user` and `port` are None where ssh's configuration is to decide."""

    def __init__(self, name: str, parts: SplitResult) -> None:
        """Take host, user and port of a split URL; raises OptionError where one could be read as an option of ssh."""
        self.name = name
        self.user = parts.username
        try:
            self.host, self.port = parts.hostname or "", parts.port
        except ValueError as error:
            raise OptionError(f"--on {name}: {error}") from None
        if parts.password is not None:
            raise OptionError(f"--on {name.split(':')[0]}://…: leave the password out, ssh asks for it or uses a key")
        for word in (self.host, self.user or "user"):
            if not re.fullmatch(r"[\w.:%@+][\w.:%@+-]*", word):
                raise OptionError(f"--on {name}: {word!r} is no name of a machine or user")

    def command(self, arguments: Sequence[str]) -> list[str]:
        """See `Target`: ssh gives one string to the login shell, so that each argument is quoted once."""
        program, *options = shlex.split(os.environ.get("SOTTOVOCE_SSH", "ssh"))
        words = [program, *OPTIONS, *options]  # of two values for an option, ssh takes the first
        words += ["-p", str(self.port)] if self.port else []
        words += ["-l", self.user] if self.user else []
        return [*words, "--", self.host, shlex.join(arguments)]

    def refusal(self, status: int, said: str) -> str | None:
        """See `Target`."""
        if status != 255:
            return None
        found = next((told for mark, told in REFUSALS if mark in said), None)
        return found and found.replace("HOST", self.host)

    def dropped(self, status: int, said: str) -> bool:
        """See `Target`: ssh ends with 255 for what went wrong with itself, below 0 where it was killed."""
        return status == 255 or status < 0
