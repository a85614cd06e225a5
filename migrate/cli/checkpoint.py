"""``wherry checkpoint``: save a running container."""

from __future__ import annotations

from pathlib import Path

import click

from migrate.cli.options import Settings, pass_settings


@click.command("checkpoint")
@click.option(
    "--image-path",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The state file to write; it appears when it is complete.",
)
@click.option("--leave-running", is_flag=True, help="Let the container go on afterwards.")
@click.option("--json", "as_json", is_flag=True, help="Print a report as JSON.")
@click.argument("cid", metavar="ID")
@pass_settings
def command(
    settings: Settings, cid: str, image_path: Path, leave_running: bool, as_json: bool
) -> None:
    """Save a running or paused container to a state file.

    Without --leave-running the container has stopped afterwards. If anything fails, it runs on
    untouched and no file appears.
    """
    from migrate.cli.progress import progress_display
    from runtime.checkpoint_container import checkpoint

    container = settings.load(cid)
    with progress_display("checkpoint") as progress:
        report = checkpoint(
            container, image_path.absolute(), leave_running=leave_running, progress=progress
        )
    if as_json:
        import json

        click.echo(json.dumps(report, indent=2))
