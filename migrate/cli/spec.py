"""``wherry spec``: a starting point for a bundle's configuration."""

from __future__ import annotations

import json
from pathlib import Path

import click

from runtime.errors import ContainerError


@click.command("spec")
@click.option(
    "--bundle",
    "-b",
    type=click.Path(file_okay=False, path_type=Path),
    default=".",
    help="Directory to write config.json to.",
)
@click.option("--print", "to_stdout", is_flag=True, help="Print it instead.")
def command(bundle: Path, to_stdout: bool) -> None:
    """Write a config.json that runs a shell in the rootfs of a bundle."""
    from runtime.spec.default import default_spec

    text = json.dumps(default_spec(), indent=2)
    if to_stdout:
        click.echo(text)
        return
    path = bundle / "config.json"
    try:
        with path.open("x") as file:
            file.write(text + "\n")
    except FileExistsError:
        raise ContainerError(f"{path} exists, remove it first", reason="file-exists") from None
