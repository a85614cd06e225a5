"""The options of every command that connects to another host, named as ``ssh`` users know them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from migrate.destination import Destination
from migrate.remote import Route
from migrate.ssh_config import SshOptions, parse_options

Function = Callable[..., Any]

_OPTIONS = (
    click.option("--port", "-p", type=click.IntRange(1, 65535), help="TCP port of the SSH server."),
    click.option(
        "--identity",
        "-i",
        "identities",
        type=click.Path(path_type=Path),
        multiple=True,
        help="Private key to log in with; may be given several times.",
    ),
    click.option(
        "--known-hosts",
        type=click.Path(path_type=Path),
        multiple=True,
        help="File to check the host's key against, instead of the configured ones.",
    ),
    click.option(
        "-o",
        "ssh_options",
        metavar="OPTION=VALUE",
        multiple=True,
        help="An option as in ssh_config, for instance StrictHostKeyChecking=accept-new.",
    ),
    click.option(
        "--ssh-config",
        "-F",
        type=click.Path(path_type=Path),
        help="ssh configuration file to read instead of the user's and the system's.",
    ),
    click.option(
        "--via",
        "-J",
        "via",
        metavar="[USER@]HOST[:PORT],…",
        help="Connect through these hosts, as ssh -J does; none for no jump host at all.",
    ),
    click.option(
        "--remote-command",
        default="wherry",
        show_default=True,
        help="The wherry command over there; may be a path, or begin with sudo for a user who is"
        " not root.",
    ),
    click.option(
        "--remote-root",
        type=click.Path(path_type=Path),
        help="State root over there, when it is not the default one.",
    ),
)


def ssh_options(function: Function) -> Function:
    """Add the options to a command; they arrive as one keyword ``route_to``.

    ``route_to(destination)`` makes the `Route` for a `Destination`.
    """

    @wraps(function)
    def with_route(
        *args: Any,
        port: int | None,
        identities: tuple[Path, ...],
        known_hosts: tuple[Path, ...],
        ssh_options: tuple[str, ...],
        ssh_config: Path | None,
        via: str | None,
        remote_command: str,
        remote_root: Path | None,
        **kwargs: Any,
    ) -> Any:
        options = parse_options(ssh_options)
        if via is not None:
            options["proxyjump"] = via
        given = SshOptions(port, identities, known_hosts, options, ssh_config)

        def route_to(destination: Destination) -> Route:
            return Route(destination, given, remote_command, remote_root)

        return function(*args, route_to=route_to, **kwargs)

    wrapped: Function = with_route
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def ask_person(prompt: str) -> str | None:
    """Ask at the terminal for a secret; None when nobody is there."""
    import getpass

    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    try:
        return getpass.getpass(prompt) or None
    except EOFError:
        return None
