"""The demo itself; scripts/demo sets the machine up and calls it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
NAME = os.environ.get("WHERRY_DEMO_LAB", "demo")
LAB = [sys.executable, str(ROOT / "scripts" / "lab"), "--name", NAME]
LOGS = "/voyage"
STEP_TIMEOUT_S = 60.0

console = Console(highlight=False, soft_wrap=True)


class DemoError(Exception):
    """The demo cannot go on; the sentence says why."""


def lab(*words: str) -> None:
    """Run scripts/lab."""
    done = subprocess.run([*LAB, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoError(done.stderr.strip() or f"lab {' '.join(words)} failed")


def on(host: str, *command: str, check: bool = True) -> str:
    """Run a command on a host of the lab; its standard output."""
    # Not through pipes: what a detached container keeps open must not hold us.
    with Output() as out, Output() as err:
        done = subprocess.run(
            [*LAB, "exec", host, "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=out.fd,
            stderr=err.fd,
            timeout=STEP_TIMEOUT_S,
            check=False,
        )
        if check and done.returncode:
            words = " ".join(command)[:100]
            raise DemoError(f"host {host}: {words}: {err.text().strip() or done.returncode}")
        return out.text()


class Output:
    """A nameless file that catches a command's output."""

    def __enter__(self) -> Output:
        self.fd = os.memfd_create("output")
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self.fd)

    def text(self) -> str:
        """Everything written so far."""
        os.lseek(self.fd, 0, os.SEEK_SET)
        with os.fdopen(os.dup(self.fd), "rb") as file:
            return file.read().decode(errors="replace")


def program(name: str) -> list[str]:
    """The words that run one of the examples inside a container."""
    path = ROOT / "examples" / name
    python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else base_python()
    # A container over the host's root does not see what other file systems hold.
    if path.stat().st_dev == Path("/").stat().st_dev:
        return [python, str(path)]
    return [python, "-c", path.read_text()]


def base_python() -> str:
    """The interpreter that the environment was made from."""
    return str(Path(sys.executable).resolve())


def findings(host: str, cid: str) -> dict[str, Any]:
    """What the job's own logs say, read inside the container."""
    command = ["wherry", "exec", cid, *program("voyage_check.py"), "--json", LOGS]
    found: dict[str, Any] = json.loads(on(host, *command, check=False) or "{}")
    if not found:
        raise DemoError(f"host {host}: the logs of {cid} cannot be read")
    return found


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that is going to happen."""
    deadline = time.monotonic() + STEP_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise DemoError(f"{what} did not happen within {STEP_TIMEOUT_S:g} s")
        time.sleep(0.1)


def more_than(host: str, cid: str, steps: int) -> Callable[[], bool]:
    """Whether a container has gone beyond so many steps."""
    return lambda: int(findings(host, cid)["steps"]) > steps


def mib(count: float) -> str:
    """Bytes in MiB."""
    return f"{count / (1 << 20):.0f} MiB"


def ms(nanoseconds: float) -> str:
    """Nanoseconds in milliseconds."""
    return f"{nanoseconds / 1e6:.0f} ms"


@contextlib.contextmanager
def act(title: str) -> Iterator[list[str]]:
    """Show one act of the demo: what happens, how long it took, and what came of it."""
    notes: list[str] = []
    began = time.monotonic()
    if console.is_terminal:
        with console.status(title):
            yield notes
    else:
        yield notes
    elapsed = time.monotonic() - began
    console.print(f"[green]✓[/green] {title} [dim]({elapsed:.1f} s)[/dim]")
    for note in notes:
        console.print(f"    {note}")


def play(memory_mib: int) -> bool:
    """The acts, in order; whether every copy of the job is whole."""
    with act("two hosts, [bold]a[/bold] and [bold]b[/bold], joined by a cable"):
        lab("down")  # what a demo that was killed has left
        lab("up")
    with act("a job on host a: threads, growing memory, a deleted file, a shell pipeline") as notes:
        on("a", "wherry", "do", "--id", "job", "--detach", "--cwd", "/", "--",
           *program("voyage.py"), LOGS, str(memory_mib))  # fmt: skip
        wait_until(lambda: findings("a", "job")["held_mib"] >= memory_mib // 2, "half the memory")
        before = findings("a", "job")
        notes.append(f"{before['steps']} steps so far, {before['held_mib']} MiB of memory filled")

    image = "/run/job.wherry"
    with act("a snapshot while it runs on") as notes:
        saved = json.loads(
            on("a", "wherry", "checkpoint", "--leave-running", "--json", "--image-path", image,
               "job")
        )  # fmt: skip
        ratio = saved["memory_bytes"] / max(saved["image_bytes"], 1)
        notes.append(
            f"{mib(saved['memory_bytes'])} of memory as {mib(saved['image_bytes'])}"
            f" (ratio {ratio:.1f}); the job stood still for {ms(saved['frozen_ns'])}"
        )
    with act("what is in it") as notes:
        on("a", "wherry", "image", "verify", image)
        shown = on("a", "wherry", "image", "inspect", image).splitlines()
        notes.extend(f"[dim]{line}[/dim]" for line in shown[:12])
    with act("the snapshot brought to life as [bold]job-2[/bold], beside the original"):
        on("a", "wherry", "restore", "--image-path", image, "--detach", "job-2")
        resumed = findings("a", "job-2")["steps"]
        wait_until(more_than("a", "job-2", resumed + 50), "job-2 going on")

    wait_until(lambda: findings("a", "job")["held_mib"] >= memory_mib, "all of the memory")
    at_move = findings("a", "job")["steps"]
    with act("the original moved to host b, while it runs") as notes:
        moved = json.loads(on("a", "wherry", "migrate", "--json", "job", "b"))
        notes.append(
            f"{mib(moved['memory_bytes'])} of memory as {mib(moved['sent_bytes'])} over SSH;"
            f" downtime {ms(moved['downtime_ns'])}: freeze {ms(moved['freeze_ns'])}, dump and"
            f" transfer {ms(moved['transfer_ns'])}, restore {ms(moved['restore_ns'])},"
            f" thaw {ms(moved['thaw_ns'])}"
        )
    wait_until(more_than("b", "job", at_move + 200), "the job going on at host b")
    return proof(before["steps"], at_move)


def proof(snapshot_step: int, move_step: int) -> bool:
    """Show what the logs of all copies say; whether they are whole."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("copy")
    for name in ("host", "steps", "in the pipe", "memory", "longest pause"):
        table.add_column(name, justify="right")
    table.add_column("lost or repeated")
    whole = True
    for host, cid in (("b", "job"), ("a", "job-2")):
        found = findings(host, cid)
        whole = whole and not found["trouble"]
        table.add_row(
            cid,
            host,
            f"1 to {found['steps']}",
            f"1 to {found['pipeline_steps']}",
            f"{found['held_mib']} MiB",
            ms(found["longest_pause_ns"]),
            "; ".join(found["trouble"][:2]) or "[green]none[/green]",
        )
    left = json.loads(on("a", "wherry", "list", "--format", "json") or "[]") or []
    console.print(table)
    console.print(
        f"job was moved near step {move_step}, job-2 was saved near step {snapshot_step}."
        " Every step carries a digest of all before it,\nwhich is kept in memory alone, and the"
        " clock; each line of the logs was checked."
    )
    if any(entry["id"] == "job" for entry in left):
        console.print("[red]the original is still on host a as well[/red]")
        return False
    return whole


def stop_on_signals() -> None:
    """Let these signals take everything down before we end."""

    def stop(signum: int, _frame: object) -> None:
        raise SystemExit(128 + signum)

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, stop)


def main() -> int:
    """Play the demo in a lab of its own, which is gone afterwards."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--memory", type=int, default=192, metavar="MIB", help="of the job")
    parser.add_argument("--keep", action="store_true", help="leave the lab up afterwards")
    options = parser.parse_args()
    stop_on_signals()
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind(f"\0wherry-{NAME}")  # an abstract name, which is gone when we are
        except OSError:
            print("demo: another demo is running on this machine", file=sys.stderr)
            return 1
        return perform(options.memory, keep=options.keep)


def perform(memory_mib: int, *, keep: bool) -> int:
    """Play, and take the lab down; the exit status."""
    began = time.monotonic()
    try:
        whole = play(memory_mib)
        console.print(f"done in {time.monotonic() - began:.0f} s")
        return 0 if whole else 1
    except DemoError as exc:
        console.print(f"[red]demo: {exc}[/red]")
        return 1
    finally:
        if not keep:
            take_down()


def take_down() -> None:
    """Remove the lab; a further Ctrl-C must not keep half of it."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    try:
        lab("down")
    except DemoError as exc:
        console.print(f"[red]{exc}[/red]")


if __name__ == "__main__":
    sys.exit(main())
