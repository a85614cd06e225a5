"""An asyncio loop with timers, streams over a socket pair, a server, threads and a subprocess."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

from act import control, put, workload


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line.upper())
        await writer.drain()
    writer.close()


async def tick(counter: list[int]) -> None:
    while True:
        await asyncio.sleep(0.005)
        counter[0] += 1


async def main() -> None:
    counter = [0]
    ticking = asyncio.create_task(tick(counter))
    server = await asyncio.start_unix_server(echo, str(control / "echo"))
    reader, writer = await asyncio.open_unix_connection(str(control / "echo"))
    left, right = socket.socketpair()
    left_reader, left_writer = await asyncio.open_connection(sock=left)
    _right_reader, right_writer = await asyncio.open_connection(sock=right)
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import sys\nfor line in sys.stdin: print(int(line) + 1, flush=True)",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None

    to_child, from_child = child.stdin, child.stdout

    async def add_one(number: int) -> int:
        to_child.write(f"{number}\n".encode())
        await to_child.drain()
        return int(await from_child.readline())

    writer.write(b"hello\n")
    assert await reader.readline() == b"HELLO\n"
    assert await add_one(41) == 42
    pending = asyncio.create_task(left_reader.readline())
    future = asyncio.get_running_loop().run_in_executor(None, (control / "go").exists)
    await future

    put("ready", "1")
    while not (control / "go").exists():
        await asyncio.sleep(0.005)

    before = counter[0]
    while counter[0] < before + 10:
        await asyncio.sleep(0.01)
    assert not pending.done()
    right_writer.write(b"late\n")
    assert await asyncio.wait_for(pending, 10) == b"late\n"
    writer.write(b"again\n")
    assert await asyncio.wait_for(reader.readline(), 10) == b"AGAIN\n"
    second_reader, second_writer = await asyncio.open_unix_connection(str(control / "echo"))
    second_writer.write(b"new\n")
    assert await asyncio.wait_for(second_reader.readline(), 10) == b"NEW\n"
    assert await asyncio.wait_for(add_one(99), 10) == 100
    to_child.close()
    assert await asyncio.wait_for(child.wait(), 10) == 0
    ticking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await ticking
    for stream in (writer, second_writer, left_writer, right_writer):
        stream.close()
    server.close()
    await asyncio.sleep(0.05)  # the server's side sees the ends


with workload():
    asyncio.run(main())
