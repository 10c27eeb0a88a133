"""What a board tells of itself while it works: processor frequency, temperature, energy, throttling. Linux only.

Each reading is None where the machine does not expose it, as virtual ones do not.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

SYS: Final = Path("/sys")


@dataclass(frozen=True)
class Sensors:
    """One reading: highest frequency of any processor (Hz), highest temperature (°C), energy so far (J), power (W).

    Energy is of processor packages (RAPL), power what a battery gives. `throttled` counts the times that the processor
    was slowed down to cool it, or tells with 1 that a Raspberry Pi says so.
    """

    frequency: float | None
    temperature: float | None
    joules: float | None
    watts: float | None
    throttled: int | None


def read_sensors(root: Path = SYS) -> Sensors:
    """What there is to read below `root`."""
    return Sensors(
        frequency=_highest(root, "devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq", 1e3),
        temperature=_highest(root, "class/thermal/thermal_zone*/temp", 1e-3),
        joules=_sum(root, "class/powercap/intel-rapl:[0-9]/energy_uj", 1e-6),
        watts=_battery(root),
        throttled=_throttled(root),
    )


def _numbers(root: Path, pattern: str) -> list[int]:
    """The numbers in the files that match."""
    found = []
    for path in root.glob(pattern):
        try:
            found.append(int(path.read_text().strip(), 0))
        except (OSError, ValueError):
            continue
    return found


def _highest(root: Path, pattern: str, unit: float) -> float | None:
    """The largest number, in `unit`s."""
    return max((number * unit for number in _numbers(root, pattern)), default=None)


def _sum(root: Path, pattern: str, unit: float) -> float | None:
    """The sum of the numbers, in `unit`s."""
    found = _numbers(root, pattern)
    return sum(found) * unit if found else None


def _battery(root: Path) -> float | None:
    """Watts that batteries give: told as such, or as current and voltage."""
    if power := _numbers(root, "class/power_supply/*/power_now"):
        return sum(power) * 1e-6
    current = _numbers(root, "class/power_supply/*/current_now")
    voltage = _numbers(root, "class/power_supply/*/voltage_now")
    return abs(current[0]) * voltage[0] * 1e-12 if current and voltage else None


def _throttled(root: Path) -> int | None:
    """Times the processors were slowed down; of a Raspberry Pi whether it is now, by its firmware."""
    counts = _numbers(root, "devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")
    if counts:
        return sum(counts)
    flags = _numbers_hex(root, "devices/platform/soc/soc:firmware/get_throttled")
    return None if flags is None else int(flags & 0x7 != 0)  # under-voltage, capped frequency, throttled: now


def _numbers_hex(root: Path, name: str) -> int | None:
    """A number written in hexadecimal digits."""
    try:
        return int((root / name).read_text().strip(), 16)
    except (OSError, ValueError):
        return None
