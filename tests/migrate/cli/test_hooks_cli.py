"""OCI hooks of every kind around a real container."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import bind, make_bundle
from tests.support.command import Wherry

KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def hooked_bundle(scratch: Path, failing: str = "", command: str = "exec sleep 1000") -> Path:
    """A bundle whose hooks note their kind and their state in a log; one kind may fail."""
    hook = scratch / "hook"
    hook.write_text(
        "#!/bin/sh\n"
        "read -r state\n"
        f"[ -e /data/hook ] && log=/data/log || log={scratch}/log\n"
        'echo "$1 $state" >> $log\n'
        f'if [ "$1" = "{failing}" ]; then echo "on purpose" >&2; exit 4; fi\n'
    )
    hook.chmod(0o755)

    def change(spec: dict[str, Any]) -> None:
        bind(spec, scratch, "/data")
        spec["hooks"] = {
            kind: [
                {
                    "path": "/data/hook" if kind == "startContainer" else str(hook),
                    "args": ["hook", kind],
                }
            ]
            for kind in KINDS
        }

    return make_bundle(scratch / "b", command, change)


def log(scratch: Path) -> list[tuple[str, dict[str, Any]]]:
    path = scratch / "log"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(line.split(" ", 1)[0], json.loads(line.split(" ", 1)[1])) for line in lines]


def test_every_hook_runs_in_its_turn_with_the_state(wherry: Wherry, scratch: Path) -> None:
    bundle = hooked_bundle(scratch)
    wherry("create", "--bundle", bundle, "--overlay", "web")
    assert [kind for kind, _ in log(scratch)] == list(KINDS[:3])
    pid = wherry.json("state", "web")["pid"]
    for _, state in log(scratch):
        assert (state["id"], state["bundle"]) == ("web", str(bundle))
        assert state["status"] in ("creating", "created")
    assert log(scratch)[1][1]["pid"] == pid
    wherry("start", "web")
    assert [kind for kind, _ in log(scratch)] == list(KINDS[:5])
    assert log(scratch)[4][1]["status"] == "running"
    assert log(scratch)[4][1]["pid"] == pid
    wherry("delete", "--force", "web")
    assert [kind for kind, _ in log(scratch)] == list(KINDS)
    assert log(scratch)[5][1]["status"] == "stopped"


@pytest.mark.parametrize("kind", KINDS[:3])
def test_a_failure_at_create_destroys_the_container(
    wherry: Wherry, scratch: Path, kind: str
) -> None:
    result = wherry.fails("create", "--bundle", hooked_bundle(scratch, kind), "--overlay", "web")
    assert result.returncode == 26
    assert kind in result.stderr
    assert "exit status 4" in result.stderr
    assert "on purpose" in result.stderr
    assert list(wherry.root.iterdir()) == []


def test_a_failure_of_start_container_destroys_the_container(wherry: Wherry, scratch: Path) -> None:
    wherry("create", "--bundle", hooked_bundle(scratch, "startContainer"), "--overlay", "web")
    result = wherry.fails("start", "web")
    assert result.returncode == 26
    assert "startContainer" in result.stderr
    assert wherry.status("web") == "absent"


def test_run_reports_a_failing_hook_too(wherry: Wherry, scratch: Path) -> None:
    result = wherry.fails(
        "run", "--bundle", hooked_bundle(scratch, "startContainer"), "--overlay", "web"
    )
    assert result.returncode == 26
    assert list(wherry.root.iterdir()) == []


@pytest.mark.parametrize("kind", ["poststart", "poststop"])
def test_a_failure_after_the_fact_is_a_warning(wherry: Wherry, scratch: Path, kind: str) -> None:
    bundle = hooked_bundle(scratch, kind)
    started = wherry("run", "--detach", "--bundle", bundle, "--overlay", "web")
    assert wherry.status("web") == "running"
    deleted = wherry("delete", "--force", "web")
    said = (started if kind == "poststart" else deleted).stderr
    assert "WARNING" in said
    assert f"{kind} hook 0" in said
    assert wherry.status("web") == "absent"


def test_a_hook_may_call_us(wherry: Wherry, scratch: Path) -> None:
    def change(spec: dict[str, Any]) -> None:
        import sys

        command = Path(sys.executable).parent / "wherry"
        spec["hooks"] = {
            "poststart": [
                {
                    "path": "/bin/sh",
                    "args": [
                        "sh",
                        "-c",
                        f"{command} --root {wherry.root} exec web true && touch {scratch}/called",
                    ],
                    "timeout": 20,
                }
            ]
        }

    bundle = make_bundle(scratch / "b", "exec sleep 1000", change)
    wherry("run", "--detach", "--bundle", bundle, "--overlay", "web")
    assert (scratch / "called").exists()
    wherry("delete", "--force", "web")
