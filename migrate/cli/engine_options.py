"""Options that allow a checkpoint or give to a restore, named as runc and CRIU users know them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import click

Function = Callable[..., Any]

_FLAGS = (
    ("tcp_established", "Save TCP connections to peers outside of the container."),
    ("tcp_close", "Save such connections as closed ones."),
    ("tcp_skip_in_flight", "Leave out connections from outside that are not yet accepted."),
    ("ext_unix_sk", "Save UNIX sockets whose peer is outside of the container."),
    ("file_locks", "Save locks on files that programs outside can lock too."),
    ("link_remap", "Save removed files that live on under another name."),
    ("shell_job", "Save terminals that came from outside; a restore gives its own."),
)
_LINKS = ("veth", "macvlan", "macvtap", "ipvlan", "ipvtap", "vlan")
_ALSO = {"tcp_skip_in_flight": ("--skip-in-flight",)}


def checkpoint_options(function: Function) -> Function:
    """Give a command the options of a checkpoint; it gets ``allow: CheckpointOptions``."""

    @wraps(function)
    def command(*args: Any, external: Iterable[str], timeout: float, **given: Any) -> Any:
        from runtime.engine.api import CheckpointOptions

        flags = {name: given.pop(name) for name, _ in _FLAGS}
        allow = CheckpointOptions(external=tuple(external), timeout_s=timeout, **flags)
        return function(*args, allow=allow, **given)

    wrapped: Function = click.option(
        "--timeout",
        metavar="SECONDS",
        type=click.FloatRange(0),
        default=10.0,
        show_default=True,
        help="How long to wait for what stands in the way for a moment only: a vfork, a connection "
        "that is not yet accepted.",
    )(command)
    wrapped = click.option(
        "--external",
        metavar="THING",
        multiple=True,
        help="Something outside that a restore gives anew: file[MNT:INODE], pipe[INODE], "
        "unix[INODE], tty[RDEV:DEV], mnt[PATH]:KEY.",
    )(wrapped)
    for name, text in reversed(_FLAGS):
        names = (f"--{name.replace('_', '-')}", *_ALSO.get(name, ()))
        wrapped = click.option(*names, name, is_flag=True, help=text)(wrapped)
    return wrapped


def restore_options(function: Function) -> Function:
    """Give a command the options of a restore; it gets ``give: RestoreOptions``."""

    @wraps(function)
    def command(
        *args: Any,
        tcp_close: bool,
        tcp_established: bool,
        shell_job: bool,
        inherit_fd: Iterable[str],
        external: Iterable[str],
        **given: Any,
    ) -> Any:
        from runtime.engine.api import RestoreOptions

        del tcp_established  # saved connections come back anyway
        give = RestoreOptions(
            tcp_close=tcp_close,
            shell_job=shell_job,
            inherit_fds=dict(_inherited(text) for text in inherit_fd),
            external=dict(_external(text) for text in external),
        )
        return function(*args, give=give, **given)

    wrapped: Function = command
    for option in reversed(_RESTORE):
        wrapped = option(wrapped)
    return wrapped


_RESTORE = (
    click.option("--tcp-close", is_flag=True, help="Saved TCP connections come back closed."),
    click.option("--tcp-established", is_flag=True, help="Accepted for habit: they come back."),
    click.option("--shell-job", is_flag=True, help="Our terminal replaces the one from outside."),
    click.option(
        "--inherit-fd",
        metavar="fd[N]:THING",
        multiple=True,
        help="Our descriptor N stands for the THING that the checkpoint called external.",
    ),
    click.option(
        "--external",
        metavar="THING[KEY]:NAME",
        multiple=True,
        help="What of this host stands for something external: mnt[KEY]:PATH for a mount, "
        "veth[LINK]:NAME[@BRIDGE] for the other end of a pair of interfaces, macvlan[LINK]:NAME "
        "for the interface that one was on.",
    ),
)


def _inherited(text: str) -> tuple[str, int]:
    number, separator, key = text.partition(":")
    digits = number.removeprefix("fd[").removesuffix("]")
    if not separator or not key or number != f"fd[{digits}]" or not digits.isdecimal():
        problem = f"{text!r} is not of the form fd[N]:THING"
        raise click.BadParameter(problem, param_hint="--inherit-fd")
    return key, int(digits)


def _external(text: str) -> tuple[str, str]:
    thing, separator, value = text.partition("]:")
    kind, bracket, key = thing.partition("[")
    if not separator or not bracket or kind not in ("mnt", *_LINKS) or not value:
        problem = (
            f"{text!r} is not of the form mnt[KEY]:PATH, veth[LINK]:NAME or macvlan[LINK]:NAME"
        )
        raise click.BadParameter(problem, param_hint="--external")
    return (f"{kind}[{key}]" if kind in _LINKS else key), value
