"""Processes told apart by their start, against real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from runtime.process import (
    ProcessRef,
    namespace_pids,
    parent_pid,
    process_group,
    wait_until_gone,
)


def test_a_process_that_runs_is_alive() -> None:
    child = subprocess.Popen(["sleep", "1000"])
    ref = ProcessRef.of(child.pid)
    try:
        assert ref.alive()
        assert ref.exists()
        assert not ref.wait_gone(0)
        assert parent_pid(child.pid) == os.getpid()
        assert process_group(child.pid) == os.getpgid(0)
        assert namespace_pids(child.pid)[0] == child.pid
        assert wait_until_gone([ref], 0) == [ref]
    finally:
        child.kill()
    assert ref.wait_gone(5)
    assert ref.exists()  # a zombie: it ended, and is not reaped
    assert not ref.alive()
    child.wait()
    assert not ref.exists()
    assert wait_until_gone([ref], 0) == []


def test_a_reused_pid_is_another_process() -> None:
    ours = ProcessRef.of(os.getpid())
    other = ProcessRef(ours.pid, ours.start_ticks + 1)
    assert ours.alive()
    assert not other.alive()
    assert other.wait_gone(0)
    with pytest.raises(ProcessLookupError):
        other.open()


def test_a_name_with_blanks_and_brackets_does_not_shift_the_fields() -> None:
    code = (
        "import ctypes, signal; ctypes.CDLL(None).prctl(15, b') S 1 (x'); print(flush=True);"
        "signal.pause()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        assert parent_pid(child.pid) == os.getpid()
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()


def test_a_missing_process_is_said_to_be_missing() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    for ask in (ProcessRef.of, parent_pid, process_group, namespace_pids):
        with pytest.raises(ProcessLookupError):
            ask(child.pid)


def test_json_round_trip() -> None:
    ref = ProcessRef(5, 6)
    assert ProcessRef.from_json(ref.to_json()) == ref
    assert ProcessRef.from_json(None) is None
