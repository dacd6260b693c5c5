"""The option `--device` of commands that run a model."""

from __future__ import annotations

import re

import click

_NAMES = "auto, cpu, cuda, cuda:N (the GPU with this number) or mps"

device_option = click.option("--device", metavar="NAME", default="auto", show_default=True, help=f"{_NAMES}.")


class DeviceCommand(click.Command):
    """A command that takes `device=NAME`, as trainings do, for `--device NAME`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Replaces `device=NAME` by the option."""
        return super().parse_args(ctx, [f"--{text}" if text.startswith("device=") else text for text in args])


def check_name(name: object) -> None:
    """Checks the name of a device, without looking for the device.

    Raises:
        ValueError: it is not a name of a device.
    """
    if not isinstance(name, str) or not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", name):
        raise ValueError(f"device must be {_NAMES}, got {name!r}")
