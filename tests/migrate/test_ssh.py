"""Connections to a real OpenSSH server: host keys, logins, and a far side without wherry."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.migrate.images import write_image
from tests.support.lab import Lab

FAR = "10.77.0.2"


@pytest.fixture
def image(lab: Lab) -> Path:
    """A small state file in host a's home directory."""
    path = lab.home("a") / "job.wherry"
    write_image(path, 1)
    return path


def _ship(lab: Lab, image: Path, *options: str | Path, to: str = f"{FAR}:") -> tuple[int, str]:
    done = lab.run("a", "wherry", "ship", *options, image, to, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def _known(lab: Lab) -> Path:
    return lab.base / lab.name / "ssh" / "known_hosts"


def test_an_alias_of_the_config_file_is_enough(lab: Lab, image: Path) -> None:
    assert _ship(lab, image, to="b:x.wherry") == (0, "")
    assert (lab.home("b") / "x.wherry").read_bytes() == image.read_bytes()


def test_an_unknown_host_is_refused(lab: Lab, image: Path, tmp_path: Path) -> None:
    code, said = _ship(lab, image, "--known-hosts", tmp_path / "none")
    assert code == 42
    assert "is not known" in said and "ssh-keyscan" in said and "accept-new" in said
    assert not (lab.home("b") / "job.wherry").exists()


def test_accept_new_remembers(lab: Lab, image: Path, tmp_path: Path) -> None:
    known = tmp_path / "known"
    accept = ("-o", "StrictHostKeyChecking=accept-new")
    assert _ship(lab, image, *accept, "--known-hosts", known)[0] == 0
    assert FAR in known.read_text()
    assert _ship(lab, image, "--force", "--known-hosts", known) == (0, "")


def test_a_changed_key_is_refused(lab: Lab, image: Path, tmp_path: Path) -> None:
    known = tmp_path / "known"
    key_of_a = (lab.base / lab.name / "a" / "ssh_host_ed25519_key.pub").read_text().split()
    known.write_text(f"{FAR} {key_of_a[0]} {key_of_a[1]}\n")
    for option in ("ask", "yes", "accept-new"):
        code, said = _ship(
            lab, image, "--known-hosts", known, "-o", f"StrictHostKeyChecking={option}"
        )
        assert code == 42
        assert "CHANGED" in said and "ssh-keygen -R" in said and f"{known}:1" in said


def test_a_revoked_key_is_refused(lab: Lab, image: Path, tmp_path: Path) -> None:
    known = tmp_path / "known"
    right = next(line for line in _known(lab).read_text().splitlines() if FAR in line)
    known.write_text(f"{right}\n@revoked {right}\n")
    code, said = _ship(lab, image, "--known-hosts", known)
    assert code == 42 and "revoked" in said


def test_hashed_known_hosts(lab: Lab, image: Path, tmp_path: Path) -> None:
    known = tmp_path / "known"
    known.write_text(_known(lab).read_text())
    lab.run("a", "ssh-keygen", "-q", "-H", "-f", known)
    assert FAR not in known.read_text()
    assert _ship(lab, image, "--known-hosts", known) == (0, "")


def test_without_a_key_the_login_fails(lab: Lab, image: Path, tmp_path: Path) -> None:
    lab.run("a", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other")
    config = tmp_path / "config"
    config.write_text("Host *\n IdentityFile /nonexistent\n")
    common = ("--known-hosts", _known(lab), "-F", config)
    code, said = _ship(lab, image, *common)
    assert code == 43 and "permission denied" in said and "--identity" in said
    code, said = _ship(lab, image, *common, "--identity", tmp_path / "other")
    assert code == 43 and str(tmp_path / "other") in said
    code, said = _ship(lab, image, *common, "--identity", tmp_path / "missing")
    assert code == 43 and "no such key file" in said
    key = lab.base / lab.name / "ssh" / "id_ed25519"
    assert _ship(lab, image, *common, "--identity", key) == (0, "")


def test_the_agents_key_is_used(lab: Lab, image: Path, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(f"Host *\n IdentityFile /nonexistent\n UserKnownHostsFile {_known(lab)}\n")
    key = lab.base / lab.name / "ssh" / "id_ed25519"
    script = f"ssh-add -q {key} && wherry ship -F {config} {image} {FAR}:agent.wherry"
    lab.run("a", "ssh-agent", "sh", "-c", script)
    assert (lab.home("b") / "agent.wherry").exists()


def test_a_locked_key_is_named(lab: Lab, image: Path, tmp_path: Path) -> None:
    lab.run("a", "ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", tmp_path / "locked")
    code, said = _ship(lab, image, "--identity", tmp_path / "locked")
    assert code == 43 and "passphrase" in said and "ssh-add" in said


def test_a_jump_host(lab: Lab, image: Path) -> None:
    assert _ship(lab, image, "-o", "ProxyJump=b", to="b:jumped.wherry") == (0, "")
    assert (lab.home("b") / "jumped.wherry").exists()


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("10.77.0.2", "names no path"),
        ("10.77.0.1:", "the host key"),
        ("nowhere.invalid:", "cannot connect to nowhere.invalid"),
    ],
)
def test_other_places(lab: Lab, image: Path, to: str, words: str) -> None:
    known = () if "77.0.1" not in to else ("--known-hosts", "/dev/null")
    code, said = _ship(lab, image, *known, to=to)
    assert code != 0 and words in said


def test_nobody_listens(lab: Lab, image: Path) -> None:
    code, said = _ship(lab, image, "--port", "2")
    assert code == 41 and "port 2" in said and "refused" in said


def test_no_wherry_over_there(lab: Lab, image: Path) -> None:
    code, said = _ship(lab, image, "--remote-command", "/nowhere/wherry")
    assert code == 40 and "--remote-command" in said
    code, said = _ship(lab, image, "--remote-command", "echo hello; false")
    assert code == 44 and "hello" in said


def test_the_far_sides_last_words_are_told(lab: Lab, image: Path) -> None:
    code, said = _ship(lab, image, "--remote-command", "echo out of cheese >&2; false")
    assert code == 41 and "out of cheese" in said
