"""An interactive shell in a pseudo-terminal, with a job behind it, a stopped one, and one in front.

``shell.py DIRECTORY KIND``: in front there is ``vi`` or ``less``, whose screen changes all the
time, or ``lines``, a cat that is fed faster than its answers are read. At the end everything is
left in good order, and the shell has to have all of its jobs still.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from collections.abc import Callable

import conduct

SHELL = ["bash", "--norc", "--noprofile", "--noediting", "-i"]
AHEAD = 40  # lines under way


class Typist:
    """Somebody at the master of a pseudo-terminal."""

    def __init__(self) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="vt100", PS1="", LESS="", EXINIT="")
            os.execvp(SHELL[0], SHELL)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 81, 0, 0))
        self.seen = b""

    def type(self, text: str) -> None:
        """Type."""
        os.write(self.master, text.encode())

    def look(self, timeout_s: float = 0.0) -> None:
        """Read what there is by now."""
        while select.select([self.master], [], [], timeout_s)[0]:
            try:
                self.seen += os.read(self.master, 4096)
            except OSError:
                return  # the shell has left
            timeout_s = 0.0

    def expect(self, pattern: str) -> re.Match[bytes]:
        """Wait for something on the screen, and forget all that was there before."""
        deadline = time.monotonic() + 60
        while not (found := re.search(pattern.encode(), self.seen)):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.seen[-2000:]!r}"
            self.look(0.1)
        self.seen = self.seen[found.end() :]
        return found


def front_vi(typist: Typist) -> int:
    """Write lines in an editor until told to stop; returns their number."""
    typist.type(f"vi -u NONE -N -n {conduct.directory}/text\n")
    typist.expect("text")
    typist.type("i")
    number = 0
    conduct.ready()
    while not conduct.stopping():
        number += 1
        typist.type(f"line {number}\n")
        typist.look(0.01)
    typist.type("end\x1b:wq\n")
    typist.expect("written")
    text = (conduct.directory / "text").read_text()
    assert text == "".join(f"line {n}\n" for n in range(1, number + 1)) + "end\n", text[-500:]
    return number


def front_less(typist: Typist) -> int:
    """Page through a file."""
    (conduct.directory / "text").write_text("".join(f"line {n} of many\n" for n in range(100_000)))
    typist.type(f"less {conduct.directory}/text\n")
    typist.expect("line 20 of many")
    number = 0
    conduct.ready()
    while not conduct.stopping():
        number += 1
        # So far away that less draws all of the screen again.
        top = number * 37 % 90_000 + 1
        typist.type(f"{top}g")
        typist.expect(f"line {top - 1} of many")
    typist.type("q")
    return number


def front_lines(typist: Typist) -> int:
    """Feed lines to a program, and count its answers, of which none may be missing."""
    typist.type("echo going-$((6 * 7)); cat\n")
    typist.expect("going-42\r\n")
    sent = answered = 0
    conduct.ready()
    while answered < sent or not conduct.stopping():
        if sent - answered < AHEAD and not conduct.stopping():
            sent += 1
            typist.type(f"line {sent}\n")
            continue
        answered += 1
        line = typist.expect("([^\r]*)\r\n")[1]
        assert line == b"line %d" % answered, (line, answered)
    typist.type("\x04")
    return sent


FRONT: dict[str, Callable[[Typist], int]] = {
    "vi": front_vi,
    "less": front_less,
    "lines": front_lines,
}


def main(kind: str) -> None:
    """Everything from the first prompt to the last exit."""
    typist = Typist()
    typist.type("stty -echo; sleep 12345 & echo behind-$((1 + 1))\n")
    typist.expect("behind-2")
    typist.type("sh -c 'echo stop-$((1 + 1)); exec cat'\n")
    typist.expect("stop-2")
    typist.type("\x1a")
    typist.expect("Stopped")
    number = FRONT[kind](typist)
    typist.type("echo; jobs; stty size; echo all-$((2 + 3))\n")
    typist.expect("(?s)Running.*Stopped.*25 81.*all-5")
    typist.type("fg %2\n")
    typist.expect("exec cat")
    typist.type("purr\n")
    typist.expect("purr")
    typist.type("\x04")
    typist.type("kill %1; wait %1; echo killed-$?; exit 7\n")
    typist.expect("killed-143")
    _, status = os.waitpid(typist.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 7, status
    conduct.done(f"{number} steps of {kind}")


if __name__ == "__main__":
    main(sys.argv[2])
