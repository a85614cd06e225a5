"""Signals by name or number, as people write them."""

from __future__ import annotations

import signal

import click


def parse_signal(text: str) -> int:
    """The number of a signal written as ``9``, ``KILL``, ``SIGKILL`` or ``RTMIN+1``.

    Raises:
        click.BadParameter: There is no such signal.
    """
    name = text.upper().removeprefix("SIG")
    base, sign, offset = name.partition("+")
    if not sign:
        base, sign, offset = name.partition("-")
    if name.isdigit():
        number = int(name)
    elif f"SIG{base}" in signal.Signals.__members__ and (not sign or offset.isdigit()):
        shift = int(offset or 0) if sign != "-" else -int(offset or 0)
        number = signal.Signals[f"SIG{base}"] + shift
    else:
        raise click.BadParameter(f"{text!r} is no signal")
    if number not in signal.valid_signals():
        raise click.BadParameter(f"{text!r} is no signal")
    return number
