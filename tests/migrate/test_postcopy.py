"""Moving a running job that asks for its memory afterwards, and what becomes of it if nobody answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.migrate.test_migrate import Job
from tests.support.lab import Lab


@pytest.fixture
def job(lab: Lab) -> Iterator[Job]:
    """The job, not started; removed at the end wherever it is."""
    yield Job(lab)
    for host in ("a", "b"):
        for cid in lab.containers(host):
            lab.run(host, "wherry", "delete", "--force", cid, check=False)


POSTCOPY = ("--mode", "postcopy")


def test_to_and_fro(job: Job) -> None:
    job.start("a", 32)
    for source, target in (("a", "b"), ("b", "a")):
        before = job.findings(source)["steps"]
        report = job.migrate(source, target, *POSTCOPY)
        assert job.only_at(target)
        assert job.findings(target)["steps"] > before
        parts = ("freeze_ns", "transfer_ns", "restore_ns", "thaw_ns")
        assert sum(report[part] for part in parts) <= report["downtime_ns"] < 30e9
        assert report["mode"] == "postcopy" and report["rounds"] == []
        assert report["later_bytes"] > 32 << 20 > report["last_bytes"]
        assert report["memory_bytes"] == report["later_bytes"] + report["last_bytes"]
        assert report["faults"] > 0 < report["complete_ns"]
    for host in ("a", "b"):
        ledger = job.lab.run(host, "sh", "-c", "cat /run/wherry/.handover.json 2>/dev/null || :")
        assert ledger.stdout.strip() in ("", "{}")
