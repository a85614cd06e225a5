"""Encrypted state files of real containers, through the command line."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Wherry
from tests.support.wait import wait_until

# Keeps a secret in its memory and in a file, and counts.
KEEP = """
import os, time
secret = "the-%s-of-it" % "secret"
memory = bytearray((secret * 1000).encode()) + bytearray(os.urandom(3_000_000))
open("/tmp/w-secret-note", "w").write(secret * 100)
n = 0
while True:
    n += 1
    with open("/tmp/next", "w") as file:
        file.write(str(n))
    os.rename("/tmp/next", "/tmp/count")
    time.sleep(0.02)
"""
SECRET = b"the-secret-of-it"


def count(wherry: Wherry, cid: str) -> int:
    return int(wherry.peek(cid, "/tmp/count").strip() or 0)


def goes_on(wherry: Wherry, cid: str) -> None:
    before = count(wherry, cid)
    wait_until(lambda: count(wherry, cid) > before + 1, what=f"{cid} to count")


@pytest.fixture
def job(wherry: Wherry) -> Iterator[str]:
    wherry("do", "--detach", "--id", "job", "--", "python3", "-c", KEEP)
    wait_until(lambda: count(wherry, "job") > 2)
    yield "job"
    for cid in ("job", "again"):
        wherry("delete", "--force", cid, check=False)


@pytest.fixture
def password(scratch: Path) -> str:
    path = scratch / "password"
    path.write_text("correct horse\n")
    return str(path)


@pytest.mark.parametrize("lazy", [False, True])
def test_there_and_back(lazy: bool, wherry: Wherry, job: str, scratch: Path, password: str) -> None:
    image = scratch / "image"
    key = ("--password-file", password)
    wherry("checkpoint", "--encrypt", *key, "--image-path", image, job)
    assert wherry.status(job) == "stopped"
    wherry("delete", job)
    data = image.read_bytes()
    assert image.stat().st_mode & 0o777 == 0o600
    assert SECRET not in data and b"python3" not in data
    assert [entry.name for entry in scratch.iterdir() if entry.name.startswith(".")] == []
    options = ("--lazy",) if lazy else ()
    refused = wherry.fails("restore", "--detach", "--image-path", image, "again")
    assert "password of" in refused.stderr
    wherry("restore", "--detach", *options, *key, "--image-path", image, "again")
    goes_on(wherry, "again")
    pid = json.loads(wherry("state", "again").stdout)["pid"]
    assert SECRET in Path(f"/proc/{pid}/root/tmp/w-secret-note").read_bytes()


def test_looking_at_it(wherry: Wherry, job: str, scratch: Path, password: str) -> None:
    image, plain = scratch / "image", scratch / "plain"
    key = ("--password-file", password)
    wherry("checkpoint", "--leave-running", "--encrypt", *key, "--image-path", image, job)
    goes_on(wherry, job)
    wherry("checkpoint", "--leave-running", "--image-path", plain, job)
    verified = wherry.json("image", "verify", "--json", *key, str(image))
    assert verified["ok"] and verified["chunks"] > 0
    assert "python3" in wherry("image", "inspect", *key, image).stdout
    found = wherry.json("image", "diff", "--json", *key, str(image), str(plain))
    assert found["memory"]
    assert wherry("image", "diff", *key, image, image).stdout.strip() == "no difference"
    other = scratch / "other"
    other.write_bytes(os.urandom(32))
    for command in ("inspect", "verify"):
        assert "key" in wherry.fails("image", command, image).stderr
        wrong = wherry.fails("image", command, "--key-file", other, image)
        assert "opens none of the file's keys" in wrong.stderr
    # A file that is not encrypted is none that only the holder of the secret can have made.
    refused = wherry.fails("restore", "--detach", *key, "--image-path", plain, "again")
    assert "is not encrypted" in refused.stderr


def test_recipients_and_the_environment(wherry: Wherry, job: str, scratch: Path) -> None:
    image, private, public = scratch / "image", scratch / "id.pem", scratch / "id.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "x25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    key_file = scratch / "key"
    key_file.write_bytes(os.urandom(32))
    both = ("--recipient", public, "--key-file", key_file)
    wherry("checkpoint", "--leave-running", "--encrypt", *both, "--image-path", image, job)
    for key in (("--identity", private), ("--key-file", key_file)):
        assert wherry.json("image", "verify", "--json", *map(str, key), str(image))["ok"]
    wherry.env["WHERRY_STORE_PASSWORD"] = "from the environment"
    wherry("checkpoint", "--leave-running", "--encrypt", "--image-path", image, job)
    assert wherry.json("image", "verify", "--json", str(image))["ok"]
    del wherry.env["WHERRY_STORE_PASSWORD"]
    assert "there is no terminal" in wherry.fails("image", "verify", image).stderr
    asked = wherry.fails("checkpoint", "--encrypt", "--image-path", image, job)
    assert "there is no terminal" in asked.stderr
    usage = wherry.fails("checkpoint", "--key-file", key_file, "--image-path", image, job)
    assert "needs --encrypt" in usage.stderr
    goes_on(wherry, job)


def test_signed_and_encrypted(wherry: Wherry, job: str, scratch: Path, password: str) -> None:
    image, private, public = scratch / "image", scratch / "sign.pem", scratch / "sign.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    key = ("--password-file", password)
    wherry("checkpoint", "--encrypt", *key, "--sign-key", private, "--image-path", image, job)
    wherry("delete", job)
    wherry("restore", "--detach", *key, "--verify-key", public, "--image-path", image, "again")
    goes_on(wherry, "again")
