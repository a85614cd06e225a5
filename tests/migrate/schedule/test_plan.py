"""The schedule's file: what it says, and what is refused with its place."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from migrate.errors import ScheduleError
from migrate.schedule.plan import Job, load_plan, parse_plan
from migrate.schedule.running import fits
from migrate.schedule.timing import Timing
from migrate.schedule.units import install, service_unit

WHOLE = """
state = "/tmp/state.json"
metrics = 9464
final_timeout = "45s"

[notice]
command = ["curl", "-fs", "http://169.254.169.254/latest/meta-data/spot/instance-action"]
every = "2s"

[[job]]
name = "databases"
containers = ["db-*", "redis"]
labels = { "org.example.tier" = "gold*" }
every = "10m"
jitter = "30s"
store = "sftp://backup@vault/srv/store"
tags = ["auto"]
overlap = "queue"
missed = "run-now"
key_file = "/etc/wherry/key"
bandwidth = "20M"
nice = 10
cpus = "0-1,4"
before = ["sync"]
after = ["logger", "saved"]
hook_timeout = "5s"
timeout = "10m"
retries = 5
retry_delay = "1m"
options = ["--tcp-established"]
prune = true
keep = { last = 5, hourly = 24, within = "2d" }

[[job]]
name = "nightly"
containers = ["*"]
cron = "30 2 * * *"
timezone = "Europe/Berlin"
store = "/srv/store"
"""
SMALL = '[[job]]\nname = "a"\ncontainers = ["*"]\nevery = "1m"\nstore = "/s"\n'


def test_everything_that_a_file_can_say(tmp_path: Path) -> None:
    path = tmp_path / "schedule.toml"
    path.write_text(WHOLE)
    plan = load_plan(path)
    assert (plan.state, plan.metrics_port, plan.final_timeout_s) == (
        Path("/tmp/state.json"),
        9464,
        45.0,
    )
    assert plan.notice is not None and plan.notice.every_s == 2.0
    first, second = plan.jobs
    assert first.timing.every_s == 600.0 and first.timing.jitter_s == 30.0
    assert first.timing.salt.endswith("/databases")
    assert first.keep == {"last": "5", "hourly": "24", "within": "2d"} and first.prune
    assert (first.nice, first.cpus, first.bandwidth) == (10, "0-1,4", "20M")
    assert (first.overlap, first.missed, first.retries) == ("queue", "run-now", 5)
    assert first.unlock == ("--key-file=/etc/wherry/key",)
    assert (first.before, first.hook_timeout_s, first.timeout_s) == (("sync",), 5.0, 600.0)
    assert second.timing.cron == "30 2 * * *" and second.timing.timezone == "Europe/Berlin"
    assert (second.overlap, second.missed, second.keep) == ("skip", "skip", {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no [[job]]"),
        (SMALL + "keeep = { last = 1 }\n", "job 1 (a): 'keeep' is not known"),
        (SMALL + "keep = { lasst = 1 }\n", "keep: 'lasst' is not known"),
        (SMALL + 'keep = { within = "long" }\n', "keep: within: "),
        (SMALL + "keep = { last = -2 }\n", "keep: last: -2 is no number"),
        (SMALL + 'cron = "* * * * *"\n', "either an interval or a cron expression"),
        (SMALL + SMALL, "two jobs are called 'a'"),
        (SMALL.replace('"1m"', "60"), "every: 60 is no duration"),
        (SMALL.replace('containers = ["*"]\n', ""), "give containers or labels"),
        (SMALL.replace('store = "/s"\n', ""), "there is no 'store'"),
        (SMALL.replace('"a"', '"a b"'), "name: 'a b'"),
        (SMALL + 'overlap = "both"\n', "'both' is none of skip, queue"),
        (SMALL + 'bandwidth = "fast"\n', "bandwidth: rate 'fast'"),
        (SMALL + 'identity = "/a"\nkey_file = "/b"\n', "give one of"),
        (SMALL + "nice = -5\n", "nice: -5 is no number from 0 to 19"),
        (SMALL + 'cpus = "all"\n', "cpus: 'all'"),
        (SMALL + 'tags = "x"\n', "tags: 'x' is no list"),
        (SMALL + "prune = 1\n", "prune: 1 is no true or false"),
        ("job = 3\n", "job: write [[job]]"),
        ("colour = 3\n" + SMALL, "'colour' is not known"),
        ("metrics = 70000\n" + SMALL, "metrics: 70000"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(text: str, words: str) -> None:
    with pytest.raises(ScheduleError) as error:
        parse_plan(tomllib.loads(text), "the file")
    assert str(error.value).startswith("the file") and words in str(error.value)


def test_a_file_that_is_no_toml(tmp_path: Path) -> None:
    for content in (b"[[job", b"\xff\xfe"):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(ScheduleError):
            load_plan(tmp_path / "x")
    with pytest.raises(ScheduleError):
        load_plan(tmp_path / "none")


@pytest.mark.parametrize(
    ("containers", "labels", "expected"),
    [
        (("db-*",), {}, True),
        (("web", "db-1"), {}, True),
        (("db",), {}, False),
        ((), {"tier": "g*"}, True),
        ((), {"tier": "silver"}, False),
        ((), {"other": "*"}, False),
        (("db-*",), {"tier": "silver"}, False),
    ],
)
def test_which_containers_a_job_is_about(
    containers: tuple[str, ...], labels: dict[str, str], expected: bool
) -> None:
    job = Job("a", Timing(60.0), "/s", containers, labels)
    assert fits(job, "db-1", {"tier": "gold"}) is expected


def test_the_systemd_service(tmp_path: Path) -> None:
    plan = parse_plan(tomllib.loads(SMALL), "x")
    text = service_unit(["/opt/a b/wherry", "schedule", "run", "--file", "/etc/100%.toml"], plan)
    assert 'ExecStart="/opt/a b/wherry" schedule run --file "/etc/100%%.toml"\n' in text
    assert "KillMode=mixed" in text and "TimeoutStopSec=150\n" in text
    path = install(text, tmp_path, enable=False)
    assert path.read_text() == text
    with pytest.raises(ScheduleError):
        install(text, tmp_path / "none", enable=False)
