"""Moving a running job between two real hosts: it notices nothing, and never runs twice."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import Lab
from tests.support.wait import wait_until

ROOT = Path(__file__).resolve().parents[2]
LOGS = "/voyage"
sys.path.insert(0, str(ROOT / "examples"))
voyage_check = importlib.import_module("voyage_check")
sys.path.pop(0)
TAP = Path(__file__).with_name("tap.py")


@dataclass(frozen=True)
class Job:
    """The job of examples/voyage.py in a container of a host."""

    lab: Lab
    id: str = "job"

    def start(self, host: str, mebibytes: int = 4) -> None:
        """Start it and wait until it is at work."""
        program = (ROOT / "examples" / "voyage.py").read_text()
        self.lab.run(
            host,
            *("wherry", "do", "--id", self.id, "--detach", "--cwd", "/", "--"),
            *("/usr/bin/env", "python3", "-c", program, LOGS, str(mebibytes)),
        )
        wait_until(lambda: self.findings(host)["held_mib"] >= mebibytes, what="memory filled")

    def findings(self, host: str, cid: str | None = None) -> dict[str, Any]:
        """What its own logs say, read from outside: an exec session would be saved with it."""
        upper = f"/run/wherry/{cid or self.id}/overlay/upper"
        found: dict[str, Any] = voyage_check.check(self.lab.path(host, upper + LOGS))
        return found

    def goes_on(self, host: str, cid: str | None = None) -> bool:
        """Whether it makes steps at a host, all of them whole."""
        before = self.findings(host, cid)["steps"]
        wait_until(lambda: self.findings(host, cid)["steps"] > before + 20, what="further steps")
        return not self.findings(host, cid)["trouble"]

    def only_at(self, host: str, cid: str | None = None) -> bool:
        """Whether it runs there, whole, and nowhere else."""
        other = "a" if host == "b" else "b"
        try:
            wait_until(lambda: not self.lab.pids(other, "wherry receive"))
        except AssertionError as exc:
            script = "ps axo pid,ppid,stat,args | cut -c1-150; wherry list; cat /run/wherry/.h*"
            exc.add_note(self.lab.run(other, "sh", "-c", script).stdout)
            raise
        assert self.lab.containers(other) == {}
        assert self.lab.containers(host) == {cid or self.id: "running"}
        return self.goes_on(host, cid)

    def migrate(self, source: str, target: str, *options: str | Path) -> dict[str, Any]:
        """Move it."""
        report: dict[str, Any] = self.lab.json(
            source, "wherry", "migrate", "--json", *options, self.id, target
        )
        return report


@pytest.fixture
def job(lab: Lab) -> Iterator[Job]:
    """The job, not started; removed at the end wherever it is."""
    yield Job(lab)
    for host in ("a", "b"):
        for cid in lab.containers(host):
            lab.run(host, "wherry", "delete", "--force", cid, check=False)


def _ledger(job: Job, host: str) -> set[str]:
    done = job.lab.run(host, "sh", "-c", "cat /run/wherry/.handover.json 2>/dev/null || echo {}")
    return set(json.loads(done.stdout))


def test_to_and_fro(job: Job) -> None:
    noted = {host: _ledger(job, host) for host in ("a", "b")}  # by tests before
    job.start("a", 32)
    for source, target in (("a", "b"), ("b", "a"), ("a", "b"), ("b", "a")):
        before = job.findings(source)["steps"]
        report = job.migrate(source, target)
        assert job.only_at(target)
        assert job.findings(target)["steps"] > before
        parts = ("freeze_ns", "transfer_ns", "restore_ns", "thaw_ns")
        assert sum(report[part] for part in parts) <= report["downtime_ns"] < 30e9
        assert report["memory_bytes"] > 32 << 20 > report["last_sent_bytes"]
        assert report["sent_bytes"] > 8 << 20 and report["compression"] > 1.5
        assert report["memory_bytes"] == report["staged_bytes"] + report["last_bytes"]
        assert report["mode"] == "precopy" and report["rounds"] and report["rounds_ended"]
        assert report["processes"] >= 4 and report["tasks"] >= 7
    # Nothing of the handovers is left on either side.
    for host in ("a", "b"):
        assert _ledger(job, host) <= noted[host]


def test_a_new_id(job: Job) -> None:
    job.start("a")
    assert job.migrate("a", "b", "--rename", "other")["container_id"] == "other"
    assert job.only_at("b", "other")


def test_the_summary_is_for_people(job: Job) -> None:
    job.start("a")
    done = job.lab.run("a", "wherry", "migrate", "job", "root@10.77.0.2")
    assert "job runs on root@10.77.0.2" in done.stdout and "downtime" in done.stdout
    assert job.only_at("b")


# Refusals: nothing is touched


def _refused(job: Job, *words: str, code: int = 30) -> str:
    before = job.lab.containers("a")
    done = job.lab.run("a", "wherry", "migrate", *words, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert job.lab.containers("a") == before
    return done.stderr


def test_a_taken_id_is_refused(job: Job) -> None:
    job.start("a")
    job.lab.run("b", "wherry", "do", "--id", "job", "--detach", "--", "sleep", "1000")
    assert "container-exists" in _refused(job, "job", "b")
    assert job.lab.containers("b") == {"job": "running"}
    assert job.goes_on("a")


def test_every_reason_is_told_at_once(job: Job, tmp_path: Path) -> None:
    job.start("a")
    job.lab.run("b", "wherry", "do", "--id", "taken", "--detach", "--", "sleep", "1000")
    # A host whose bundle is missing and whose id is taken: both are in one answer.
    bundle = tmp_path / "bundle"
    (bundle / "rootfs").mkdir(parents=True)
    script = (
        f"cd {bundle} && wherry spec && python3 - <<'E'\n"
        "import json; d = json.load(open('config.json'))\n"
        "d['process']['terminal'] = False; d['process']['args'] = ['/bin/sleep', '1000']\n"
        f"d['root'] = {{'path': '/', 'readonly': False}}; json.dump(d, open('config.json', 'w'))\n"
        "E\n"
        f"wherry run --detach --overlay --bundle {bundle} taken </dev/null >/dev/null 2>&1"
    )
    job.lab.run("a", "sh", "-c", script)
    said = _refused(job, "taken", "b")
    assert "container-exists" in said
    for host in ("a", "b"):
        job.lab.run(host, "wherry", "delete", "--force", "taken")


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (("nobody", "b"), 21, "no-such-container"),
        (("job", "b:path"), 40, "bad-destination"),
        (("job", "b", "--rename", "../x"), 20, "invalid-id"),
        (("job", "--port", "2", "10.77.0.2"), 41, "unreachable"),
        (("job",), 2, "Missing argument"),
        (("job", "--status", "--resume"), 2, "exclude"),
    ],
)
def test_what_cannot_be(job: Job, words: tuple[str, ...], code: int, reason: str) -> None:
    job.lab.run("a", "wherry", "do", "--id", "job", "--detach", "--", "sleep", "1000")
    assert reason in _refused(job, *words, code=code)
    assert job.lab.containers("a") == {"job": "running"}


def test_a_paused_container_is_refused(job: Job) -> None:
    job.lab.run("a", "wherry", "do", "--id", "job", "--detach", "--", "sleep", "1000")
    job.lab.run("a", "wherry", "pause", "job")
    assert "wrong-status" in _refused(job, "job", "b", code=24)


def test_nothing_is_pending(job: Job) -> None:
    job.lab.run("a", "wherry", "do", "--id", "job", "--detach", "--", "sleep", "1000")
    for option in ("--status", "--resume", "--abort"):
        assert (
            "no migration is pending" in job.lab.run("a", "wherry", "migrate", option, "job").stdout
        )


# The line breaks


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the tap finds its plan."""
    return tmp_path


def _plan(directory: Path, message: str, when: str, what: str) -> tuple[str, ...]:
    plan = {"message": f"migrate-{message}", "when": when, "what": what}
    (directory / "plan").write_text(json.dumps(plan))
    return _through(directory)


def _through(directory: Path) -> tuple[str, ...]:
    return ("--remote-command", f"{sys.executable} {TAP} {directory} -- wherry")


def _try(job: Job, *options: str) -> subprocess.CompletedProcess[str]:
    done = job.lab.run("a", "wherry", "migrate", *options, "job", "b", check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize("what", ["cut", "kill"])
@pytest.mark.parametrize(
    ("message", "when"),
    [
        ("hello", "before"),
        ("offer-container", "before"),
        ("offer-container", "after"),
        ("ready", "before"),
        ("round", "before"),
        ("round", "after"),
        ("data-end", "before"),
        ("data-end", "after"),
        ("round-staged", "before"),
        ("rounds-end", "before"),
        ("rounds-end", "after"),
        ("prepared", "before"),
    ],
)
def test_cut_before_the_commit(
    job: Job, directory: Path, message: str, when: str, what: str
) -> None:
    job.start("a")
    done = _try(job, *_plan(directory, message, when, what))
    assert done.returncode not in (0, 70), done.stderr
    assert not (directory / "plan").exists()
    # What a killed receiver has left goes when the source asks, or with the next attempt.
    assert job.only_at("a")
    job.migrate("a", "b")
    assert job.only_at("b")


@pytest.mark.parametrize("what", ["cut", "kill"])
@pytest.mark.parametrize(
    ("message", "when"),
    [("commit", "before"), ("commit", "after"), ("running", "before"), ("running", "after")],
)
def test_cut_in_the_handover(job: Job, directory: Path, message: str, when: str, what: str) -> None:
    job.start("a")
    done = _try(job, *_plan(directory, message, when, what))
    assert not (directory / "plan").exists()
    assert job.only_at("b" if done.returncode == 0 else "a")
    if (message, when) != ("commit", "before"):
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("message", "when"),
    [
        ("ready", "before"),
        ("data-end", "before"),
        ("round-staged", "before"),
        ("rounds-end", "before"),
        ("prepared", "before"),
    ],
)
def test_the_source_is_killed_before_the_commit(
    job: Job, directory: Path, message: str, when: str
) -> None:
    job.start("a")
    call = job.lab.popen(
        "a", "wherry", "migrate", *_plan(directory, message, when, "hold"), "job", "b"
    )
    wait_until((directory / "held").exists)
    call.kill()
    call.wait()
    (directory / "held").unlink()
    assert job.only_at("a")
    assert (
        "no migration is pending" in job.lab.run("a", "wherry", "migrate", "--status", "job").stdout
    )


@pytest.mark.parametrize("message", ["commit", "running"])
def test_the_source_is_killed_in_the_handover(job: Job, directory: Path, message: str) -> None:
    job.start("a")
    call = job.lab.popen(
        "a", "wherry", "migrate", *_plan(directory, message, "before", "hold"), "job", "b"
    )
    wait_until((directory / "held").exists)
    call.kill()
    call.wait()
    (directory / "held").unlink()
    assert job.lab.containers("a") == {"job": "paused"}
    asked = job.lab.json("a", "wherry", "migrate", "--status", "--json", "job")
    assert asked["pending"] and asked["destination"] == "b"
    settled = job.lab.json("a", "wherry", "migrate", "--resume", "--json", "job")
    assert job.only_at("b" if settled["phase"] == "running" else "a")


@pytest.mark.parametrize("option", ["--resume", "--abort"])
@pytest.mark.parametrize("message", ["commit", "running"])
def test_the_other_host_is_out_of_reach(
    job: Job, directory: Path, message: str, option: str
) -> None:
    job.start("a")
    plan = _plan(directory, message, "before", "hold")
    call = job.lab.popen(
        "a", "wherry", "migrate", "--retry-for", "0", *plan, "job", "b", stderr=subprocess.PIPE
    )
    wait_until((directory / "held").exists)
    (directory / "down").touch()
    job.lab.hang_up("b")
    _, said = call.communicate(timeout=60)
    assert call.returncode == 46 and "--resume" in said and "Traceback" not in said
    assert job.lab.containers("a") == {"job": "paused"}
    # As long as nobody has asked, it stays so.
    assert job.lab.run("a", "wherry", "migrate", option, "job", check=False).returncode == 46
    assert job.lab.run("a", "wherry", "resume", "job", check=False).returncode != 0
    assert job.lab.containers("a") == {"job": "paused"}
    assert (
        "handover-pending" in job.lab.run("a", "wherry", "migrate", "job", "b", check=False).stderr
    )
    (directory / "held").unlink()
    (directory / "down").unlink()
    settled = job.lab.json("a", "wherry", "migrate", option, "--json", "job")
    assert job.only_at("b" if settled["phase"] == "running" else "a")


@pytest.mark.parametrize("signal", ["INT", "TERM"])
def test_an_interrupt_before_the_commit(job: Job, directory: Path, signal: str) -> None:
    job.start("a")
    plan = _plan(directory, "prepared", "before", "hold")
    call = job.lab.popen("a", "wherry", "migrate", *plan, "job", "b", stderr=subprocess.PIPE)
    wait_until((directory / "held").exists)
    job.lab.kill("a", "wherry migrate", signal)
    _, said = call.communicate(timeout=60)
    assert call.returncode > 128 and "Traceback" not in said
    (directory / "held").unlink()
    assert job.only_at("a")


def test_the_dumping_process_is_killed(job: Job) -> None:
    job.start("a", 64)
    call = job.lab.popen(
        "a", "wherry", "migrate", "--bwlimit", "2M", "job", "b", stderr=subprocess.PIPE
    )
    wait_until(lambda: job.lab.pids("b", "wherry receive"))
    wait_until(lambda: len(job.lab.pids("a", "wherry migrate")) == 2)
    worker = max(job.lab.pids("a", "wherry migrate"))
    job.lab.run("a", "kill", "-KILL", str(worker))
    _, said = call.communicate(timeout=60)
    assert call.returncode == 20 and "Traceback" not in said
    assert job.only_at("a")


def test_the_destination_cannot_restore(job: Job, tmp_path: Path) -> None:
    job.start("a")
    job.lab.run("a", "wherry", "exec", "job", "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=1")
    # Its state root lies on a file system too small for what comes.
    small = tmp_path / "small"
    small.mkdir()
    job.lab.run("b", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small)
    try:
        done = _try(job, "--remote-root", str(small))
        assert done.returncode not in (0, 70), done.stderr
        assert job.only_at("a")
        assert job.lab.run("b", "sh", "-c", f"ls {small}").stdout == ""
    finally:
        wait_until(lambda: job.lab.run("b", "umount", small, check=False).returncode == 0)


def test_a_dead_network_and_a_second_attempt(job: Job) -> None:
    job.start("a", 16)
    call = job.lab.popen(
        "a", "wherry", "migrate", "--bwlimit", "1M", "job", "b", stderr=subprocess.PIPE
    )
    wait_until(lambda: "job" in job.lab.containers("b"))
    job.lab.run("b", "ip", "link", "set", "eth0", "down")
    try:
        _, said = call.communicate(timeout=60)
    finally:
        job.lab.run("b", "ip", "link", "set", "eth0", "up")
    assert call.returncode == 41 and "does not answer" in said
    assert job.goes_on("a")
    # Over there nobody has noticed yet; the new attempt clears up.
    assert "job" in job.lab.containers("b")
    job.migrate("a", "b")
    assert job.only_at("b")
