"""The table of machines, `devices.toml`: what they have, and where each figure is from."""

import tomllib
from dataclasses import dataclass
from importlib import resources

from sottovoce.errors import OptionError
from sottovoce.runtime.parse import parse


@dataclass(frozen=True)
class Device:
    """A machine: GB of RAM, GB/s of memory bandwidth (`measured`: by STREAM), a source per figure; None: unknown."""

    title: str
    system: str
    cores: str
    ram: float
    sources: dict[str, str]
    isa: str | None = None
    bandwidth: float | None = None
    measured: bool = False


def read_devices() -> dict[str, Device]:
    """Every device by name; raises BundleError where the table is malformed."""
    text = (resources.files("sottovoce.devices") / "devices.toml").read_text(encoding="utf-8")
    return {name: parse(Device, value, f"devices.toml: {name}") for name, value in tomllib.loads(text).items()}


def find_device(name: str) -> Device:
    """The device called `name`; raises OptionError that names those there are."""
    devices = read_devices()
    if name not in devices:
        raise OptionError(f"--device {name}: not in the table; there are {', '.join(devices)}")
    return devices[name]
