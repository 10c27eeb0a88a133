"""`sottovoce devices`: the machines that `fit` knows, and with a name where its figures are from."""

import argparse

from sottovoce.devices.table import find_device, read_devices
from sottovoce.runtime.table import columns


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `devices`."""
    parser.add_argument("name", nargs="?", help="show this one with the source of every figure")


def run(args: argparse.Namespace) -> int:
    """Print the table or one device and return exit status 0."""
    if args.name is None:
        rows = [("device", "RAM", "bandwidth", "system", "cores")]
        for name, device in read_devices().items():
            speed = "-" if device.bandwidth is None else f"{device.bandwidth:g} GB/s"
            rows.append((name, f"{device.ram:g} GB", speed, device.system, device.cores))
        print(columns(rows))
        return 0
    device = find_device(args.name)
    print(f"{args.name}: {device.title}, {device.system}")
    figures = {"ram": f"{device.ram:g} GB", "cores": device.cores, "isa": device.isa, "bandwidth": device.bandwidth}
    print(columns([(name, str(value), device.sources[name]) for name, value in figures.items() if value is not None]))
    return 0
