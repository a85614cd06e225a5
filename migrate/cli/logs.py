"""Where the log goes. Libraries only log; this module, of the command line, owns the handlers."""

from __future__ import annotations

import json
import logging
import os
import time

from migrate.cli.options import Settings


class _JsonFormatter(logging.Formatter):
    """One JSON object per line, with runc's keys, which containerd and podman read."""

    def format(self, record: logging.LogRecord) -> str:
        return _json_line(record.levelname.lower(), record.getMessage(), record.created)


def _json_line(level: str, message: str, created: float) -> str:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created))
    return json.dumps({"level": level, "msg": message, "time": stamp})


def configure_logging(settings: Settings) -> None:
    """Install the one handler: a file when ``--log`` names one, else standard error."""
    handler: logging.Handler
    if settings.log_file is not None:
        handler = logging.FileHandler(settings.log_file, delay=True)
    else:
        handler = logging.StreamHandler()
    if settings.log_format == "json":
        handler.setFormatter(_JsonFormatter())
    elif settings.log_file is not None or settings.debug:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    else:
        handler.setFormatter(logging.Formatter("wherry: %(levelname)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if settings.debug else logging.WARNING)


def write_failure(settings: Settings, sentence: str) -> None:
    """Leave a failure in the log file too: callers such as containerd look for it there."""
    if settings.log_file is None:
        return
    line = f"wherry: error: {sentence}"
    if settings.log_format == "json":
        line = _json_line("error", sentence, time.time())
    try:
        fd = os.open(
            settings.log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            os.write(fd, line.encode() + b"\n")
        finally:
            os.close(fd)
    except OSError:
        pass  # the sentence is on standard error already
