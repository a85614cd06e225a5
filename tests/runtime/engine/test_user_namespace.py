"""A container in a user namespace comes back in one, with files of its own users."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.bundles import make_bundle
from tests.support.command import Wherry
from tests.support.wait import wait_until

FIRST_ID = 100_000
PROGRAM = (
    "echo mine > /dev/shm/file; mkdir /dev/shm/there; ln -s file /dev/shm/link; exec sleep 1000"
)


def _mapped(raw: dict[str, Any]) -> None:
    raw["linux"]["namespaces"].append({"type": "user"})
    mapping = [{"containerID": 0, "hostID": FIRST_ID, "size": 65536}]
    raw["linux"]["uidMappings"] = raw["linux"]["gidMappings"] = mapping


def _pid(wherry: Wherry, cid: str) -> int:
    return int(json.loads(wherry("state", cid).stdout)["pid"])


def test_comes_back_with_its_ids(wherry: Wherry, scratch: Path) -> None:
    scratch.chmod(0o755)
    bundle, image = make_bundle(scratch / "b", PROGRAM, _mapped), scratch / "image.wherry"
    wherry("run", "--detach", "--overlay", "--bundle", bundle, "before")
    shared = Path(f"/proc/{_pid(wherry, 'before')}/root/dev/shm")
    wait_until((shared / "link").is_symlink, 30, "the program's files")
    wherry("checkpoint", "--image-path", image, "before")
    wherry("delete", "before")
    wherry("restore", "--detach", "--bundle", bundle, "--image-path", image, "after")
    pid = _pid(wherry, "after")
    shared = Path(f"/proc/{pid}/root/dev/shm")
    assert (shared / "link").read_text() == "mine\n"
    assert {path.lstat().st_uid for path in shared.iterdir()} == {FIRST_ID}
    status = Path(f"/proc/{pid}/status").read_text()
    assert f"Uid:\t{FIRST_ID}\t{FIRST_ID}\t{FIRST_ID}\t{FIRST_ID}" in status
    wherry("delete", "--force", "after")
