"""A client of Redis that never rests: ``redis_client.py HOST FOLDER MEBIBYTES``.

It fills Redis, makes FOLDER/ready, and then reads and writes over one connection until FOLDER/stop
appears. In the end it reads everything once more, and FOLDER/found says in JSON how many calls it
made and which of them took longer than 50 ms. When an answer is wrong it says so in FOLDER/trouble.
"""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import time
from pathlib import Path

PORT = 6379
VALUE = 1 << 20
SLOW_MS = 50.0


class Redis:
    """A connection that speaks RESP, as redis.io describes it.

    Attributes:
        calls: So far.
        slow: How long each slow one took, in milliseconds.
    """

    def __init__(self, host: str) -> None:
        self._socket = socket.create_connection((host, PORT), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = self._socket.makefile("rb")
        self.calls = 0
        self.slow: list[float] = []

    def call(self, *words: bytes) -> bytes:
        """One command and its answer; an empty one for none."""
        began = time.monotonic()
        parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
        self._socket.sendall(b"*%d\r\n" % len(words) + b"".join(parts))
        line = self._answers.readline()
        kind, rest = line[:1], line[1:-2]
        assert kind in b"+:$" and line.endswith(b"\r\n"), line
        if kind == b"$":
            size = int(rest)
            rest = self._answers.read(size + 2)[:size] if size >= 0 else b""
        took = (time.monotonic() - began) * 1e3
        self.calls += 1
        if took > SLOW_MS:
            self.slow.append(round(took, 1))
        return rest


def main() -> None:
    """Fill it, use it, and check it."""
    host, folder, mebibytes = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    redis, dice = Redis(host), random.Random(6)
    try:
        for number in range(mebibytes):
            redis.call(b"SET", b"big:%d" % number, os.urandom(VALUE))
        redis.slow.clear()
        (folder / "ready").touch()
        written: dict[bytes, bytes] = {}
        count = 0
        while not (folder / "stop").exists():
            for _ in range(50):
                count += 1
                answer = redis.call(b"INCR", b"count")
                assert int(answer) == count, (answer, count)
                key, value = b"key:%d" % dice.randrange(5000), b"%d" % dice.getrandbits(64)
                assert redis.call(b"SET", key, value) == b"OK"
                written[key] = value
                seen = dice.choice(list(written)) if count % 50 == 0 else key
                assert redis.call(b"GET", seen) == written[seen], seen
        slow = list(redis.slow)
        for key, value in written.items():
            assert redis.call(b"GET", key) == value, key
        for number in range(mebibytes):
            assert redis.call(b"STRLEN", b"big:%d" % number) == b"%d" % VALUE
        found = {"calls": redis.calls, "slow_ms": slow}
        (folder / "found").write_text(json.dumps(found))
    except BaseException as exc:
        (folder / "trouble").write_text(repr(exc))
        raise


main()
