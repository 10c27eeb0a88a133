"""What boards expose, on folders laid out as theirs; and what is made of it."""

from pathlib import Path

import pytest

from sottovoce.devices.affinity import fastest
from sottovoce.devices.readings import Sample
from sottovoce.devices.sampler import MOST, Sampler, read_sample
from sottovoce.devices.sensors import Sensors, read_sensors
from sottovoce.devices.summary import health

NOTHING = Sensors(None, None, None, None, None)


def lay(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    assert read_sensors(tmp_path) == NOTHING


def test_a_board_with_everything(tmp_path: Path) -> None:
    cpu = "devices__system__cpu__cpu"
    files = {f"{cpu}0__cpufreq__scaling_cur_freq": "600000\n", f"{cpu}1__cpufreq__scaling_cur_freq": "1500000\n"}
    files |= {"class__thermal__thermal_zone0__temp": "48312\n", "class__thermal__thermal_zone1__temp": "51000\n"}
    files |= {
        "class__powercap__intel-rapl:0__energy_uj": "2500000\n",
        "class__powercap__intel-rapl:0:0__energy_uj": "9\n",
    }
    files |= {
        "class__power_supply__BAT0__current_now": "-500000\n",
        "class__power_supply__BAT0__voltage_now": "4000000\n",
    }
    files |= {"devices__platform__soc__soc:firmware__get_throttled": "50004\n"}
    assert read_sensors(lay(tmp_path, **files)) == Sensors(1.5e9, 51.0, 2.5, 2.0, 1)


def test_files_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    assert read_sensors(lay(tmp_path, class__thermal__thermal_zone0__temp="\n")) == NOTHING


def samples(frequencies: list[float | None], **changes) -> list[Sample]:
    return [Sample(float(n), 1, 1, 0, Sensors(f, 50.0 + n, None, 2.0, None)) for n, f in enumerate(frequencies)]


@pytest.mark.parametrize(
    ("frequencies", "throttled"),
    [([1e9] * 8, False), ([1e9] * 4 + [0.8e9] * 4, True), ([None] * 8, None), ([], None)],
)
def test_throttling_is_flagged(frequencies: list[float | None], throttled: bool | None) -> None:
    found = health(samples(frequencies), (NOTHING, NOTHING), ())
    assert found.throttled is throttled
    assert found.temperature_max == (57.0 if frequencies else None)
    assert found.joules == (pytest.approx(14.0) if frequencies else None)


def test_a_counter_tells_of_throttling_too() -> None:
    before, after = Sensors(None, None, None, None, 3), Sensors(None, None, None, None, 5)
    assert health([], (before, after), ()).throttled is True
    assert health([], (before, before), ()).throttled is False


def test_the_fastest_processors_are_taken(tmp_path: Path) -> None:
    root = lay(
        tmp_path,
        cpu0__cpu_capacity="400",
        cpu1__cpu_capacity="400",
        cpu2__cpu_capacity="1024",
        cpu3__cpu_capacity="1024",
    )
    assert set(fastest([0, 1, 2, 3], 2, root)) == {2, 3}
    assert set(fastest([0, 1], 1, tmp_path / "none")) == {1}


def test_samples_are_thinned_and_end_with_the_process() -> None:
    import os

    sampler = Sampler(os.getpid())
    sampler.interval = 1e-4
    with sampler:
        while sampler.interval < 4e-4:
            pass
    assert 0 < len(sampler.samples) <= MOST
    assert sampler.samples == sorted(sampler.samples, key=lambda sample: sample.time)
    assert sampler.samples[-1].anonymous > 1e6
    assert read_sample(Path("/proc/0/status"), NOTHING) is None
