"""memcached with threads, and clients with a model of what must be in it.

``memcached_load.py DIRECTORY``. The cache is large enough that nothing is thrown out of it.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import threading
import traceback

import conduct

PORT = 11211
CLIENTS = 4
failures: list[str] = []
commands: list[int] = []


class Client:
    """One connection, in the text protocol, with keys of its own."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.dice = random.Random(number)
        self.values: dict[str, bytes] = {}
        self.counters: dict[str, int] = {}
        self.connect()

    def connect(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", PORT))
        self.file = self.socket.makefile("rb")

    def line(self) -> bytes:
        line = self.file.readline()
        assert line.endswith(b"\r\n"), f"the connection has ended: {line!r}"
        return line[:-2]

    def ask(self, request: bytes, wanted: bytes) -> None:
        self.socket.sendall(request)
        got = self.line()
        assert got == wanted, f"{got!r} instead of {wanted!r} for {request[:60]!r}"
        commands.append(1)

    def get(self, keys: list[str]) -> dict[str, bytes]:
        self.socket.sendall(f"get {' '.join(keys)}\r\n".encode())
        found = {}
        while (line := self.line()) != b"END":
            word, key, _flags, size = line.split()
            assert word == b"VALUE", line
            found[key.decode()] = self.file.read(int(size) + 2)[:-2]
        commands.append(1)
        return found

    def work(self) -> None:
        dice, name = self.dice, f"{self.number}:{self.dice.randrange(300)}"
        match dice.randrange(5):
            case 0:
                value = dice.randbytes(dice.choice([10, 500, 20000]))
                self.values[name] = value
                self.ask(f"set {name} 0 0 {len(value)}\r\n".encode() + value + b"\r\n", b"STORED")
            case 1 if name in self.values:
                del self.values[name]
                self.ask(f"delete {name}\r\n".encode(), b"DELETED")
            case 2:
                self.count(f"c{name}")
            case 3:
                keys = dice.sample(sorted(self.values), min(20, len(self.values)))
                if keys:
                    assert self.get(keys) == {key: self.values[key] for key in keys}
            case _:
                self.pipeline()

    def count(self, name: str) -> None:
        if name not in self.counters:
            self.counters[name] = 0
            self.ask(f"add {name} 0 0 1\r\n0\r\n".encode(), b"STORED")
        self.counters[name] += 1
        self.ask(f"incr {name} 1\r\n".encode(), b"%d" % self.counters[name])

    def pipeline(self) -> None:
        name = f"p{self.number}"
        if name not in self.counters:
            self.count(name)
        count = self.dice.randint(2, 100)
        self.socket.sendall(f"incr {name} 1\r\n".encode() * count)
        for _ in range(count):
            self.counters[name] += 1
            got = int(self.line())
            assert got == self.counters[name], (got, self.counters[name])
        commands.extend([1] * count)

    def check(self) -> None:
        for name, value in self.values.items():
            assert self.get([name]) == {name: value}, name
        for name, number in self.counters.items():
            (got,) = self.get([name]).values()
            assert int(got) == number, (name, got, number)


def client(number: int) -> None:
    try:
        own = Client(number)
        count = 0
        while not failures and not conduct.stopping():
            own.work()
            count += 1
            if count % 100 == 0:
                own.socket.close()
                own.connect()
        own.check()
    except BaseException:
        failures.append(traceback.format_exc())


def answers() -> bool:
    try:
        socket.create_connection(("127.0.0.1", PORT)).close()
    except ConnectionRefusedError:
        return False
    return True


def main() -> None:
    options = ["-u", "root", "-l", "127.0.0.1", "-p", str(PORT), "-U", "0", "-m", "64", "-t", "4"]
    server = subprocess.Popen(["memcached", *options])
    conduct.wait_for(answers, what="the server")
    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    conduct.wait_for(lambda: len(commands) > 500 or failures, what="the load")
    conduct.ready()
    for thread in threads:
        thread.join()
    assert not failures, "\n".join(failures)
    assert server.poll() is None
    os.kill(server.pid, 15)
    assert server.wait(60) == 0
    conduct.done(f"{len(commands)} commands")


main()
