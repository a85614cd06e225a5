"""``wherry restore``: a saved program goes on in a fresh sandbox."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from migrate.cli.create_request import CreateOptions
from migrate.cli.engine_options import restore_options
from migrate.cli.options import Settings, pass_settings

if TYPE_CHECKING:
    from runtime.engine.api import RestoreOptions


@click.command("restore")
@click.option(
    "--image-path",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The state file.",
)
@click.option(
    "--bundle",
    "-b",
    type=click.Path(file_okay=False, path_type=Path),
    help="Bundle for the new container. [default: the one that the image names]",
)
@click.option("--detach", "-d", is_flag=True, help="Return as soon as the program goes on.")
@click.option("--keep", is_flag=True, help="Do not delete the container at its end.")
@click.option("--pid-file", type=click.Path(path_type=Path), help="Write the init's pid here.")
@click.option("--console-socket", type=click.Path(path_type=Path), help="Receives the terminal.")
@restore_options
@click.argument("cid", metavar="NEW-ID")
@pass_settings
def command(
    settings: Settings,
    cid: str,
    image_path: Path,
    bundle: Path | None,
    detach: bool,
    keep: bool,
    pid_file: Path | None,
    console_socket: Path | None,
    give: RestoreOptions,
) -> int:
    """Create a container from a state file, and let its program go on."""
    from migrate.cli.running import run_detached, run_in_foreground

    options = CreateOptions(
        bundle=bundle,
        console_socket=console_socket,
        pid_file=pid_file,
        preserve_fds=0,
        no_pivot=False,
        no_new_keyring=False,
        overlay=False,
        restore=image_path.absolute(),
        no_monitor=False,
        give=give,
    )
    if detach:
        return run_detached(settings.root, cid, options)
    return run_in_foreground(settings.root, cid, options, keep=keep)
