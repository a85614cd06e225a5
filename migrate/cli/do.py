"""``wherry do``: a command over the host's root, with nothing to prepare."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from migrate.cli.options import Settings, pass_settings

if TYPE_CHECKING:
    from runtime.creation import CreateRequest


@click.command("do", context_settings={"allow_interspersed_args": False})
@click.option("--id", "cid", help="The container's id. [default: a readable random one]")
@click.option("--detach", "-d", is_flag=True, help="Return as soon as the command has started.")
@click.option("--rm", "remove", is_flag=True, help="Accepted for symmetry: it is the default.")
@click.option("--keep", is_flag=True, help="Do not delete the container at its end.")
@click.option("--hostname", help="Host name inside. [default: the id]")
@click.option("--network", type=click.Choice(["none", "host"]), default="none", show_default=True)
@click.option("--cwd", help="Working directory. [default: the current one]")
@click.option("--env", "-e", multiple=True, help="KEY=VALUE, on top of our own environment.")
@click.option(
    "--cap-add",
    metavar="NAME",
    multiple=True,
    help="A capability beyond the usual ones, for instance SYS_ADMIN; ALL for all that we have.",
)
@click.option(
    "--privileged", is_flag=True, help="All capabilities, all devices, nothing of /proc hidden."
)
@click.option(
    "--volume",
    "-v",
    "volumes",
    metavar="HOST:CONTAINER[:ro]",
    multiple=True,
    help="Show a file or directory of the host inside; what is written there stays on the host.",
)
@click.option("--tty/--no-tty", "-t/-T", default=None, help="A terminal inside or none.")
@click.argument("args", metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
@pass_settings
def command(
    settings: Settings,
    /,
    cid: str | None,
    detach: bool,
    remove: bool,
    keep: bool,
    args: tuple[str, ...],
    **options: Any,
) -> int:
    """Run COMMAND in a container over the host's own root.

    The command sees the host's files, and its changes go to a private overlay that disappears with
    the container. It has its own processes, network (loopback only) and host name. A --volume is
    the host's own: changes there stay, and no image holds them.

    In the foreground the container is deleted at its end. With --detach its id is printed, and it
    stays until it is deleted.
    """
    if remove and (keep or detach):
        raise click.UsageError("--rm excludes --keep and --detach")
    from runtime.ids import random_id

    cid = cid or random_id()
    tty = options["tty"]
    if tty is None:
        tty = not detach and all(os.isatty(fd) for fd in (0, 1))
    elif tty and detach:
        raise click.UsageError("--tty excludes --detach")
    from migrate.cli.volumes import volume_mounts
    from runtime.spec.default import do_spec

    spec = do_spec(
        args,
        cwd=options["cwd"] or str(Path.cwd()),
        env=[*(f"{key}={value}" for key, value in os.environ.items()), *options["env"]],
        hostname=options["hostname"] or cid,
        terminal=tty,
        hide=[settings.root],
        host_network=options["network"] == "host",
        capabilities=_capabilities([*options["cap_add"], *["ALL"] * options["privileged"]]),
        privileged=options["privileged"],
    )
    spec["mounts"] += volume_mounts(options["volumes"])
    return _run(settings.root, cid, spec, detach=detach, keep=keep)


def _capabilities(names: list[str]) -> list[str]:
    """Capabilities by the names that people write, with or without ``CAP_``."""
    from runtime.kernel.capabilities import CAPABILITY_NUMBERS, get_capabilities, names_of

    found: set[str] = set()
    for name in names:
        if name.upper() == "ALL":
            found.update(names_of(get_capabilities().permitted))
            continue
        full = f"CAP_{name.upper().removeprefix('CAP_')}"
        if full not in CAPABILITY_NUMBERS:
            raise click.BadParameter(f"{name} is no capability", param_hint="--cap-add")
        found.add(full)
    return sorted(found)


def _run(root: Path, cid: str, spec: dict[str, Any], *, detach: bool, keep: bool) -> int:
    from migrate.cli.running import accompany
    from runtime.container import Container

    @contextlib.contextmanager
    def make_request(console: int | None) -> Iterator[CreateRequest]:
        from runtime.creation import CreateRequest
        from runtime.sandbox.descriptors import Stdio

        yield CreateRequest(
            cid=cid,
            spec=spec,
            bundle=Path("/"),
            stdio=Stdio(0, 1, 2),
            overlay=True,
            console=console,
        )

    if detach:
        with make_request(None) as request:
            Container.run(root, request)
        click.echo(cid)
        return 0
    terminal = bool(spec["process"].get("terminal"))
    return accompany(root, make_request, own_terminal=terminal, keep=keep, like_a_command=True)
