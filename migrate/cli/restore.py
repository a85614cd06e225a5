"""``wherry restore``: a saved program goes on in a fresh sandbox."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from migrate.cli.create_request import CreateOptions
from migrate.cli.engine_options import restore_options
from migrate.cli.options import Settings, pass_settings
from migrate.cli.store_options import Place, at_reference, store_options

if TYPE_CHECKING:
    from runtime.engine.api import RestoreOptions


@click.command("restore")
@click.option(
    "--image-path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The state file.",
)
@click.option(
    "--latest",
    metavar="JOB",
    help="Restore the newest snapshot of this container, or with this tag; NEW-ID may be left out.",
)
@click.option(
    "--verify-key",
    "key_files",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    envvar="WHERRY_VERIFY_KEY",
    show_envvar=True,
    help="Only restore what this public key (Ed25519, PEM) has signed; repeatable.",
)
@store_options
@click.option(
    "--bundle",
    "-b",
    type=click.Path(file_okay=False, path_type=Path),
    help="Bundle for the new container. [default: the one that the image names]",
)
@click.option(
    "--lazy",
    is_flag=True,
    help="Let the program go on at once; its memory comes when it is needed, the rest behind that.",
)
@click.option("--detach", "-d", is_flag=True, help="Return as soon as the program goes on.")
@click.option("--keep", is_flag=True, help="Do not delete the container at its end.")
@click.option("--pid-file", type=click.Path(path_type=Path), help="Write the init's pid here.")
@click.option("--console-socket", type=click.Path(path_type=Path), help="Receives the terminal.")
@restore_options
@click.argument("names", metavar="[STORE:ID] NEW-ID", nargs=-1)
@pass_settings
def command(
    settings: Settings,
    names: tuple[str, ...],
    image_path: Path | None,
    latest: str | None,
    key_files: tuple[Path, ...],
    place: Place,
    bundle: Path | None,
    lazy: bool,
    detach: bool,
    keep: bool,
    pid_file: Path | None,
    console_socket: Path | None,
    give: RestoreOptions,
) -> int:
    """Create a container from a state file or a snapshot, and let its program go on.

    A snapshot is STORE:ID, or ID in the store of --store. The id may be abbreviated; a tag, the id
    of a container, CONTAINER@TIME (UTC) and "latest" work too, and mean the newest that fits.
    """
    from migrate.cli.running import run_detached, run_in_foreground

    snapshot, cid = _what_and_whereto(names, image_path, latest, place)
    options = CreateOptions(
        bundle=bundle,
        console_socket=console_socket,
        pid_file=pid_file,
        preserve_fds=0,
        no_pivot=False,
        no_new_keyring=False,
        overlay=False,
        restore=None if image_path is None else image_path.absolute(),
        no_monitor=False,
        lazy=lazy,
        give=give,
        snapshot=snapshot,
        verify_key=key_files,
        place=place,
    )
    if detach:
        return run_detached(settings.root, cid, options)
    return run_in_foreground(settings.root, cid, options, keep=keep)


def _what_and_whereto(
    names: tuple[str, ...], image_path: Path | None, latest: str | None, place: Place
) -> tuple[tuple[Place, str] | None, str]:
    """The snapshot, if it is to be one, and the new container's id."""
    given = [image_path is not None, latest is not None, len(names) == 2]
    if sum(given) > 1 or len(names) > 2:
        raise click.UsageError("give one of --image-path, --latest and STORE:ID, and one NEW-ID")
    if latest is not None:
        return (place, latest), names[0] if names else latest
    if len(names) == 2:
        return at_reference(names[0], place), names[1]
    if image_path is None or not names:
        raise click.UsageError("give --image-path FILE, --latest JOB or STORE:ID, and NEW-ID")
    return None, names[0]
