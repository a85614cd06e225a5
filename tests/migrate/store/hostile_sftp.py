"""An SFTP server that lies, as sshd's subsystem: the path that is asked for says how.

It imports nothing but the standard library; draft-ietf-secsh-filexfer-02 is what it breaks.
"""

from __future__ import annotations

import struct
import sys

INIT, VERSION, OPEN, CLOSE, READ, LSTAT, FSTAT, OPENDIR, READDIR, STAT = (
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    11,
    12,
    17,
)
STATUS, HANDLE, DATA, NAME, ATTRS = 101, 102, 103, 104, 105
OK, EOF, FAILURE = 0, 1, 4

_SIZES = {"/huge": 1 << 62, "/short": 100_000, "/garbage": 10, "/longer": 10}
_LISTED = {
    "/dots": "..x/../../etc/passwd",
    "/absolute": "/etc/passwd",
    "/odd": "config\0.txt",
}


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _attributes(size: int, mode: int) -> bytes:
    return struct.pack(">IQI", 0x1 | 0x4, size, mode)


def _send(kind: int, body: bytes) -> None:
    sys.stdout.buffer.write(struct.pack(">IB", len(body) + 1, kind) + body)
    sys.stdout.buffer.flush()


def _status(number: bytes, code: int) -> None:
    _send(STATUS, number + struct.pack(">I", code) + _string(b"") + _string(b""))


def _first_string(body: bytes) -> str:
    (length,) = struct.unpack_from(">I", body)
    return body[4 : 4 + length].decode()


def _answer(kind: int, number: bytes, body: bytes, told: set[str]) -> None:
    if kind in (OPEN, OPENDIR):
        _send(HANDLE, number + _string(_first_string(body).encode()))
        return
    path = _first_string(body)
    way = "/" + path.split("/")[1]
    if kind in (FSTAT, STAT, LSTAT):
        _send(ATTRS, number + _attributes(_SIZES.get(way, 0), 0o100600))
    elif kind == READ and way == "/garbage":
        sys.stdout.buffer.write(b"\xff" * 64)
        sys.stdout.buffer.flush()
    elif kind == READ and way == "/longer":
        _send(DATA, number + _string(b"x" * 5000))
    elif kind == READ and path not in told:
        told.add(path)
        _send(DATA, number + _string(b"x" * 100))
    elif kind == READDIR and way in _LISTED and path not in told:
        told.add(path)
        name = _LISTED[way].encode()
        entry = _string(name) + _string(name) + _attributes(3, 0o100600)
        _send(NAME, number + struct.pack(">I", 1) + entry)
    elif kind in (READ, READDIR):
        _status(number, EOF)
    else:
        _status(number, OK if kind == CLOSE else FAILURE)


def main() -> None:
    """Answer until the client hangs up."""
    told: set[str] = set()
    while len(head := sys.stdin.buffer.read(5)) == 5:
        length, kind = struct.unpack(">IB", head)
        body = sys.stdin.buffer.read(length - 1)
        if kind == INIT:
            _send(VERSION, struct.pack(">I", 3))
        else:
            _answer(kind, body[:4], body[4:], told)


if __name__ == "__main__":
    main()
