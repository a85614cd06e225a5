"""Ways to the other host: through jump hosts with the agent's key, and as a user with sudo."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.hello import own_hello
from migrate.messages import OfferContainer, Refuse
from migrate.protocol import Peer
from migrate.receive_container import receive_container
from migrate.transport import DescriptorChannel
from tests.migrate.images import write_image
from tests.support.lab import Lab
from tests.support.wait import wait_until

USER, UID = "sailor", 4321
HOME = "/run/sailor"


def _login_files(lab: Lab, tmp_path: Path, *users: str) -> Path:
    """A configuration without any key: only the agent has one."""
    config = tmp_path / "config"
    known = lab.base / lab.name / "ssh" / "known_hosts"
    config.write_text(
        f"Host *\n IdentityFile /nonexistent\n UserKnownHostsFile {known}\n"
        "Host inner\n HostName 127.0.0.1\n HostKeyAlias b\n"
        "Host b\n HostName 10.77.0.2\n HostKeyAlias b\n"
        "Host a\n HostName 10.77.0.1\n HostKeyAlias a\n"
    )
    return config


def _with_agent(lab: Lab, *words: str | Path, check: bool = True) -> str:
    key = lab.base / lab.name / "ssh" / "id_ed25519"
    script = f'ssh-add -q {key} && "$@"'
    done = lab.run("a", "ssh-agent", "sh", "-c", script, "sh", *words, check=check)
    return done.stdout + done.stderr


@pytest.mark.parametrize("via", ["b", "root@10.77.0.2:22", "a,b"])
def test_through_jump_hosts(lab: Lab, tmp_path: Path, via: str) -> None:
    image = lab.home("a") / "job.wherry"
    write_image(image, 1)
    config = _login_files(lab, tmp_path)
    # 127.0.0.1 is the jump host's: whoever goes there directly comes to host a, with another key.
    _with_agent(lab, "wherry", "ship", "-F", config, "--via", via, image, "inner:")
    assert (lab.home("b") / "job.wherry").read_bytes() == image.read_bytes()
    said = _with_agent(lab, "wherry", "ship", "-F", config, image, "inner:", check=False)
    assert "CHANGED" in said


def test_a_container_goes_through_a_jump_host(lab: Lab, tmp_path: Path) -> None:
    config = _login_files(lab, tmp_path)
    lab.run("a", "wherry", "do", "--id", "job", "--detach", "--", "sleep", "1000")
    _with_agent(lab, "wherry", "migrate", "-F", config, "-J", "b", "job", "inner")
    assert lab.containers("a") == {} and lab.containers("b") == {"job": "running"}
    lab.run("b", "wherry", "delete", "--force", "job")


def test_a_jump_host_out_of_reach(lab: Lab, tmp_path: Path) -> None:
    image = lab.home("a") / "job.wherry"
    write_image(image, 1)
    done = lab.run("a", "wherry", "ship", "--via", "b:2", image, "b:", check=False)
    assert done.returncode == 41 and "unreachable" in done.stderr
    done = lab.run("a", "wherry", "ship", "--via", "b", "--port", "2", image, "b:", check=False)
    assert done.returncode == 41 and "jump host cannot reach" in done.stderr


@pytest.fixture
def sailor(lab: Lab) -> Iterator[str]:
    """A user of host b who may do everything by sudo, and has the lab's key."""
    host = lab.base / lab.name / "b"
    before = {name: (host / name).read_bytes() for name in ("passwd", "shadow")}
    with (host / "passwd").open("a") as file:
        file.write(f"{USER}:x:{UID}:{UID}::{HOME}:/bin/sh\n")
    with (host / "shadow").open("a") as file:
        file.write(f"{USER}:*:19000:0:99999:7:::\n")
    home = lab.path("b", HOME)
    (home / ".ssh").mkdir(parents=True)
    key = (lab.base / lab.name / "ssh" / "id_ed25519.pub").read_text()
    (home / ".ssh" / "authorized_keys").write_text(key)
    os.chown(home, UID, UID)
    wherry = lab.run("b", "sh", "-c", "command -v wherry").stdout.strip()
    rights = f"{USER} ALL=(root) NOPASSWD: {wherry}\n"
    sudoers = lab.path("b", "/run/sudoers")
    sudoers.write_text(rights)
    sudoers.chmod(0o440)
    lab.run("b", "mount", "--bind", "/run/sudoers", "/etc/sudoers")
    yield wherry
    lab.run("b", "umount", "/etc/sudoers")
    wait_until(lambda: not lab.pids("b", f"sshd: {USER}"))
    sudoers.unlink()
    shutil.rmtree(home)
    for name, content in before.items():
        (host / name).write_bytes(content)


def test_a_user_with_sudo(lab: Lab, sailor: str) -> None:
    # sudo takes away core files, and root may lack CAP_SYS_RESOURCE to have them again.
    start = "ulimit -c 0; exec wherry do --id job --detach -- sleep 1000"
    lab.run("a", "sh", "-c", start)
    to, sudo = f"{USER}@b", ("--remote-command", f"sudo {sailor}")
    lab.run("a", "wherry", "migrate", "--dry-run", *sudo, "job", to)
    report = lab.json("a", "wherry", "migrate", "--json", *sudo, "job", to)
    assert report["destination"] == to
    assert lab.containers("a") == {} and lab.containers("b") == {"job": "running"}
    image = lab.home("a") / "job.wherry"
    write_image(image, 1)
    lab.run("a", "wherry", "ship", *sudo, image, f"{to}:{HOME}/")
    assert (lab.path("b", HOME) / "job.wherry").read_bytes() == image.read_bytes()
    # What sudo does not allow, it says itself.
    done = lab.run(
        "a", "wherry", "ship", "--remote-command", "sudo env wherry", image, f"{to}:", check=False
    )
    assert done.returncode != 0 and "sudo" in done.stderr and "Traceback" not in done.stderr
    lab.run("b", "wherry", "delete", "--force", "job")


def test_without_roots_rights_it_is_a_refusal(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        near = Peer(DescriptorChannel(ours.fileno(), ours.fileno()), timeout_s=10)
        far = Peer(DescriptorChannel(theirs.fileno(), theirs.fileno()), timeout_s=10)
        offer = OfferContainer("0" * 32, "job", "job", "/", json.loads("{}"), 0)
        hello = own_hello()
        os.seteuid(UID)
        try:
            fds = (theirs.fileno(), theirs.fileno())
            receive_container(far, offer, tmp_path / "root", hello, fds)
        finally:
            os.seteuid(0)
        answer = near.receive(Refuse)
    assert [each.reason for each in answer.reasons] == ["not-root"]
    assert "sudo" in answer.reasons[0].sentence and not (tmp_path / "root").exists()
