"""A job that holds a bit of everything and works with it until it is told to end.

``holder.py DIRECTORY``: a thread, a child, pipes, sockets, timers, a memfd, a growing file. Numbers
go round: main thread → pipe → thread → socket → child → socket → main thread; each must come back
as it was sent. When ``stop`` appears, everything is compared once more and ``done`` written.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path

directory = Path(sys.argv[1])
NUMBER = struct.Struct("<Q")
alarms = 0


def on_alarm(_signal: int, _frame: object) -> None:
    global alarms  # noqa: PLW0603
    alarms += 1


def exactly(sock: socket.socket) -> int:
    data = b""
    while len(data) < NUMBER.size:
        part = sock.recv(NUMBER.size - len(data))
        if not part:
            raise EOFError
        data += part
    return int(NUMBER.unpack(data)[0])


def pass_on(source: int, target: socket.socket) -> None:
    while data := os.read(source, NUMBER.size):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)


def be_child(source: socket.socket) -> None:
    try:
        while True:
            source.sendall(NUMBER.pack(exactly(source) * 3))
    except EOFError:
        os._exit(0)


def main() -> None:
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        be_child(theirs)
    theirs.close()
    pipe_out, pipe_in = os.pipe()
    thread = threading.Thread(target=pass_on, args=(pipe_out, ours))
    thread.start()
    signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    poll = select.epoll()
    poll.register(ours.fileno(), select.EPOLLIN)
    tally = os.memfd_create("tally")
    os.ftruncate(tally, 1 << 20)
    shared = mmap.mmap(tally, 1 << 20)
    event = os.eventfd(7)
    number = 0
    with (directory / "log").open("w") as log:
        (directory / "ready").touch()
        while not (directory / "stop").exists():
            number += 1
            os.write(pipe_in, NUMBER.pack(number))
            poll.poll()
            answer = exactly(ours)
            assert answer == 3 * number, f"{number} came back as {answer}"
            shared[number % 512 * 8 : number % 512 * 8 + 8] = NUMBER.pack(number)
            assert NUMBER.unpack_from(shared, number % 512 * 8)[0] == number
            log.write(f"{number}\n")
            log.truncate(0) if number % 1000 == 0 else log.flush()
            time.sleep(0.002)
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert os.eventfd_read(event) == 7
    assert alarms > 0
    os.close(pipe_in)
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
    (directory / "done").write_text(f"{number} rounds, {alarms} alarms\n")


main()
