"""Containers from create to delete, through the command line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from runtime.process import ProcessRef, namespace_pids
from tests.support.bundles import SLEEP, bind, make_bundle
from tests.support.command import WHERRY, Wherry
from tests.support.wait import wait_until


def test_do_shows_the_output_and_returns_the_status(wherry: Wherry) -> None:
    result = wherry("do", "--", "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (result.returncode, result.stdout, result.stderr) == (7, "out\n", "err\n")
    assert wherry.json("list", "--json") == []


def test_do_reads_our_standard_input(wherry: Wherry) -> None:
    assert wherry("do", "--", "cat", stdin="over and in").stdout == "over and in"


def test_do_changes_nothing_outside(wherry: Wherry, scratch: Path) -> None:
    marker = scratch / "marker"
    wherry("do", "--", "sh", "-c", f"echo x > {marker} && cat {marker} && rm /etc/passwd")
    assert not marker.exists()
    assert Path("/etc/passwd").exists()


def test_do_takes_environment_directory_and_host_name(wherry: Wherry) -> None:
    result = wherry(
        "do", "--id", "named", "--env", "COLOUR=blue", "--cwd", "/usr", "--",
        "sh", "-c", "echo $COLOUR $PWD $(hostname)",
    )  # fmt: skip
    assert result.stdout == "blue /usr named\n"


def test_do_shows_volumes(wherry: Wherry, scratch: Path) -> None:
    shared, single, inside = scratch / "shared", scratch / "single", scratch / "inside"
    shared.mkdir()
    single.write_text("fed\n")
    script = f"cat {inside}/file >{inside}/dir/said; echo x >>{inside}/file"
    result = wherry(
        "do", "-v", f"{shared}:{inside}/dir:rw", "--volume", f"{single}:{inside}/file:ro", "--",
        "sh", "-c", script, check=False,
    )  # fmt: skip
    assert "Read-only file system" in result.stderr
    assert (shared / "said").read_text() == "fed\n"
    assert single.read_text() == "fed\n"
    assert not inside.exists()


def test_a_volume_may_start_at_the_current_directory(wherry: Wherry, scratch: Path) -> None:
    (scratch / "data").mkdir()
    script = f"cd {scratch} && exec {WHERRY} do -v ./data:/srv -- touch /srv/made"
    subprocess.run(["sh", "-c", script], env=wherry.environment(), check=True)
    assert (scratch / "data" / "made").exists()


@pytest.mark.parametrize(
    ("volume", "why"),
    [
        ("/tmp", "is not HOST:CONTAINER"),
        ("data:/srv", "is the name of a volume"),
        ("/tmp:srv", "is no absolute path"),
        ("/tmp:/srv:z", "is neither ro nor rw"),
        ("/no/such:/srv", "/no/such does not exist"),
    ],
)
def test_a_volume_of_another_form_is_refused(wherry: Wherry, volume: str, why: str) -> None:
    result = wherry("do", "--volume", volume, "--", "true", check=False)
    assert result.returncode == 2 and why in result.stderr
    assert wherry.json("list", "--json") == []


def test_a_program_that_is_missing_is_named(wherry: Wherry) -> None:
    result = wherry.fails("do", "--", "no-such-program")
    assert "no-such-program" in result.stderr
    assert "[exec-not-found]" in result.stderr
    assert wherry.json("list", "--json") == []


def test_a_program_ended_by_a_signal_gives_128_and_its_number(wherry: Wherry) -> None:
    code = "import os, signal; signal.signal(15, lambda *_: os.abort()); os.kill(os.getpid(), 15)"
    # The init of a pid namespace dies of a signal only by its own abort().
    result = wherry("do", "--", "sh", "-c", f"python3 -c '{code}'; exit $?", check=False)
    assert result.returncode == 134


def test_the_whole_life(wherry: Wherry, scratch: Path) -> None:
    bundle = make_bundle(scratch / "b", "echo started; exec sleep 1000")
    wherry("create", "--bundle", bundle, "--overlay", "--pid-file", scratch / "pid", "web")
    state = wherry.json("state", "web")
    assert state["status"] == "created"
    assert state["id"] == "web"
    assert state["bundle"] == str(bundle)
    assert state["rootfs"] == "/"
    assert state["ociVersion"].startswith("1.")
    assert state["annotations"] == {}
    assert int((scratch / "pid").read_text()) == state["pid"]
    assert ProcessRef.of(state["pid"]).alive()
    wherry("start", "web")
    assert wherry.status("web") == "running"
    wherry("pause", "web")
    assert wherry.status("web") == "paused"
    wherry("resume", "web")
    assert wherry.status("web") == "running"
    wherry("kill", "web", "KILL")
    assert wherry("wait", "web", check=False).returncode == 137
    state = wherry.json("state", "web")
    assert (state["status"], state["pid"]) == ("stopped", 0)
    wherry("delete", "web")
    assert wherry.status("web") == "absent"
    assert list(wherry.root.iterdir()) == []


def test_a_created_programs_output_comes_after_start(wherry: Wherry, scratch: Path) -> None:
    bundle = make_bundle(
        scratch / "b", "echo hello > /data/out", lambda s: bind(s, scratch, "/data")
    )
    wherry("create", "--bundle", bundle, "--overlay", "web")
    assert not (scratch / "out").exists()
    wherry("start", "web")
    assert wherry("wait", "web").returncode == 0
    assert (scratch / "out").read_text() == "hello\n"
    wherry("delete", "web")


@pytest.mark.parametrize(
    ("setup", "commands"),
    [
        ("created", [("pause",), ("resume",), ("exec", "true"), ("checkpoint",)]),
        ("running", [("start",), ("resume",), ("delete",)]),
        ("paused", [("start",), ("pause",), ("exec", "true"), ("delete",)]),
        ("stopped", [("start",), ("pause",), ("resume",), ("exec", "true"), ("ps",)]),
    ],
)
def test_what_the_status_does_not_allow_is_refused_and_changes_nothing(
    wherry: Wherry, scratch: Path, setup: str, commands: list[tuple[str, ...]]
) -> None:
    bundle = make_bundle(scratch / "b", "exec sleep 1000")
    wherry("create", "--bundle", bundle, "--overlay", "web")
    if setup != "created":
        wherry("start", "web")
    if setup == "paused":
        wherry("pause", "web")
    if setup == "stopped":
        wherry("kill", "web", "KILL")
        wherry("wait", "web", check=False)
    for verb, *rest in commands:
        options = ["--image-path", str(scratch / "image")] if verb == "checkpoint" else []
        result = wherry.fails(verb, *options, "web", *rest)
        assert result.returncode == 24, (verb, result.stderr)
        assert f"in status {setup}" in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert wherry.status("web") == setup
    assert not (scratch / "image").exists()
    wherry("delete", "--force", "web")


VERBS = ["start", "pause", "resume", "state", "ps", "events", "wait", "kill", "delete", "update"]


@pytest.mark.parametrize("verb", [*VERBS, "exec", "checkpoint"])
def test_a_wrong_id_is_one_clear_line(wherry: Wherry, scratch: Path, verb: str) -> None:
    extra = {"exec": ["true"], "update": ["--pids-limit=5"]}.get(verb, [])
    if verb == "update":
        args = ["update", *extra, "missing"]
    elif verb == "checkpoint":
        args = ["checkpoint", "--image-path", str(scratch / "x"), "missing"]
    else:
        args = [verb, "missing", *extra]
    result = wherry.fails(*args)
    assert result.returncode == 21
    assert result.stderr == "wherry: container 'missing' does not exist [no-such-container]\n"


def test_abbreviated_ids(wherry: Wherry, scratch: Path) -> None:
    bundle = make_bundle(scratch / "b", "exec sleep 1000")
    for cid in ("web-one", "web-two"):
        wherry("create", "--bundle", bundle, "--overlay", cid)
    assert wherry.json("state", "web-o")["id"] == "web-one"
    ambiguous = wherry.fails("state", "web")
    assert ambiguous.returncode == 22
    assert "web-one, web-two" in ambiguous.stderr
    # With --force the id has to be whole: nothing dies by a typing mistake.
    wherry("delete", "--force", "web-o")
    assert wherry.status("web-one") == "created"
    for cid in ("web-one", "web-two"):
        wherry("delete", "--force", cid)


def test_a_second_container_under_the_same_id_leaves_the_first_alone(
    wherry: Wherry, scratch: Path
) -> None:
    bundle = make_bundle(scratch / "b")
    wherry("run", "--bundle", bundle, "--overlay", "--detach", "web")
    before = wherry.json("state", "web")
    calls: list[tuple[str | Path, ...]] = [
        ("create", "--bundle", bundle, "--overlay", "web"),
        ("run", "--bundle", bundle, "--overlay", "web"),
        ("do", "--id", "web", "--", "true"),
    ]
    for args in calls:
        result = wherry.fails(*args)
        assert result.returncode == 23
        assert "container 'web' exists already" in result.stderr
    assert wherry.json("state", "web") == before
    wherry("delete", "--force", "web")


@pytest.mark.parametrize("cid", ["../x", "a/b", "", "a b"])
def test_ids_that_may_not_be(wherry: Wherry, scratch: Path, cid: str) -> None:
    result = wherry.fails("create", "--bundle", make_bundle(scratch / "b"), "--overlay", cid)
    assert "[invalid-id]" in result.stderr
    assert list(wherry.root.iterdir()) == []


def test_run_in_the_foreground_deletes_at_the_end_and_keep_keeps(
    wherry: Wherry, scratch: Path
) -> None:
    bundle = make_bundle(scratch / "b", "echo hi; exit 3")
    result = wherry("run", "--bundle", bundle, "--overlay", "web", check=False)
    assert (result.returncode, result.stdout) == (3, "hi\n")
    assert wherry.status("web") == "absent"
    result = wherry("run", "--keep", "--bundle", bundle, "--overlay", "web", check=False)
    assert result.returncode == 3
    assert wherry.status("web") == "stopped"
    assert wherry("wait", "web", check=False).returncode == 3
    wherry("delete", "web")


def test_run_hands_signals_on(wherry: Wherry, scratch: Path) -> None:
    bundle = make_bundle(
        scratch / "b",
        "trap 'exit 42' USR1; trap : TERM; touch /data/ready; while :; do sleep 0.02; done",
        lambda s: bind(s, scratch, "/data"),
    )
    process = wherry.popen("run", "--bundle", bundle, "--overlay", "web")
    wait_until((scratch / "ready").exists)
    process.send_signal(signal.SIGTERM)  # which the program catches, and goes on
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 42
    assert wherry.status("web") == "absent"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_do_ends_by_a_signal_like_any_command(wherry: Wherry, signum: int) -> None:
    process = wherry.popen("do", "--id", "web", "--", "sleep", "1000")
    wait_until(lambda: wherry.status("web") == "running")
    process.send_signal(signum)
    assert process.wait(20) == 128 + signum
    assert wherry.status("web") == "absent"


def test_wait_works_late_and_for_many(wherry: Wherry, scratch: Path) -> None:
    bundle = make_bundle(scratch / "b", "trap 'exit 9' TERM; while :; do sleep 0.02; done")
    wherry("run", "--detach", "--bundle", bundle, "--overlay", "web")
    waiting = [wherry.popen("wait", "web") for _ in range(3)]
    wherry("kill", "web")
    assert [process.wait(20) for process in waiting] == [9, 9, 9]
    for _ in range(2):
        assert wherry("wait", "web", check=False).returncode == 9
    wherry("delete", "web")


def test_a_signal_to_a_stopped_container_is_a_warning(wherry: Wherry, scratch: Path) -> None:
    wherry("run", "--detach", "--bundle", make_bundle(scratch / "b", "true"), "--overlay", "web")
    wherry("wait", "web")
    result = wherry("kill", "web", "TERM")
    assert "WARNING" in result.stderr
    wherry("delete", "web")


@pytest.mark.parametrize("name", ["SIGUSR2", "usr2", "12", "USR2"])
def test_signals_have_names_and_numbers(wherry: Wherry, scratch: Path, name: str) -> None:
    bundle = make_bundle(
        scratch / "b",
        "trap 'exit 12' USR2; touch /data/ready; while :; do sleep 0.02; done",
        lambda s: bind(s, scratch, "/data"),
    )
    wherry("run", "--detach", "--bundle", bundle, "--overlay", "web")
    wait_until((scratch / "ready").exists)
    wherry("kill", "web", name)
    assert wherry("wait", "web", check=False).returncode == 12
    wherry("delete", "web")


def test_a_signal_that_is_none_is_refused(wherry: Wherry) -> None:
    for name in ("SIGNOPE", "99", "-1", "RTMIN+999"):
        assert wherry.fails("kill", "web", name).returncode == 2


def test_signals_to_one_to_a_group_and_to_all(wherry: Wherry, scratch: Path) -> None:
    script = """
        setsid sh -c 'trap "echo other >> /data/log; exit" USR1; echo $$ > /data/other
                      while :; do sleep 0.02; done' &
        trap 'echo init >> /data/log' USR1
        (trap 'echo sibling >> /data/log' USR1; touch /data/ready; while :; do sleep 0.02; done) &
        while :; do sleep 0.02; done
    """
    bundle = make_bundle(scratch / "b", script, lambda s: bind(s, scratch, "/data"))
    log = scratch / "log"

    def lines() -> list[str]:
        return sorted(log.read_text().split()) if log.exists() else []

    wherry("run", "--detach", "--bundle", bundle, "--overlay", "web")
    wait_until(lambda: (scratch / "ready").exists() and (scratch / "other").exists())
    wherry("kill", "web", "USR1")
    wait_until(lambda: lines() == ["init"])
    wherry("kill", "--group", "web", "USR1")
    wait_until(lambda: lines() == ["init", "init", "sibling"])
    wherry("kill", "--pid", wait_until((scratch / "other").read_text).strip(), "web", "USR1")
    wait_until(lambda: lines() == ["init", "init", "other", "sibling"])
    missing = wherry.fails("kill", "--pid", "4000000", "web", "USR1")
    assert "[no-such-process]" in missing.stderr
    wherry("kill", "--all", "web", "KILL")
    assert wherry("wait", "web", check=False).returncode == 137
    wherry("delete", "web")


def text_of(path: Path) -> str:
    """What a file holds; nothing while there is none."""
    return path.read_text().strip() if path.exists() else ""


def watched_by_monitor(wherry: Wherry, cid: str, ns_pid: int) -> bool:
    """Whether the monitor holds a pidfd of the process with a pid as seen inside."""
    record = json.loads((wherry.root / cid / "state.json").read_text())
    for path in Path(f"/proc/{record['monitor']['pid']}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
            if lines.get("NSpid", "").split()[-1:] == [str(ns_pid)]:
                return True
            if "Pid" in lines and namespace_pids(int(lines["Pid"]))[-1] == ns_pid:
                return True
    return False


def test_wait_for_a_pid_inside(wherry: Wherry, scratch: Path) -> None:
    script = """
        sh -c 'echo $$ > /data/pid; while [ ! -e /data/go ]; do sleep 0.02; done; exit 5' &
        wait $!
        exec sleep 1000
    """
    bundle = make_bundle(scratch / "b", script, lambda s: bind(s, scratch, "/data"))
    wherry("run", "--detach", "--bundle", bundle, "--overlay", "web")
    pid = wait_until(lambda: text_of(scratch / "pid"))
    process = wherry.popen("wait", "--pid", pid, "web")
    wait_until(lambda: watched_by_monitor(wherry, "web", int(pid)))
    (scratch / "go").touch()
    assert process.wait(20) == 5
    assert "[no-such-process]" in wherry.fails("wait", "--pid", "4000000", "web").stderr
    wherry("delete", "--force", "web")


def test_ps_list_and_events(wherry: Wherry, scratch: Path) -> None:
    wherry("run", "--detach", "--bundle", make_bundle(scratch / "b"), "--overlay", "web")
    pid = wherry.json("state", "web")["pid"]
    wait_until(lambda: len(wherry.json("ps", "--format", "json", "web")) == 2)
    assert pid in wherry.json("ps", "--format", "json", "web")
    processes = wherry.json("ps", "--json", "web")
    assert {process["ns_pid"] for process in processes} >= {1}
    assert any(process["command"] == "sleep 1000" for process in processes)
    table = wherry("ps", "web").stdout.splitlines()
    assert table[0].split() == ["UID", "PID", "INSIDE", "PPID", "STIME", "TTY", "TIME", "CMD"]
    assert len(table) == 3
    chosen = wherry("ps", "web", "-o", "pid,args").stdout.splitlines()
    assert chosen[0].split()[0] == "PID"
    assert len(chosen) == 3

    assert wherry("list", "--quiet").stdout == "web\n"
    listed = wherry.json("list", "--format", "json")
    assert [(entry["id"], entry["status"], entry["pid"]) for entry in listed] == [
        ("web", "running", pid)
    ]
    assert wherry("list").stdout.splitlines()[0].split()[:3] == ["ID", "PID", "STATUS"]

    event = json.loads(wherry("events", "--stats", "web").stdout)
    assert (event["type"], event["id"]) == ("stats", "web")
    assert event["data"]["pids"]["current"] >= 2
    watching = wherry.popen("events", "--interval", "50ms", "web", stdout=-1)
    assert watching.stdout is not None
    for _ in range(3):
        assert json.loads(watching.stdout.readline())["type"] == "stats"
    wherry("delete", "--force", "web")
    watching.communicate(timeout=20)
    assert watching.returncode == 0


def test_update_changes_limits(wherry: Wherry, scratch: Path) -> None:
    wherry("run", "--detach", "--bundle", make_bundle(scratch / "b"), "--overlay", "web")
    wherry("update", "--pids-limit", "50", "--memory", "64m", "web")
    data = json.loads(wherry("events", "--stats", "web").stdout)["data"]
    assert data["pids"]["limit"] == 50
    assert data["memory"]["limit"] == 64 << 20
    (scratch / "limits.json").write_text('{"pids": {"limit": 60}}')
    wherry("update", "-r", scratch / "limits.json", "web")
    data = json.loads(wherry("events", "--stats", "web").stdout)["data"]
    assert (data["pids"]["limit"], data["memory"]["limit"]) == (60, 64 << 20)
    wherry("delete", "--force", "web")


def test_delete_force_of_what_is_not_there_is_no_error(wherry: Wherry) -> None:
    wherry("delete", "--force", "missing")


def test_a_dead_init_is_noticed_although_nobody_wrote_it_down(
    wherry: Wherry, scratch: Path
) -> None:
    wherry("run", "--detach", "--bundle", make_bundle(scratch / "b"), "--overlay", "web")
    record = json.loads((wherry.root / "web" / "state.json").read_text())
    monitor = ProcessRef.of(record["monitor"]["pid"])
    os.kill(monitor.pid, signal.SIGKILL)
    assert monitor.wait_gone(10)
    assert wherry.status("web") == "running"
    assert wherry("exec", "web", "true").returncode == 0
    os.kill(record["init"]["pid"], signal.SIGKILL)
    wait_until(lambda: wherry.status("web") == "stopped")
    assert json.loads((wherry.root / "web" / "state.json").read_text())["status"] == "running"
    # Whoever has inherited the init has its status; the kernel may still tell, or not any more.
    result = wherry("wait", "web", check=False)
    assert result.returncode == 137 or "[exit-status-unknown]" in result.stderr
    wherry("delete", "web")


def test_a_reused_pid_is_not_believed(wherry: Wherry, scratch: Path) -> None:
    wherry("run", "--detach", "--bundle", make_bundle(scratch / "b"), "--overlay", "web")
    path = wherry.root / "web" / "state.json"
    record = json.loads(path.read_text())
    honest = json.dumps(record)
    record["init"]["start_ticks"] += 1
    path.write_text(json.dumps(record))
    assert wherry.status("web") == "stopped"
    path.write_text(honest)
    assert wherry.status("web") == "running"
    wherry("delete", "--force", "web")


@pytest.mark.parametrize("damage", ["", "{", "half", "empty"])
def test_damaged_entries_are_listed_and_can_be_deleted(
    wherry: Wherry, scratch: Path, damage: str
) -> None:
    bundle = make_bundle(scratch / "b", SLEEP)
    wherry("run", "--detach", "--bundle", bundle, "--overlay", "good")
    wherry("run", "--detach", "--bundle", bundle, "--overlay", "bad")
    pid = wherry.json("state", "bad")["pid"]
    state = wherry.root / "bad" / "state.json"
    if damage == "half":
        state.unlink()
    elif damage == "empty":
        wherry("delete", "--force", "bad")
        (wherry.root / "bad").mkdir()
    else:
        state.write_text(damage)
    listed = {entry["id"]: entry["status"] for entry in wherry.json("list", "--json")}
    assert listed == {"good": "running", "bad": "damaged"}
    assert len(wherry("list").stdout.splitlines()) == 3
    assert "delete --force" in wherry.fails("state", "bad").stderr
    assert "delete --force" in wherry.fails("delete", "bad").stderr
    wherry("delete", "--force", "bad")
    assert not (wherry.root / "bad").exists()
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
    wherry("delete", "--force", "good")


def test_no_pivot_is_refused(wherry: Wherry, scratch: Path) -> None:
    bundle = make_bundle(scratch / "b")
    result = wherry.fails("create", "--no-pivot", "--bundle", bundle, "--overlay", "web")
    assert "--no-pivot" in result.stderr


def test_a_bundle_that_is_none_is_one_clear_line(wherry: Wherry, scratch: Path) -> None:
    result = wherry.fails("run", "--bundle", scratch, "web")
    assert "config.json" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(wherry.root.iterdir()) == []
