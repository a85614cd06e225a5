"""``wherry checkpoint``: save a running container."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from migrate.cli.engine_options import checkpoint_options
from migrate.cli.late_progress import late_progress
from migrate.cli.options import Settings, pass_settings, print_json

if TYPE_CHECKING:
    from runtime.engine.api import CheckpointOptions

log = logging.getLogger(__name__)


@click.command("checkpoint")
@click.option(
    "--image-path",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The state file to write; it appears when it is complete.",
)
@click.option(
    "--sign-key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Sign the file with this private key (Ed25519, PEM).",
)
@click.option("--leave-running", is_flag=True, help="Let the container go on afterwards.")
@checkpoint_options
@click.option("--json", "as_json", is_flag=True, help="Print a report as JSON.")
@click.argument("cid", metavar="ID")
@pass_settings
def command(
    settings: Settings,
    cid: str,
    image_path: Path,
    sign_key: Path | None,
    leave_running: bool,
    allow: CheckpointOptions,
    as_json: bool,
) -> None:
    """Save a running or paused container to a state file.

    Without --leave-running the container has stopped afterwards. If anything fails, it runs on
    untouched and no file appears.
    """
    sign = None
    if sign_key is not None:
        from migrate.store.signing import image_signer

        sign = image_signer(sign_key)
    container = settings.load(cid)
    with late_progress("checkpoint", quiet=as_json) as progress:
        report = container.checkpoint(
            image_path.absolute(),
            leave_running=leave_running,
            progress=progress,
            options=allow,
            sign=sign,
        )
    for warning in report["warnings"]:
        log.warning("%s: %s", cid, warning)
    if as_json:
        print_json(report)
