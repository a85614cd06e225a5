"""``wherry checkpoint``: save a running container."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from migrate.cli.engine_options import checkpoint_options
from migrate.cli.late_progress import late_progress
from migrate.cli.options import Settings, pass_settings, print_json
from migrate.cli.store_options import Place, secret_options

if TYPE_CHECKING:
    from migrate.file_encryption import FileSealer
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
@click.option("--encrypt", is_flag=True, help="Encrypt the file, with a secret of those below.")
@secret_options
@click.option(
    "--recipient",
    "recipients",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    help="With --encrypt: the private key of this public one (X25519, PEM) opens it; repeatable.",
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
    encrypt: bool,
    place: Place,
    recipients: tuple[Path, ...],
    leave_running: bool,
    allow: CheckpointOptions,
    as_json: bool,
) -> None:
    """Save a running or paused container to a state file.

    Without --leave-running the container has stopped afterwards. If anything fails, it runs on
    untouched and no file appears. With --encrypt, a password, a key file or a private key opens the
    file again, and nothing of it can be read or changed unnoticed without.
    """
    sign = None
    if sign_key is not None:
        from migrate.store.signing import image_signer

        sign = image_signer(sign_key)
    sealer = _sealer(image_path, encrypt, place, recipients)
    container = settings.load(cid)
    with late_progress("checkpoint", quiet=as_json) as progress:
        report = container.checkpoint(
            image_path.absolute(),
            leave_running=leave_running,
            progress=progress,
            options=allow,
            sign=sign,
            sealer=sealer,
        )
    for warning in report["warnings"]:
        log.warning("%s: %s", cid, warning)
    if as_json:
        print_json(report)


def _sealer(
    path: Path, encrypt: bool, place: Place, recipients: tuple[Path, ...]
) -> FileSealer | None:
    if not encrypt:
        if recipients or place.names_secret:
            raise click.UsageError("a secret or --recipient needs --encrypt")
        return None
    from migrate.file_encryption import FileSealer
    from migrate.store.secrets import recipient

    secrets = [recipient(file) for file in recipients]
    if place.names_secret or not secrets:
        secrets.append(dataclasses.replace(place, url=str(path)).secret(new=True))
    return FileSealer(secrets)
