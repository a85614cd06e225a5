"""A bundle whose root file system is the host's programs, read-only: nothing to download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_NAMESPACES = ("pid", "mount", "network", "uts", "ipc")


def make_bundle(directory: Path, *args: str) -> Path:
    """Write a bundle that runs *args*.

    Args:
        directory: Where the bundle goes; it is made.
        *args: The program, found in the host's /usr/bin or /bin.

    Returns:
        *directory*.
    """
    rootfs = directory / "rootfs"
    mounts: list[dict[str, Any]] = [{"destination": "/proc", "type": "proc", "source": "proc"}]
    rootfs.mkdir(parents=True)
    for name in ("proc", "tmp", "dev"):
        (rootfs / name).mkdir()
    for name in ("usr", "bin", "sbin", "lib", "lib64"):
        host = Path("/", name)
        if host.is_symlink():
            (rootfs / name).symlink_to(host.readlink())
        elif host.is_dir():
            (rootfs / name).mkdir()
            options = ["rbind", "ro"]
            mounts.append(
                {"destination": str(host), "type": "bind", "source": str(host), "options": options}
            )
    config = {
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": list(args),
            "cwd": "/",
            "env": ["PATH=/usr/bin:/bin"],
        },
        "root": {"path": "rootfs"},
        "hostname": "bench",
        "mounts": mounts,
        "linux": {"namespaces": [{"type": name} for name in _NAMESPACES]},
    }
    (directory / "config.json").write_text(json.dumps(config))
    return directory
