"""Failures that cross a process boundary and stay themselves."""

from __future__ import annotations

import errno
import json

from formats.errors import Refusal, WherryError
from runtime.error_report import error_from_json, error_to_json
from runtime.errors import ContainerError, HookError, RefusedError


def through(exc: BaseException) -> Exception:
    return error_from_json(json.loads(json.dumps(error_to_json(exc))))


def test_our_failures_keep_class_sentence_reason_and_notes() -> None:
    exc = ContainerError("web: no good", reason="some-reason")
    exc.add_note("thaw also failed")
    back = through(exc)
    assert type(back) is ContainerError
    assert str(back) == "web: no good"
    assert back.reason == "some-reason"
    assert back.__notes__ == ["thaw also failed"]
    assert isinstance(through(HookError("x")), HookError)


def test_refusals_come_along() -> None:
    refusals = [Refusal("a-b", "fd 7", "is odd"), Refusal("c", "fd 8", "is odder")]
    back = through(RefusedError("checkpoint web", refusals))
    assert isinstance(back, RefusedError)
    assert back.refusals == tuple(refusals)
    assert back.reason == "a-b"
    assert back.exit_code == RefusedError.exit_code


def test_failures_of_the_kernel_keep_their_number_and_file() -> None:
    back = through(FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"))
    assert isinstance(back, FileNotFoundError)
    assert back.filename == "/x"
    assert not isinstance(back, WherryError)


def test_a_bug_keeps_its_traceback() -> None:
    try:
        raise KeyError("oops")
    except KeyError as exc:
        back = through(exc)
    assert type(back) is RuntimeError
    assert "KeyError" in str(back)
    assert "test_a_bug_keeps_its_traceback" in back.__notes__[0]
