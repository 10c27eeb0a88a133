"""What a target is: a way to start a program on a machine, with pipes to it. All else is built on that."""

import subprocess
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from sottovoce.errors import OptionError, TargetError


class Target(Protocol):
    """A machine. `name` is how the user wrote it."""

    name: str

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command of this machine that runs `arguments` over there, its three streams and exit status passed on."""
        ...

    def refusal(self, status: int, said: str) -> str | None:
        """Why, by exit `status` and stderr, the connection failed for good; None where it did not."""
        ...

    def dropped(self, status: int, said: str) -> bool:
        """Whether exit `status` and stderr are those of a connection that ended, rather than of the program."""
        ...


class Local:
    """This machine."""

    name = "local"

    def command(self, arguments: Sequence[str]) -> list[str]:
        """See `Target`."""
        return list(arguments)

    def refusal(self, status: int, said: str) -> str | None:
        """See `Target`: there is no connection."""
        return None

    def dropped(self, status: int, said: str) -> bool:
        """See `Target`: there is no connection."""
        return False


def open_target(name: str) -> Target:
    """The target called `local`, `ssh://[user@]host[:port]` or `adb://serial`; raises OptionError for anything else."""
    from sottovoce.devices.targets.adb import Adb
    from sottovoce.devices.targets.ssh import Ssh

    if name == "local":
        return Local()
    parts = _split(name)
    if parts.scheme == "ssh":
        return Ssh(name, parts)
    if parts.scheme == "adb":
        return Adb(name, parts.netloc)
    raise OptionError(f"--on {name}: expected local, ssh://[user@]host[:port] or adb://serial")


def _split(name: str) -> SplitResult:
    """`name` as a URL of a machine alone."""
    try:
        parts = urlsplit(name)
    except ValueError as error:
        raise OptionError(f"--on {name}: {error}") from None
    if parts.path not in ("", "/") or parts.query or parts.fragment or not parts.netloc:
        raise OptionError(f"--on {name}: name a machine alone, as in ssh://pi@raspberrypi.local:22")
    return parts


def start(target: Target, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """`arguments` running on `target`, all streams piped; raises TargetError where its client is not installed."""
    command = target.command(arguments)
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
    except FileNotFoundError:
        raise TargetError(f"{target.name} needs the program {command[0]}, which is not installed here") from None


def end(process: subprocess.Popen[bytes]) -> str:
    """Close the connection to a program and return what it said on stderr; one that does not end then is killed."""
    try:
        _, err = process.communicate(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        _, err = process.communicate()
    return err.decode(errors="replace")


def check(target: Target, status: int, said: str) -> None:
    """Raise TargetError where `status` and `said` (stderr) tell of a connection that failed."""
    if reason := target.refusal(status, said):
        raise TargetError(f"{target.name}: {reason}")
    if target.dropped(status, said):
        raise TargetError(f"{target.name}: the connection failed: {last_line(said)}")


def last_line(said: str) -> str:
    """The last line of what a program wrote, which says what went wrong."""
    return (said.strip().splitlines() or ["nothing was said"])[-1][:300]
