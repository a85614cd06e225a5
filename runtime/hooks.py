"""OCI hooks: programs of the user that are called at fixed moments of a container's life.

Source: https://github.com/opencontainers/runtime-spec/blob/main/config.md#posix-platform-hooks
"""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.errors import HookError

log = logging.getLogger(__name__)

# The kinds of hooks, in the order of the lifecycle.
PRESTART = "prestart"
CREATE_RUNTIME = "createRuntime"
CREATE_CONTAINER = "createContainer"
START_CONTAINER = "startContainer"
POSTSTART = "poststart"
POSTSTOP = "poststop"
HOOK_NAMES = (PRESTART, CREATE_RUNTIME, CREATE_CONTAINER, START_CONTAINER, POSTSTART, POSTSTOP)

_STDERR_TAIL = 300  # characters of a failed hook's own words that go into our sentence


def run_hooks(hooks: Sequence[Mapping[str, Any]], state: Mapping[str, Any], *, name: str) -> None:
    """Run hooks one after the other; the first failure ends the sequence.

    Args:
        hooks: OCI hook objects: ``path`` (absolute), ``args`` (the whole argv, *path* when
            missing), ``env`` (the whole environment, ``KEY=VALUE``), ``timeout`` in seconds.
        state: The OCI state, given to every hook as JSON on its standard input.
        name: The kind of hook, for instance ``"prestart"``.

    Raises:
        HookError: A hook could not be executed, ended with a status other than 0, or took
            longer than its timeout (it is killed then).
    """
    document = json.dumps(state).encode()
    for index, hook in enumerate(hooks):
        _run_hook(hook, document, f"{name} hook {index}")


def run_hooks_warning(
    hooks: Sequence[Mapping[str, Any]], state: Mapping[str, Any], *, name: str
) -> None:
    """Run hooks whose failure must not end the lifecycle: each failure is logged as a warning.

    The remaining hooks run as if the failed one had succeeded (poststart and poststop).
    """
    document = json.dumps(state).encode()
    for index, hook in enumerate(hooks):
        try:
            _run_hook(hook, document, f"{name} hook {index}")
        except HookError as exc:
            log.warning("%s; going on", exc)


def _run_hook(hook: Mapping[str, Any], document: bytes, label: str) -> None:
    path = hook.get("path")
    if not isinstance(path, str) or not path.startswith("/"):
        raise HookError(f"{label}: path {path!r} is not absolute")
    args = list(hook.get("args") or [path])
    env = dict(entry.partition("=")[::2] for entry in hook.get("env") or [])
    timeout_s = hook.get("timeout")
    if timeout_s is not None and timeout_s <= 0:
        raise HookError(f"{label} {path}: timeout is {timeout_s}, must be greater than zero")
    try:
        process = subprocess.Popen(
            args,
            executable=path,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # A group of its own, so that a timeout also reaches what the hook has started.
            process_group=0,
        )
    except OSError as exc:
        raise HookError(f"{label} {path}: cannot be executed: {exc.strerror}") from exc
    with process:
        try:
            _, stderr = process.communicate(document, timeout=timeout_s)
        except BaseException as exc:
            _kill_group(process)
            if isinstance(exc, subprocess.TimeoutExpired):
                raise HookError(f"{label} {path}: still running after {timeout_s} s") from exc
            raise
    if process.returncode != 0:
        raise HookError(f"{label} {path}: {_describe(process.returncode)}{_tail(stderr)}")


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    import os
    import signal

    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _describe(returncode: int) -> str:
    if returncode < 0:
        return f"killed by signal {-returncode}"
    return f"exit status {returncode}"


def _tail(stderr: bytes) -> str:
    text = " ".join(stderr.decode(errors="replace").split())
    return f": {text[-_STDERR_TAIL:]}" if text else ""
