"""Bundles for tests: the host's own root, to be used with ``--overlay``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.spec.default import do_spec

Change = Callable[[dict[str, Any]], object]

# Ends at once on SIGTERM, as an init without a handler never would.
SLEEP = "trap 'exit 0' TERM; sleep 1000 & wait"


def make_bundle(
    directory: Path, command: str | list[str] = SLEEP, change: Change | None = None
) -> Path:
    """Make a bundle.

    Args:
        directory: Where it goes.
        command: A shell script, or a whole argv.
        change: Gets the configuration and changes it in place.
    """
    args = ["sh", "-c", command] if isinstance(command, str) else command
    spec = do_spec(args, env=["PATH=/usr/sbin:/usr/bin:/sbin:/bin"])
    if change is not None:
        change(spec)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(spec))
    return directory


def bind(spec: dict[str, Any], source: Path, destination: str) -> None:
    """Let the container see a directory of the host, writable."""
    spec["mounts"].append(
        {"destination": destination, "source": str(source), "options": ["rbind", "rw"]}
    )
