"""A small root file system with a shell in it, for containers without an overlay."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

from runtime.spec.default import default_spec

PROGRAMS = ("/bin/sh", "/bin/sleep", "/bin/cat", "/bin/mv")


def make_small_root(top: Path) -> Path:
    """Make it: a shell, what it calls, and the libraries of both."""
    for name in ("bin", "etc", "tmp", "proc", "dev", "sys", "state"):
        (top / name).mkdir(parents=True)
    files = {path for program in PROGRAMS for path in (program, *_libraries(program))}
    for path in files:
        place = top / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(Path(path).resolve(), place)
    return top


def _libraries(program: str) -> list[str]:
    said = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    return re.findall(r"(/\S+) \(0x", said)


def make_rooted_bundle(bundle: Path, script: str) -> Path:
    """A bundle with such a root file system, writable, whose program is a shell script."""
    make_small_root(bundle / "rootfs")
    spec = default_spec()
    spec["process"]["args"] = ["/bin/sh", "-c", script]
    spec["process"]["terminal"] = False
    spec["process"]["env"] = ["PATH=/bin"]
    spec["root"] = {"path": "rootfs", "readonly": False}
    (bundle / "config.json").write_text(json.dumps(spec))
    return bundle
