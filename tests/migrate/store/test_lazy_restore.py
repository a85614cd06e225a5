"""A snapshot's program that goes on before its memory is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command import Wherry
from tests.support.wait import wait_until
from tests.support.workloads import stage


@pytest.mark.timeout(120)
@pytest.mark.parametrize("encrypted", [False, True])
def test_from_a_store(wherry: Wherry, scratch: Path, encrypted: bool) -> None:
    wherry.env["WHERRY_STORE"] = store = str(scratch / "store")
    options: list[str] = []
    if encrypted:
        (scratch / "password").write_text("a password that is long enough\n")
        options = ["--password-file", str(scratch / "password")]
    wherry("store", "init", *options, *(["--encrypt"] if encrypted else []))
    with stage(wherry, scratch, "lazy/changes.c") as play:
        play.start("before")
        wherry("snapshot", *options, "--leave-running", "before")
        wherry("delete", "--force", "before")
        play.alive.remove("before")
        (play.control / "go").touch()
        wherry("restore", "--lazy", "--detach", *options, f"{store}:latest", "after")
        play.alive.append("after")
        state = wherry.root / "after" / "state.json"
        assert json.loads(state.read_text())["extra"]["filling"]
        wait_until(lambda: wherry.status("after") == "stopped", 60, "the end")
        upper = wherry.root / "after" / "overlay" / "upper"
        assert (upper / play.control.relative_to("/") / "result").read_text() == "ok"
        play.delete("after")
