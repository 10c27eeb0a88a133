"""The machine's description, on this machine and on recorded /proc/cpuinfo texts."""

import pytest

from sottovoce.devices import machine
from sottovoce.devices.machine import describe_machine, name_from_cpuinfo


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
    found = describe_machine()
    assert found.processor
    assert found.cores >= 1
    assert {"sottovoce", "numpy"} < set(found.versions)
    assert [name for name in found.versions if name.startswith("onnxruntime")]


def test_an_engine_of_another_name_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "VERSIONS", ("numpy", "no-such-distribution"))
    assert list(describe_machine().versions) == ["numpy"]
