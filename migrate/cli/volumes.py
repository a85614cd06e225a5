"""Host directories in a container of ``wherry do``: ``--volume``, spelled as podman does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

_HINT = "--volume"
# Read-only concerns what is mounted below the directory as well.
_OPTIONS = {"rw": "rw", "ro": "rro"}


def volume_mounts(volumes: tuple[str, ...]) -> list[dict[str, Any]]:
    """The bind mounts of an OCI configuration for ``HOST:CONTAINER[:ro|rw]`` each.

    Args:
        volumes: As the user has written them. HOST is a path, not the name of a volume, and may
            start at the current directory if it begins with a dot.

    Raises:
        click.BadParameter: One is not of that form, or HOST does not exist.

    Source: man 1 podman-run, ``--volume``.
    """
    return [_mount(volume) for volume in volumes]


def _mount(volume: str) -> dict[str, Any]:
    host, _, rest = volume.partition(":")
    inside, _, word = rest.partition(":")
    if not host or not inside:
        raise click.BadParameter(f"{volume!r} is not HOST:CONTAINER[:ro]", param_hint=_HINT)
    if host[0] not in "/.":
        raise click.BadParameter(
            f"{host!r} is the name of a volume, and there are none; a path begins with / or ./",
            param_hint=_HINT,
        )
    if not inside.startswith("/"):
        raise click.BadParameter(f"{inside!r} is no absolute path", param_hint=_HINT)
    option = _OPTIONS.get(word or "rw")
    if option is None:
        raise click.BadParameter(f"{word!r} is neither ro nor rw", param_hint=_HINT)
    source = Path(host).absolute()
    if not source.exists():
        raise click.BadParameter(f"{source} does not exist", param_hint=_HINT)
    return {
        "destination": inside,
        "type": "bind",
        "source": str(source),
        "options": ["rbind", option],
    }
