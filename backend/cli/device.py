"""A device as an option."""

import re
from typing import Any

import click

from backend.settings import DEVICE


class Device(click.ParamType):  # type: ignore[type-arg]
    """A device as torch names it; auto is the GPU with most free memory, if there is one."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Whether it is there is found out when it is used: to look loads torch."""
        if re.fullmatch(DEVICE, str(value)) is None:
            self.fail(f"{value!r} is none of cpu, cuda, cuda:N such as cuda:1, and auto", param, ctx)
        return str(value)
