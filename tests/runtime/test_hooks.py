"""Hooks are real programs here: small shell scripts that note how they were called."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import HookError
from runtime.hooks import run_hooks, run_hooks_warning
from runtime.process import ProcessRef

STATE = {"ociVersion": "1.2.0", "id": "web", "status": "created", "pid": 7, "bundle": "/b"}


def script(directory: Path, text: str, name: str = "hook") -> str:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_hook_gets_the_state_its_arguments_and_only_its_environment(tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = script(tmp_path, f'cat > {out}.state; echo "$0|$1|$2" > {out}.args; env > {out}.env')
    run_hooks(
        [{"path": path, "args": ["other-name", "one", "two words"], "env": ["COLOUR=blue"]}],
        STATE,
        name="prestart",
    )
    assert json.loads(Path(f"{out}.state").read_text()) == STATE
    assert Path(f"{out}.args").read_text().endswith("|one|two words\n")
    environment = dict(line.split("=", 1) for line in Path(f"{out}.env").read_text().splitlines())
    assert environment["COLOUR"] == "blue"
    assert not {"HOME", "USER", "WHERRY_ROOT"} & environment.keys()


def test_hooks_run_in_order_and_stop_at_the_first_failure(tmp_path: Path) -> None:
    log = tmp_path / "log"
    hooks = [
        {"path": script(tmp_path, f"echo first >> {log}", "a")},
        {"path": script(tmp_path, f"echo second >> {log}; echo no good >&2; exit 3", "b")},
        {"path": script(tmp_path, f"echo third >> {log}", "c")},
    ]
    with pytest.raises(HookError) as caught:
        run_hooks(hooks, STATE, name="createRuntime")
    assert log.read_text().split() == ["first", "second"]
    sentence = str(caught.value)
    assert "createRuntime hook 1" in sentence
    assert hooks[1]["path"] in sentence
    assert "exit status 3" in sentence
    assert "no good" in sentence


def test_a_failed_hook_does_not_stop_the_others_where_it_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = tmp_path / "done"
    hooks = [
        {"path": script(tmp_path, "exit 1", "a")},
        {"path": script(tmp_path, f"touch {done}", "b")},
    ]
    with caplog.at_level(logging.WARNING):
        run_hooks_warning(hooks, STATE, name="poststart")
    assert done.exists()
    assert "poststart hook 0" in caplog.text


def test_a_timeout_kills_the_hook_and_what_it_has_started(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    path = script(tmp_path, f"sleep 1000 & echo $! > {pid_file}; wait")
    started = time.monotonic()
    with pytest.raises(HookError, match="still running after 1 s"):
        run_hooks([{"path": path, "timeout": 1}], STATE, name="prestart")
    assert time.monotonic() - started < 10
    try:
        ref = ProcessRef.of(int(pid_file.read_text()))
    except ProcessLookupError:
        return
    assert ref.wait_gone(5)


def test_a_large_state_reaches_a_hook_that_does_not_read_it(tmp_path: Path) -> None:
    state = {**STATE, "annotations": {"big": "x" * 500_000}}
    run_hooks([{"path": script(tmp_path, "exit 0")}], state, name="prestart")


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        ({"path": "relative/hook"}, "not absolute"),
        ({"path": "/nonexistent/hook"}, "cannot be executed"),
        ({"path": "/bin/true", "timeout": 0}, "must be greater than zero"),
    ],
)
def test_a_hook_that_cannot_run_is_named(hook: dict[str, Any], words: str) -> None:
    with pytest.raises(HookError, match=words) as caught:
        run_hooks([hook], STATE, name="prestart")
    assert hook["path"] in str(caught.value)


def test_a_hook_killed_by_a_signal_says_which(tmp_path: Path) -> None:
    with pytest.raises(HookError, match="killed by signal 9"):
        run_hooks([{"path": script(tmp_path, "kill -9 $$")}], STATE, name="prestart")
