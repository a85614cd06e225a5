"""Failures that cross a process boundary: from the monitor or a worker to the command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from formats.errors import Refusal, WherryError
from runtime import errors


def error_to_json(exc: BaseException) -> dict[str, Any]:
    """A failure as a JSON object; the class travels by name."""
    report: dict[str, Any] = {
        "class": type(exc).__name__,
        "message": str(exc),
        "notes": list(getattr(exc, "__notes__", [])),
    }
    if isinstance(exc, WherryError):
        report["reason"] = exc.reason
    if isinstance(exc, OSError):
        report["errno"] = exc.errno
        report["strerror"] = exc.strerror
        report["filename"] = None if exc.filename is None else str(exc.filename)
    if isinstance(exc, errors.RefusedError):
        report["refusals"] = [
            [refusal.reason, refusal.subject, refusal.sentence] for refusal in exc.refusals
        ]
    if not isinstance(exc, WherryError | OSError):
        import traceback

        report["traceback"] = "".join(traceback.format_exception(exc))
    return report


def error_from_json(report: dict[str, Any]) -> Exception:
    """The failure again, of its own class where that is one of ours or an OSError."""
    exc = _rebuild(report)
    for note in report.get("notes", []):
        exc.add_note(note)
    return exc


def _rebuild(report: dict[str, Any]) -> Exception:
    message, name = str(report["message"]), report["class"]
    if "errno" in report and report["errno"] is not None:
        return OSError(report["errno"], report["strerror"], report["filename"])
    for cls in _error_classes(WherryError):
        if cls.__name__ == name:
            return _rebuild_ours(cls, message, report)
    exc = RuntimeError(f"{name}: {message}")
    if "traceback" in report:
        exc.add_note(report["traceback"])
    return exc


def _rebuild_ours(cls: type[WherryError], message: str, report: dict[str, Any]) -> WherryError:
    # Not through __init__: a class may build its sentence from other arguments.
    exc = cls.__new__(cls)
    WherryError.__init__(exc, message, reason=report.get("reason"))
    if isinstance(exc, errors.RefusedError):
        exc.refusals = tuple(Refusal(*entry) for entry in report.get("refusals", []))
    return exc


def _error_classes(cls: type[WherryError]) -> Iterator[type[WherryError]]:
    yield cls
    for sub in cls.__subclasses__():
        yield from _error_classes(sub)
