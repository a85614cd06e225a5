"""``wherry create``: a container whose program waits for ``start``."""

from __future__ import annotations

from typing import Any

import click

from migrate.cli.create_request import CreateOptions, create_options, request_from
from migrate.cli.engine_options import restore_options
from migrate.cli.options import Settings, pass_settings


@click.command("create")
@click.argument("cid", metavar="ID")
@create_options
@restore_options
@pass_settings
def command(settings: Settings, /, cid: str, **options: Any) -> None:
    """Create a container from a bundle; its program waits for `wherry start`.

    With --restore, the saved program is rebuilt inside and waits frozen instead; the options of
    `wherry restore` hold for it.

    When --pid-file is given by a supervisor that is a child subreaper (conmon, the containerd
    shim), the init is left to it and no monitor stays; so it is with --no-monitor.
    """
    from runtime.container import Container

    with request_from(cid, CreateOptions(**options)) as request:
        Container.create(settings.root, request)
