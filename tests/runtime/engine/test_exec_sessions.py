"""What exec has brought into a container comes along, with its parent outside as before."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import DEVNULL, PIPE

import pytest

from tests.support.command import Wherry
from tests.support.terminal import Terminal
from tests.support.wait import wait_until

pytestmark = pytest.mark.timeout(120)

COUNTER = """
    cd "$0"; (trap 'echo usr1 >>signals' USR1; while :; do sleep 0.02; done) &
    echo $! >child; read line; echo "read: $line" >result
    i=0; while test ! -e stop; do i=$((i+1)); echo $i >>count; sleep 0.02; done
    kill -USR1 %1; sleep 0.2; kill %1; wait; exit 5
"""


class Box:
    """A container with a directory of its own."""

    def __init__(self, wherry: Wherry, directory: Path) -> None:
        self.wherry = wherry
        self.directory = directory
        self.cids: list[str] = []

    def file(self, name: str) -> Path:
        """A file as the last container has it."""
        upper = self.wherry.root / self.cids[-1] / "overlay" / "upper"
        return upper / self.directory.relative_to("/") / name

    def start(self) -> None:
        """A container whose own program only waits."""
        self.wherry("do", "--detach", "--id", "first", "--", "sleep", "1000")
        self.cids.append("first")

    def move(self, to: str, image: Path) -> None:
        """Checkpoint, and go on elsewhere."""
        self.wherry("checkpoint", "--image-path", image, self.cids[-1])
        self.wherry("delete", self.cids.pop())
        self.wherry("restore", "--detach", "--image-path", image, to)
        self.cids.append(to)

    def inside(self, *command: str) -> str:
        """What a further process says."""
        return self.wherry("exec", self.cids[-1], *command).stdout

    def lines(self, name: str) -> list[str]:
        """The lines of a file so far."""
        path = self.file(name)
        return path.read_text().split("\n")[:-1] if path.exists() else []


@pytest.fixture
def box(wherry: Wherry, scratch: Path) -> Iterator[Box]:
    directory = scratch / "d"
    directory.mkdir()
    made = Box(wherry, directory)
    made.start()
    yield made
    for cid in made.cids:
        wherry("delete", "--force", cid)


def more(box: Box) -> Callable[[], bool]:
    """Whether the session has counted on since now."""
    before = len(box.lines("count"))
    return lambda: len(box.lines("count")) > before + 1


def test_a_session_with_children_goes_on(box: Box, scratch: Path) -> None:
    wherry = box.wherry
    session = wherry.popen(
        "exec", "first", "bash", "-mc", COUNTER, box.directory,
        stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL,
    )  # fmt: skip
    assert session.stdin is not None
    wait_until(lambda: box.lines("child"))
    session.stdin.write(b"something\n")
    session.stdin.flush()
    wait_until(more(box))
    wherry("checkpoint", "--leave-running", "--image-path", scratch / "beside", "first")
    wait_until(more(box))
    seen = len(box.lines("count"))
    box.move("second", scratch / "image")
    session.wait(20)
    session.stdin.close()
    wait_until(more(box))
    box.move("third", scratch / "again")
    wait_until(more(box))
    assert box.lines("count") == [str(i + 1) for i in range(len(box.lines("count")))]
    assert len(box.lines("count")) > seen
    assert box.lines("result") == ["read: something"]

    (pid,) = box.inside("pgrep", "-o", "bash").split()
    table = box.inside("ps", "-o", "ppid=,pgid=,sid=", "-p", pid).split()
    assert table == ["0", pid, pid]
    waiting = wherry.popen("exec", "third", "touch", box.directory / "stop")
    assert waiting.wait(20) == 0
    status = json.loads((wherry.root / "third" / "state.json").read_text())
    assert [s["args"][0] for s in status["exec_sessions"] if str(s["ns_pid"]) == pid] == ["bash"]

    def ended() -> bool:
        sessions = json.loads((wherry.root / "third" / "state.json").read_text())["exec_sessions"]
        return [s["exit_status"] for s in sessions if str(s["ns_pid"]) == pid] == [5 << 8]

    wait_until(ended)
    assert box.lines("signals") == ["usr1"]


def test_an_ended_caller_leaves_the_session_alone(box: Box, scratch: Path) -> None:
    """The session itself has ended, and its child lives on in the session."""
    box.inside("sh", "-c", "sleep 1234 </dev/null >/dev/null 2>&1 &")
    box.move("second", scratch / "image")
    (pid,) = box.inside("pgrep", "-f", "sleep 1234").split()
    assert box.inside("ps", "-o", "ppid=", "-p", pid).split() == ["1"]


def test_a_session_on_a_terminal_is_refused(box: Box, scratch: Path) -> None:
    terminal = Terminal()
    fd = terminal.slave
    session = box.wherry.popen(
        "exec", "--tty", "first", "sh", "-c", "echo here; read line; exit 4",
        stdin=fd, stdout=fd, stderr=fd, start_new_session=True,
    )  # fmt: skip
    terminal.wait_for("here")
    result = box.wherry.fails("checkpoint", "--image-path", scratch / "image", "first")
    assert "[tty-outside]" in result.stderr
    terminal.type("\n")
    assert session.wait(20) == 4
    terminal.close()
    box.move("second", scratch / "image")
