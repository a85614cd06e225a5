"""asyncio servers and clients over TCP, UDP and UNIX sockets: ``streams.py DIRECTORY``.

Each answer is checked; in between there are timers, subprocesses, signals and threads of the event
loop's own kind.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import struct
import sys
from collections import Counter
from typing import cast

import conduct

counts: Counter[str] = Counter()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Frames in, digests out; a frame of no length ends the connection."""
    while True:
        (size,) = struct.unpack("<I", await reader.readexactly(4))
        if not size:
            break
        data = await reader.readexactly(size)
        writer.write(hashlib.sha256(data).digest())
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def talk(number: int, port: int, path: str) -> None:
    """Many connections, one after the other, with several frames on their way each."""
    dice = random.Random(number)
    while not conduct.stopping():
        if number % 2:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        else:
            reader, writer = await asyncio.open_unix_connection(path)
        for _ in range(dice.randint(1, 30)):
            frames = [dice.randbytes(dice.choice([1, 1000, 300_000])) for _ in range(3)]
            for frame in frames:
                writer.write(struct.pack("<I", len(frame)) + frame)
            for frame in frames:
                got = await asyncio.wait_for(reader.readexactly(32), 60)
                assert got == hashlib.sha256(frame).digest()
            counts["frames"] += 3
        writer.write(struct.pack("<I", 0))
        assert await asyncio.wait_for(reader.read(), 60) == b"", "bytes after the end"
        writer.close()
        await writer.wait_closed()


class Echo(asyncio.DatagramProtocol):
    """Sends back what comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data, addr)


class Answers(asyncio.DatagramProtocol):
    """Keeps what comes."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.queue.put_nowait(data)


async def datagrams(port: int) -> None:
    loop = asyncio.get_running_loop()
    transport, answers = await loop.create_datagram_endpoint(
        Answers, remote_addr=("127.0.0.1", port)
    )
    number = 0
    while not conduct.stopping():
        for _ in range(5):
            number += 1
            transport.sendto(b"%d" % number)
        for wanted in range(number - 4, number + 1):
            assert int(await asyncio.wait_for(answers.queue.get(), 60)) == wanted
        counts["datagrams"] += 5
    transport.close()


async def children() -> None:
    while not conduct.stopping():
        text = os.urandom(20).hex().encode()
        child = await asyncio.create_subprocess_exec(
            "/bin/cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await asyncio.wait_for(child.communicate(text), 60)
        assert out == text and child.returncode == 0
        counts["children"] += 1


async def signals() -> None:
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, arrived.set)
    while not conduct.stopping():
        arrived.clear()
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.wait_for(arrived.wait(), 60)
        counts["signals"] += 1
        await asyncio.sleep(0.001)


async def timers() -> None:
    loop = asyncio.get_running_loop()
    while not conduct.stopping():
        began = loop.time()
        await asyncio.sleep(0.004)
        assert loop.time() - began >= 0.003, "a sleep was too short"
        value = await loop.run_in_executor(None, hashlib.md5, b"thread")
        assert value.hexdigest() == hashlib.md5(b"thread").hexdigest()
        counts["ticks"] += 1


async def main() -> None:
    path = str(conduct.directory / "socket")
    tcp = await asyncio.start_server(answer, "127.0.0.1", 0)
    unix = await asyncio.start_unix_server(answer, path)
    port = tcp.sockets[0].getsockname()[1]
    udp, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        Echo, local_addr=("127.0.0.1", 0)
    )
    udp_port = udp.get_extra_info("sockname")[1]
    tasks = [asyncio.create_task(talk(number, port, path)) for number in range(8)]
    work = (datagrams(udp_port), children(), signals(), timers())
    tasks += [asyncio.create_task(each) for each in work]
    while counts["frames"] < 50 and not any(task.done() for task in tasks):
        await asyncio.sleep(0.01)
    conduct.ready()
    await asyncio.gather(*tasks)
    udp.close()
    tcp.close()
    unix.close()
    assert min(counts.values()) > 5, counts
    conduct.done(f"{counts['frames']} frames {dict(counts)}")


if sys.platform == "linux":
    asyncio.run(main())
