"""What Prometheus is told, over HTTP on loopback only.

Source: Prometheus' text-based exposition format, version 0.0.4.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from migrate.errors import ScheduleError
from migrate.schedule.record import ContainerRecord, JobRecord

LOOPBACK = "127.0.0.1"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_JOBS: tuple[tuple[str, str, str, Callable[[JobRecord], float | None]], ...] = (
    ("runs_total", "counter", "Runs that have ended.", lambda job: job.runs),
    ("failures_total", "counter", "Runs that have failed.", lambda job: job.failures),
    ("skipped_total", "counter", "Due times during a run.", lambda job: job.skipped),
    ("missed_total", "counter", "Due times that nobody saw.", lambda job: job.missed),
    ("running", "gauge", "Whether a run is going on.", lambda job: float(job.running)),
    (
        "failing",
        "gauge",
        "Whether the newest run failed.",
        lambda job: float(job.error is not None),
    ),
    ("next_run_timestamp_seconds", "gauge", "When it is due next.", lambda job: job.next_due),
    ("last_run_timestamp_seconds", "gauge", "End of the newest run.", lambda job: job.last_end),
)
_CONTAINERS: tuple[tuple[str, str, str, Callable[[ContainerRecord], float | None]], ...] = (
    ("snapshots_total", "counter", "Snapshots made.", lambda one: one.snapshots),
    ("snapshot_failures_total", "counter", "Snapshots that failed.", lambda one: one.failures),
    (
        *("snapshot_timestamp_seconds", "gauge", "When the newest snapshot was made."),
        lambda one: one.snapshot_time,
    ),
    (
        *("snapshot_duration_seconds", "gauge", "Time that the newest snapshot took."),
        lambda one: one.elapsed_s,
    ),
    (
        *("snapshot_freeze_seconds", "gauge", "Time that the container stood still for it."),
        lambda one: one.frozen_s,
    ),
    ("snapshot_size_bytes", "gauge", "Bytes that it has.", lambda one: one.plain_bytes),
    ("snapshot_new_bytes", "gauge", "Bytes that it added to the store.", lambda one: one.new_bytes),
)


def exposition(records: Mapping[str, JobRecord]) -> str:
    """All records as Prometheus reads them."""
    lines: list[str] = []
    for name, kind, text, value_of in _JOBS:
        _head(lines, name, kind, text)
        for job, record in records.items():
            _sample(lines, name, {"job": job}, value_of(record))
    for name, kind, text, value in _CONTAINERS:
        _head(lines, name, kind, text)
        for job, record in records.items():
            for cid, one in list(record.containers.items()):
                _sample(lines, name, {"job": job, "container": cid}, value(one))
    return "\n".join(lines) + "\n"


def _head(lines: list[str], name: str, kind: str, text: str) -> None:
    lines.append(f"# HELP wherry_schedule_{name} {text}")
    lines.append(f"# TYPE wherry_schedule_{name} {kind}")


def _sample(lines: list[str], name: str, labels: Mapping[str, str], value: float | None) -> None:
    if value is not None:
        shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        lines.append(f"wherry_schedule_{name}{{{shown}}} {value!r}")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


@contextlib.contextmanager
def serving(port: int, records: Mapping[str, JobRecord]) -> Iterator[int]:
    """Answer Prometheus while the block runs.

    Args:
        port: On loopback; 0 for any that is free.
        records: Read anew for each answer.

    Yields:
        The port.

    Raises:
        ScheduleError: The port is taken; reason ``metrics-port``.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            body = exposition(records).encode() if self.path == "/metrics" else b""
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            """Each question is not worth a line."""

    try:
        server = ThreadingHTTPServer((LOOPBACK, port), Handler)
    except OSError as exc:
        raise ScheduleError(
            f"{LOOPBACK} port {port} for metrics: {exc.strerror}", reason="metrics-port"
        ) from exc
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
