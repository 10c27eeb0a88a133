"""What a target is and what it has to run a bundle with."""

import json
from dataclasses import dataclass
from importlib import resources

from sottovoce.devices.targets.target import Target, check, last_line, start
from sottovoce.errors import TargetError
from sottovoce.runtime.parse import parse

OLDEST = (3, 11)
"""The first version of Python that the runtime works with."""

NAMES = ("python3", *(f"python3.{minor}" for minor in range(20, OLDEST[1] - 1, -1)), "python")
"""Names that an interpreter may have."""

FIND = """
for python in "$@"; do
  if command -v "$python" >/dev/null 2>&1 &&
     "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
  then exec "$python" -c "$SURVEY"; fi
done
echo "$(uname -sm) without Python 3.11 or newer" >&2
exit 97
"""
"""POSIX shell: the first interpreter among the arguments that is new enough runs the survey."""


@dataclass(frozen=True)
class Survey:
    """A target: what it is and has; `glibc` and versions of `modules` are None where there is none."""

    executable: str
    python: tuple[int, int]
    system: str
    machine: str
    pointer_bits: int
    glibc: str | None
    host: str
    cores: int
    modules: dict[str, str | None]

    @property
    def lacks(self) -> list[str]:
        """Modules that speaking takes and the target has not."""
        return [name for name, version in self.modules.items() if version is None]


def source(module: str) -> str:
    """The source of one of the programs that run on a target."""
    return (resources.files("sottovoce.devices.targets") / f"{module}.py").read_text(encoding="utf-8")


def probe(target: Target, python: str | None = None) -> Survey:
    """Survey `target`, with its interpreter `python` (None: the first that is new enough).

    Raises TargetError where it cannot be reached or has no such interpreter.
    """
    names = NAMES if python is None else (python,)
    process = start(target, ["env", f"SURVEY={source('survey')}", "sh", "-c", FIND, "sh", *names])
    out, err = process.communicate()
    said = err.decode(errors="replace")
    if process.returncode == 97:
        raise TargetError(f"{target.name}: {last_line(said)}: name one with --python PATH")
    check(target, process.returncode, said)
    try:
        value = json.loads(out.splitlines()[-1])
    except (ValueError, IndexError):
        raise TargetError(
            f"{target.name} cannot be surveyed (status {process.returncode}): {last_line(said)}"
        ) from None
    survey: Survey = parse(Survey, value, target.name)
    return survey
