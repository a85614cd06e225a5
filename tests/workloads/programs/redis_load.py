"""A Redis server with persistence, redis-benchmark, and clients that check every answer.

``redis_load.py DIRECTORY``: over TCP and a UNIX socket. Each client has keys of its own and a model
of what must be
in them. At the end everything is compared, once more after the server was started anew from its
append-only file.
"""

from __future__ import annotations

import itertools
import random
import socket
import subprocess
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import conduct

PORT = 6379
SOCKET = conduct.directory / "redis.sock"
CLIENTS = 3
failures: list[str] = []
commands: list[int] = []


class Connection:
    """The Redis protocol, as much as is needed: requests as arrays, answers of every type."""

    def __init__(self, number: int = 0) -> None:
        if number % 2:
            self.socket = socket.create_connection(("127.0.0.1", PORT))
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(str(SOCKET))
        self.file = self.socket.makefile("rb")

    def send(self, *words: Any) -> None:
        parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        text = b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
        self.socket.sendall(b"*%d\r\n" % len(parts) + text)

    def receive(self) -> Any:
        line = self.file.readline()
        assert line.endswith(b"\r\n"), f"the connection has ended: {line!r}"
        kind, rest = line[:1], line[1:-2]
        if kind in b":":
            return int(rest)
        if kind == b"+":
            return rest
        if kind == b"$":
            if int(rest) < 0:
                return None
            data = self.file.read(int(rest) + 2)
            return data[:-2]
        if kind == b"*":
            return None if int(rest) < 0 else [self.receive() for _ in range(int(rest))]
        raise AssertionError(f"the server says {line!r}")

    def __call__(self, *words: Any) -> Any:
        self.send(*words)
        commands.append(1)
        return self.receive()


def expect(got: Any, wanted: Any) -> None:
    assert got == wanted, f"{str(got)[:200]} instead of {str(wanted)[:200]}"


class Model:
    """One client's keys, and what must be in them."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.dice = random.Random(number)
        self.counters: dict[str, int] = {}
        self.list: list[bytes] = []
        self.hash: dict[bytes, bytes] = {}
        self.blob = b""

    def key(self, name: str) -> str:
        return f"client:{self.number}:{name}"

    def work(self, server: Connection) -> None:
        """One random step."""
        dice = self.dice
        step: Callable[[Connection], None] = dice.choice(
            [self.count, self.pipeline, self.push, self.set_hash, self.transaction, self.put_blob]
        )
        step(server)

    def bump(self) -> str:
        name = self.key(f"counter:{self.dice.randrange(50)}")
        self.counters[name] = self.counters.get(name, 0) + 1
        return name

    def count(self, server: Connection) -> None:
        name = self.bump()
        expect(server("INCR", name), self.counters[name])

    def pipeline(self, server: Connection) -> None:
        wanted = []
        for _ in range(self.dice.randint(2, 60)):
            name = self.bump()
            wanted.append(self.counters[name])
            server.send("INCR", name)
        expect([server.receive() for _ in wanted], wanted)
        commands.extend([1] * len(wanted))

    def push(self, server: Connection) -> None:
        name = self.key("list")
        if len(self.list) > 100:
            expect(server("LPOP", name), self.list.pop(0))
        else:
            value = self.dice.randbytes(self.dice.randint(1, 300))
            self.list.append(value)
            expect(server("RPUSH", name, value), len(self.list))

    def set_hash(self, server: Connection) -> None:
        field, value = b"%d" % self.dice.randrange(500), self.dice.randbytes(20)
        new = field not in self.hash
        self.hash[field] = value
        expect(server("HSET", self.key("hash"), field, value), int(new))

    def transaction(self, server: Connection) -> None:
        one, other = self.bump(), self.bump()
        expect(server("MULTI"), b"OK")
        expect(server("INCR", one), b"QUEUED")
        expect(server("INCR", other), b"QUEUED")
        last = self.counters[other]
        expect(server("EXEC"), [self.counters[one] - (one == other), last])

    def put_blob(self, server: Connection) -> None:
        self.blob = self.dice.randbytes(1000) * self.dice.randint(1, 400)
        expect(server("SET", self.key("blob"), self.blob), b"OK")
        expect(server("GET", self.key("blob")), self.blob)

    def check(self, server: Connection) -> None:
        """Everything, at the end."""
        for name, value in self.counters.items():
            expect(server("GET", name), b"%d" % value)
        expect(server("LRANGE", self.key("list"), 0, -1), self.list)
        answer = server("HGETALL", self.key("hash"))
        expect(dict(zip(answer[::2], answer[1::2], strict=True)), self.hash)
        expect(server("GET", self.key("blob")) or b"", self.blob)


def run(body: Callable[[], None]) -> threading.Thread:
    """A thread whose failure is noted."""

    def guarded() -> None:
        try:
            body()
        except BaseException:
            failures.append(traceback.format_exc())

    thread = threading.Thread(target=guarded)
    thread.start()
    return thread


def over() -> bool:
    return bool(failures) or conduct.stopping()


def client(model: Model) -> None:
    server = Connection(model.number)
    count = 0
    while not over():
        model.work(server)
        count += 1
        if count % 200 == 0:
            server = Connection(model.number)  # the old one is closed
    model.check(server)


def ping_pong(own: str, other: str) -> None:
    """Wait in the server for what the other one pushes."""
    server = Connection(own == "pong")
    expected = 0
    while not over():
        answer = server("BLPOP", own, 20)
        if answer is None:
            continue
        expect(answer, [own.encode(), b"%d" % expected])
        expected += 1
        server("RPUSH", other, expected if own == "pong" else expected - 1)


def subscriber(server: Connection) -> None:
    expected = 1
    while True:
        kind, _channel, value = server.receive()
        expect(kind, b"message")
        if value == b"end":
            return
        expect(int(value), expected)
        expected += 1


def publisher() -> None:
    server = Connection()
    number = 1
    while not over():
        expect(server("PUBLISH", "news", number), 1)
        number += 1
    server("PUBLISH", "news", "end")


def saver() -> None:
    """Let the server fork, again and again."""
    server = Connection()
    saves = 0
    while not over():
        # The server may just have begun to save by itself: then it does ours afterwards.
        server(*(("BGSAVE", "SCHEDULE") if saves % 2 else ("BGREWRITEAOF",)))
        saves += 1
        busy = True
        while busy:
            info = dict(
                line.split(b":") for line in server("INFO", "persistence").split() if b":" in line
            )
            expect(info[b"rdb_last_bgsave_status"], b"ok")
            expect(info[b"aof_last_bgrewrite_status"], b"ok")
            busy = info[b"rdb_bgsave_in_progress"] + info[b"aof_rewrite_in_progress"] != b"00"
            time.sleep(0.02)


def benchmark() -> None:
    networks = itertools.cycle([["-p", str(PORT)], ["-s", str(SOCKET)]])
    options = ["-q", "-c", "10", "-n", "2000", "-P", "4", "-t", "set,get,incr,lpush,lpop,mset"]
    while not over():
        done = subprocess.run(
            ["redis-benchmark", *next(networks), *options],
            capture_output=True,
            text=True,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0 and "rror" not in said, said


def start_server() -> subprocess.Popen[bytes]:
    server = subprocess.Popen(
        [
            *("redis-server", "--port", str(PORT), "--unixsocket", str(SOCKET)),
            *("--dir", str(conduct.directory)),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", "3 100"),
            *("--auto-aof-rewrite-percentage", "0"),  # the saver lets it rewrite
        ]
    )
    conduct.wait_for(answers, what="the server")
    return server


def answers() -> bool:
    try:
        return bool(Connection()("PING") == b"PONG")
    except (OSError, AssertionError):  # not yet there, or still loading
        return False


def main() -> None:
    process = start_server()
    models = [Model(number) for number in range(CLIENTS)]
    listener = Connection(1)
    expect(listener("SUBSCRIBE", "news"), [b"subscribe", b"news", 1])
    Connection()("RPUSH", "ping", 0)
    threads = [run(lambda model=model: client(model)) for model in models]  # type: ignore[misc]
    threads += [run(lambda: ping_pong("ping", "pong")), run(lambda: ping_pong("pong", "ping"))]
    threads += [run(lambda: subscriber(listener)), run(publisher), run(saver), run(benchmark)]
    conduct.wait_for(lambda: len(commands) > 500 or failures, what="the load")
    conduct.ready()
    for thread in threads:
        thread.join()
    assert not failures, "\n".join(failures)
    assert process.poll() is None
    Connection().send("SHUTDOWN")
    assert process.wait(60) == 0
    (manifest,) = Path(conduct.directory).glob("appendonlydir/*.manifest")
    subprocess.run(["redis-check-aof", manifest], check=True)
    process = start_server()
    server = Connection()
    for model in models:
        model.check(server)
    server.send("SHUTDOWN", "NOSAVE")
    assert process.wait(60) == 0
    conduct.done(f"{len(commands)} commands")


main()
