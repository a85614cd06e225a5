"""Snapshots of real containers in a store, through the command line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Wherry
from tests.support.wait import wait_until

# Counts beside ten megabytes that stay as they are.
COUNT = """
import os, time
with open("/tmp/ballast", "wb") as file:
    file.write(os.urandom(10_000_000))
n = 0
while True:
    n += 1
    with open("/tmp/next", "w") as file:
        file.write(str(n))
    os.rename("/tmp/next", "/tmp/count")
    time.sleep(0.02)
"""


@pytest.fixture
def store(wherry: Wherry, scratch: Path) -> str:
    """A store that WHERRY_STORE names."""
    url = str(scratch / "store")
    wherry.env["WHERRY_STORE"] = url
    wherry("store", "init")
    return url


@pytest.fixture
def job(wherry: Wherry) -> Iterator[str]:
    wherry("do", "--detach", "--id", "job", "--", "python3", "-c", COUNT)
    wait_until(lambda: count(wherry, "job") > 2)
    yield "job"
    wherry("delete", "--force", "job", check=False)


def count(wherry: Wherry, cid: str) -> int:
    return int(wherry.peek(cid, "/tmp/count").strip() or 0)


def snapshot(wherry: Wherry, *args: str) -> dict[str, Any]:
    made: dict[str, Any] = wherry.json("snapshot", "--json", *args)["snapshot"]
    return made


def goes_on(wherry: Wherry, cid: str, beyond: int) -> None:
    wait_until(lambda: count(wherry, cid) > beyond, what=f"{cid} to count beyond {beyond}")


def test_snapshots_while_it_runs_and_a_restore_of_each(
    wherry: Wherry, store: str, job: str
) -> None:
    first = snapshot(wherry, "--leave-running", "--tag", "first", job)
    at_first = count(wherry, job)
    goes_on(wherry, job, at_first)
    second = snapshot(wherry, "--leave-running", job)
    assert first["new_bytes"] > 10_000_000
    assert second["new_bytes"] < 3_000_000
    assert second["frozen_ns"] > 0
    listed = wherry.json("snapshots", "--json")
    assert [one["id"] for one in listed] == [first["id"], second["id"]]
    table = wherry("snapshots", "--tag", "first").stdout.splitlines()
    assert len(table) == 2 and table[1].split()[:2] == [first["id"][:8], "job"]
    wherry("kill", job, "KILL")
    wait_until(lambda: wherry.status(job) == "stopped")
    wherry("delete", job)
    try:
        wherry("restore", "--detach", f"{store}:first", "again")
        goes_on(wherry, "again", at_first)
        wherry("restore", "--detach", second["id"][:10], "twice")
        goes_on(wherry, "twice", at_first + 1)
        origin = json.loads((wherry.root / "twice" / "state.json").read_text())
        assert f"{store}:{second['id']}" in json.dumps(origin)
        wherry("restore", "--detach", "--latest", job)
        goes_on(wherry, job, at_first + 1)
    finally:
        for cid in ("again", "twice"):
            wherry("delete", "--force", cid, check=False)


def test_without_leave_running_the_container_stops(wherry: Wherry, store: str, job: str) -> None:
    made = snapshot(wherry, job)
    assert wherry.status(job) == "stopped"
    wherry("delete", job)
    wherry("restore", "--detach", "latest", job)
    goes_on(wherry, job, 2)
    assert wherry.json("store", "check", "--read-data", "--json")["ok"]
    stats = wherry.json("store", "stats", "--json")
    assert (stats["snapshots"], stats["plain_bytes"]) == (1, made["plain_bytes"])


def test_a_store_that_cannot_be_written_leaves_the_container_running(
    wherry: Wherry, store: str, job: str
) -> None:
    packs = Path(store) / "packs"
    packs.write_text("no directory")
    assert "packs" in wherry.fails("snapshot", job).stderr
    goes_on(wherry, job, count(wherry, job))
    assert wherry.json("snapshots", "--json") == []
    packs.unlink()
    snapshot(wherry, "--leave-running", job)


def test_damage_is_found_and_a_damaged_snapshot_is_not_restored(
    wherry: Wherry, store: str, job: str
) -> None:
    made = snapshot(wherry, job)
    (pack,) = (path for path in (Path(store) / "packs").rglob("*") if path.is_file())
    data = bytearray(pack.read_bytes())
    for at in range(200, len(data), 997):
        data[at] ^= 255
    pack.write_bytes(data)
    found = wherry("store", "check", "--read-data", check=False)
    assert found.returncode == 1
    assert pack.name in found.stdout and made["id"][:8] in found.stdout
    wherry.fails("restore", "--detach", "latest", "again")
    assert wherry.status("again") == "absent"


def test_what_is_missing_is_said(wherry: Wherry, store: str, scratch: Path) -> None:
    assert "no snapshot 'job'" in wherry.fails("restore", "--latest", "job").stderr
    assert "no store is there" in wherry.fails("snapshots", "--store", scratch / "x").stderr
    assert "already" in wherry.fails("store", "init").stderr
    wherry.env.pop("WHERRY_STORE")
    assert "WHERRY_STORE" in wherry.fails("snapshots").stderr
    assert "--latest" in wherry.fails("restore", "new").stderr
    assert "ftp://" in wherry.fails("snapshots", "--store", "ftp://x/y").stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sftp://me@host:22/a/b:latest", ("sftp://me@host:22/a/b", "latest")),
        ("s3://bucket:ab12", ("s3://bucket", "ab12")),
        (
            "oci://host:5000/a/b:job@2026-01-31T10:00",
            ("oci://host:5000/a/b", "job@2026-01-31T10:00"),
        ),
        ("ab12", ("given", "ab12")),
        (":job@2026-01-31T10:00", ("given", "job@2026-01-31T10:00")),
    ],
)
def test_references(text: str, expected: tuple[str, str]) -> None:
    from migrate.cli.store_options import split_reference

    assert split_reference(text, "given") == expected


def test_a_path_may_have_colons(scratch: Path) -> None:
    from migrate.cli.store_options import split_reference

    (scratch / "a:b").mkdir()
    assert split_reference(f"{scratch}/a:b:web@2026-01-31T10:00", None) == (
        f"{scratch}/a:b",
        "web@2026-01-31T10:00",
    )


def test_forget_shows_why_and_prune_reclaims(wherry: Wherry, store: str, job: str) -> None:
    ids = [snapshot(wherry, "--leave-running", job)["id"]]
    ids.append(snapshot(wherry, "--leave-running", "--tag", "keep", job)["id"])
    ids.append(snapshot(wherry, job)["id"])
    dry = wherry("forget", "--keep-last", "1", "--keep-tag", "keep", "--dry-run").stdout
    rows = {line.split()[0]: line for line in dry.splitlines()[1:-1]}
    assert "last" in rows[ids[2][:8]] and "tag keep" in rows[ids[1][:8]]
    assert "no rule keeps it" in rows[ids[0][:8]]
    assert len(wherry.json("snapshots", "--json")) == 3
    assert "would go" in dry
    wherry("forget", "--keep-last", "1", "--keep-tag", "keep")
    assert [one["id"] for one in wherry.json("snapshots", "--json")] == ids[1:]
    before = wherry.json("store", "stats", "--json")["total_bytes"]
    assert wherry.json("store", "prune", "--max-unused", "0", "--json")["removed_packs"] > 0
    stats = wherry.json("store", "stats", "--json")
    assert stats["total_bytes"] < before and stats["unused_bytes"] < 4096
    assert wherry.json("store", "check", "--read-data", "--json")["ok"]
    wherry("delete", job)
    wherry("restore", "--detach", "keep", job)
    goes_on(wherry, job, 2)


def test_forget_needs_a_rule(wherry: Wherry, store: str) -> None:
    assert "--keep" in wherry.fails("forget").stderr
    assert "duration" in wherry.fails("forget", "--keep-within", "soon").stderr


def test_an_encrypted_store_holds_nothing_readable(wherry: Wherry, scratch: Path) -> None:
    url, password = scratch / "sealed", scratch / "password"
    password.write_text("correct horse\n")
    wherry.env["WHERRY_STORE"] = str(url)
    wherry("store", "init", "--encrypt", "--password-file", password)
    command = ["sh", "-c", "echo hunter2-file >/tmp/f; while :; do sleep 1; done"]
    spec = ["do", "--detach", "--id", "payroll", "--", "env", "SECRET=hunter2-env", *command]
    wherry(*spec)
    wait_until(lambda: "file" in wherry.peek("payroll", "/tmp/f"))
    try:
        told = wherry.fails("snapshot", "payroll").stderr
        assert "--password-file" in told
        wherry.env["WHERRY_STORE_PASSWORD"] = "correct horse"
        snapshot(wherry, "--tag", "quarterly", "payroll")
        for path in url.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                assert not any(word in data for word in (b"hunter2", b"payroll", b"quarterly"))
        wherry("delete", "payroll")
        wherry("restore", "--detach", "quarterly", "payroll")
        assert wherry("exec", "payroll", "cat", "/tmp/f").stdout == "hunter2-file\n"
        wherry.env["WHERRY_STORE_PASSWORD"] = "wrong"
        assert "opens none" in wherry.fails("snapshots").stderr
    finally:
        wherry("delete", "--force", "payroll", check=False)


def test_keys_of_a_store(wherry: Wherry, scratch: Path) -> None:
    wherry.env["WHERRY_STORE"] = str(scratch / "sealed")
    (scratch / "key").write_bytes(b"0123456789abcdef" * 2)
    (scratch / "password").write_text("pw")
    with_key = ("--key-file", scratch / "key")
    wherry("store", "init", "--encrypt", *with_key)
    (only,) = wherry.json("store", "key", "list", "--json")
    assert "only key" in wherry.fails("store", "key", "remove", *with_key, only["id"]).stderr
    wherry("store", "key", "add", *with_key, "--new-password-file", scratch / "password")
    wherry("store", "key", "remove", "--password-file", scratch / "password", only["id"][:6])
    assert "opens none" in wherry.fails("snapshots", *with_key).stderr
    assert wherry.json("snapshots", "--json", "--password-command", "echo pw") == []
    (left,) = wherry.json("store", "key", "list", "--json")
    assert left["method"] == "password"


def test_a_secret_for_a_store_that_is_not_encrypted_is_refused(
    wherry: Wherry, store: str, scratch: Path
) -> None:
    (scratch / "password").write_text("pw")
    told = wherry.fails("snapshots", "--password-file", scratch / "password").stderr
    assert "is not encrypted" in told


def test_diff_shows_what_a_job_did_in_between(wherry: Wherry, store: str, job: str) -> None:
    first = snapshot(wherry, "--leave-running", job)
    wherry("exec", job, "sh", "-c", "echo new >/tmp/extra")
    second = snapshot(wherry, "--leave-running", job)
    found = wherry.json("image", "diff", "--json", first["id"], second["id"])
    files = {one["path"]: one["change"] for one in found["files"]}
    assert files["/tmp/extra"] == "added" and files["/tmp/count"] == "changed"
    assert "/tmp/ballast" not in files
    assert any(one["change"] == "changed" for one in found["memory"])
    text = wherry("image", "diff", first["id"], second["id"]).stdout
    assert "file /tmp/extra added: 4 B" in text
    assert wherry("image", "diff", "latest", second["id"]).stdout == "no difference\n"


def test_only_what_is_signed_is_restored(
    wherry: Wherry, store: str, job: str, scratch: Path
) -> None:
    private, public = scratch / "key.pem", scratch / "key.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    snapshot(wherry, "--leave-running", "--tag", "signed", "--sign-key", str(private), job)
    snapshot(wherry, "--tag", "unsigned", job)
    wherry("delete", job)
    wherry.env["WHERRY_VERIFY_KEY"] = str(public)
    assert "is not signed" in wherry.fails("restore", "--detach", "unsigned", job).stderr
    wherry("image", "export", "signed", scratch / "file")
    told = wherry.fails("restore", "--detach", "--image-path", scratch / "file", job).stderr
    assert "is not signed" in told
    told = wherry.fails("create", "--restore", scratch / "file", job).stderr
    assert "is not signed" in told and wherry.status(job) == "absent"
    wherry("image", "upgrade", "--sign-key", private, scratch / "file")
    wherry("create", "--restore", scratch / "file", job)
    wherry("start", job)
    goes_on(wherry, job, 2)
    wherry("checkpoint", "--sign-key", private, "--image-path", scratch / "file", job)
    wherry("delete", job)
    wherry("restore", "--detach", "--image-path", scratch / "file", job)
    wherry("delete", "--force", job)
    wherry("restore", "--detach", "signed", job)
    goes_on(wherry, job, 2)
