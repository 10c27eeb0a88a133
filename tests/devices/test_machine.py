"""The machine's description, on this machine and on recorded /proc/cpuinfo texts."""

import pytest

from sottovoce.devices.machine import VERSIONS, describe_machine, name_from_cpuinfo


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n", "Some CPU @ 2 GHz"),
        ("processor\t: 0\nBogoMIPS\t: 108.00\n\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 5\n", "Raspberry Pi 5"),
        ("processor\t: 0\n", None),
    ],
)
def test_processor_name(text: str, name: str | None) -> None:
    assert name_from_cpuinfo(text) == name


def test_this_machine_is_described() -> None:
    machine = describe_machine()
    assert machine.processor
    assert machine.cores >= 1
    assert set(machine.versions) == set(VERSIONS)
