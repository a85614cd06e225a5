"""``wherry features``: what the runtime supports, for container managers."""

from __future__ import annotations

import click

from migrate.cli.options import print_json


@click.command("features")
def command() -> None:
    """Print what the runtime supports as JSON, the way OCI defines it.

    What this host's kernel offers is another question: `wherry check` answers that.
    """
    from runtime.oci_features import oci_features

    print_json(oci_features())
