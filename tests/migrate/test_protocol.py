"""Frames and messages, and a far side that means harm."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import socket
import struct
import threading
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from formats import wire
from formats.errors import WherryError
from formats.records.codec import Record, kind_of, pack_record
from migrate.errors import MigrateError, ProtocolError, RemoteError, TransportError
from migrate.hello import common_version, exchange, own_hello
from migrate.messages import (
    MESSAGES,
    Abort,
    Answer,
    Commit,
    DataEnd,
    Failed,
    HeldFrame,
    Hello,
    OfferContainer,
    Outlet,
    PageState,
    Phase,
    Ping,
    Ready,
    Reason,
    Refuse,
    Wish,
)
from migrate.protocol import (
    GREETING,
    MAX_DATA_SIZE,
    MAX_MESSAGE_SIZE,
    DataSink,
    DataSource,
    Peer,
)
from migrate.transport import DescriptorChannel


@contextlib.contextmanager
def peers(timeout_s: float = 5.0) -> Iterator[tuple[Peer, Peer]]:
    """Two ends of one conversation."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield _peer(ours, timeout_s), _peer(theirs, timeout_s)


def _peer(sock: socket.socket, timeout_s: float = 5.0) -> Peer:
    return Peer(DescriptorChannel(sock.fileno(), sock.fileno()), timeout_s=timeout_s)


@contextlib.contextmanager
def hostile(data: bytes) -> Iterator[Peer]:
    """A peer whose far side sends *data* and hangs up."""
    ours, theirs = socket.socketpair()
    with ours:
        sender = threading.Thread(target=_send_and_close, args=(theirs, data))
        sender.start()
        try:
            yield _peer(ours)
        finally:
            ours.shutdown(socket.SHUT_RDWR)
            sender.join()


def _send_and_close(sock: socket.socket, data: bytes) -> None:
    with sock, contextlib.suppress(OSError):
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(1 << 16):
            pass


def _frame(kind: int, payload: bytes) -> bytes:
    return struct.pack("<B3xI", kind, len(payload)) + payload


def _sample(cls: type[Any]) -> Any:
    """An instance with a value of the right type in every field."""
    samples: dict[object, object] = {
        int: 7,
        str: "x",
        bytes: b"x",
        bool: True,
        Phase: Phase.PREPARED,
        Wish: Wish.FINISH,
        PageState: PageState.WANTED,
        tuple[int, ...]: (1, 2),
        tuple[str, ...]: ("a",),
        tuple[Reason, ...]: (Reason("r", "s", "t"),),
        tuple[Outlet, ...]: (Outlet("veth[eth0]", "br0"),),
        tuple[HeldFrame, ...]: (HeldFrame(2, b"frame"),),
    }
    hints = typing.get_type_hints(cls)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    return cls(**{name: samples.get(hint, {"a": [1, None]}) for name, hint in fields.items()})


@pytest.mark.parametrize("cls", MESSAGES, ids=lambda cls: cls.__name__)
def test_every_message_arrives(cls: type[Record]) -> None:
    message = _sample(cls)
    with peers() as (near, far):
        near.send(message)
        if cls in (Ping, Failed, Abort):
            near.send(Ready("after"))
            with contextlib.suppress(RemoteError):
                assert far.receive(Ready) == Ready("after")
        else:
            assert far.receive(cls) == message


def test_greeting_and_hello() -> None:
    with peers() as (near, far):
        answers: list[Hello] = []
        thread = threading.Thread(target=lambda: answers.append(exchange(far)))
        thread.start()
        assert exchange(near) == own_hello()
        thread.join()
        assert answers == [own_hello()]


@pytest.mark.parametrize("noise", [b"Welcome to b!\n", b"WHERRY-MIGRATE 2\n", b"\0" * 40, b"W"])
def test_noise_is_no_wherry(noise: bytes) -> None:
    with hostile(noise) as peer, pytest.raises((ProtocolError, TransportError)) as caught:
        peer.greet()
    if len(noise) > 1:
        assert caught.value.reason == "no-wherry"


def test_no_common_version_names_both() -> None:
    theirs = dataclasses.replace(own_hello(), versions=(9, 8), wherry="9.1", hostname="far")
    with pytest.raises(ProtocolError, match=r"9\.1 on far speaks protocol 9, 8, this one 1"):
        common_version(theirs)


def test_the_far_sides_failure_is_told_in_its_words() -> None:
    with peers() as (near, far):
        far.send(Ping())
        far.send(Failed("disk-full", "the disk over there is full"))
        with pytest.raises(RemoteError, match="over there is full") as caught:
            near.receive(Ready)
        assert caught.value.reason == "disk-full"


def test_refusals_arrive_all() -> None:
    with peers() as (near, far):
        far.send(Refuse((Reason("a", "x", "first"), Reason("b", "y", "second"))))
        assert [item.reason for item in near.receive(Refuse).refusals] == ["a", "b"]


def test_silence_ends() -> None:
    with peers(timeout_s=0.05) as (near, _far), pytest.raises(TransportError) as caught:
        near.receive(Ready)
    assert caught.value.reason == "timeout"


@pytest.mark.parametrize("sizes", [[], [1], [10, 300_000, 5], [3 << 20], [1 << 20] * 3])
def test_data_arrives_in_order(sizes: list[int]) -> None:
    blocks = [random.Random(index).randbytes(size) for index, size in enumerate(sizes)]
    with peers() as (near, far):

        def send() -> None:
            sink = DataSink(near)
            for block in blocks:
                sink.write(block)
            sink.finish()
            near.send(Ready("next"))

        thread = threading.Thread(target=send)
        thread.start()
        source = DataSource(far)
        received = b"".join(iter(lambda: source.read(100_000) or b"", b""))
        source.drain()
        assert far.receive(Ready) == Ready("next")
        thread.join()
        assert received == b"".join(blocks)
        assert near.sent_bytes == far.received_bytes == len(received)


def test_more_data_than_the_image_is_noticed() -> None:
    with hostile(_frame(2, b"tail")) as peer, pytest.raises(ProtocolError, match="goes on"):
        DataSource(peer).drain()


def test_a_wrong_count_is_noticed() -> None:
    end = DataEnd(3)
    bad = _frame(2, b"four") + _frame(1, wire.pack([kind_of(end), pack_record(end)]))
    with hostile(bad) as peer, pytest.raises(ProtocolError, match="4 bytes of data came"):
        DataSource(peer).readall()


HOSTILE = {
    "unknown frame type": _frame(3, b"x"),
    "zero type": _frame(0, b"x"),
    "reserved bytes set": b"\x01\x01\0\0" + struct.pack("<I", 1) + b"x",
    "empty message": _frame(1, b""),
    "oversized message": struct.pack("<B3xI", 1, MAX_MESSAGE_SIZE + 1),
    "oversized data": struct.pack("<B3xI", 2, MAX_DATA_SIZE + 1),
    "four gigabytes": struct.pack("<B3xI", 1, 0xFFFFFFFF),
    "data out of place": _frame(2, b"x"),
    "no msgpack": _frame(1, b"\xc1\xc1\xc1"),
    "no pair": _frame(1, wire.pack({"a": 1})),
    "unknown kind": _frame(1, wire.pack(["migrate-nonsense", {}])),
    "an image's record": _frame(1, wire.pack(["vma", {}])),
    "fields missing": _frame(1, wire.pack(["migrate-commit", {}])),
    "wrong type": _frame(1, wire.pack(["migrate-commit", {"token": 5}])),
    "unexpected message": _frame(1, wire.pack(["migrate-ready", {"path": ""}])),
    "deep nesting": _frame(1, b"\x91" * 100_000 + b"\xc0"),
    "huge array header": _frame(1, b"\xdd\xff\xff\xff\xff"),
    "huge text header": _frame(1, b"\xdb\xff\xff\xff\xffx"),
    "trailing bytes": _frame(1, wire.pack(["migrate-commit", {"token": "x"}]) + b"\0"),
    "extension type": _frame(1, b"\xc7\x01\x05x"),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_frames_are_refused(data: bytes) -> None:
    with hostile(data) as peer, pytest.raises(ProtocolError):
        peer.receive(Commit)


@pytest.mark.parametrize("cut", [0, 1, 4, 7, 8, 9, 20])
def test_a_truncated_message_is_a_lost_connection(cut: int) -> None:
    whole = _frame(1, wire.pack(["migrate-commit", {"token": "x" * 32}]))
    with hostile(whole[:cut]) as peer, pytest.raises(TransportError, match="hung up"):
        peer.receive(Commit)


def _conversation() -> bytes:
    """Bytes as a real source sends them."""
    offer = OfferContainer("0" * 32, "c", "c", "", {"process": {"args": ["x"]}}, 1 << 20)
    messages: list[Record] = [own_hello(), offer, DataEnd(4), Commit("0" * 32)]
    frames = [_frame(1, wire.pack([kind_of(item), pack_record(item)])) for item in messages]
    frames.insert(2, _frame(2, b"data"))
    return GREETING + b"".join(frames)


def _read_all(peer: Peer) -> None:
    """Take part as a destination does, without doing anything."""
    peer.greet()
    peer.receive(Hello)
    peer.receive(OfferContainer)
    DataSource(peer).readall()
    peer.receive(Commit)


def _flip(data: bytearray, dice: random.Random) -> bytearray:
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return data


def _cut(data: bytearray, dice: random.Random) -> bytearray:
    return data[: dice.randrange(len(data))]


def _splice(data: bytearray, dice: random.Random) -> bytearray:
    at = dice.randrange(len(data))
    return data[:at] + dice.randbytes(dice.randrange(1, 40)) + data[at:]


def _swap(data: bytearray, dice: random.Random) -> bytearray:
    at = dice.randrange(len(data))
    return data[at:] + data[:at]


@pytest.mark.parametrize("damage", [_flip, _cut, _splice, _swap])
def test_damaged_conversations_end_in_a_sentence(
    damage: Callable[[bytearray, random.Random], bytearray],
) -> None:
    dice = random.Random(17)
    for _ in range(150):
        with hostile(bytes(damage(bytearray(_conversation()), dice))) as peer:
            try:
                _read_all(peer)
            except MigrateError as exc:
                assert str(exc)
            except WherryError as exc:  # anything else would be the image's error, not ours
                pytest.fail(f"{type(exc).__name__}: {exc}")


def test_the_undamaged_conversation_is_read() -> None:
    with hostile(_conversation()) as peer:
        _read_all(peer)


def test_answers_carry_the_phase() -> None:
    with peers() as (near, far):
        near.send(Answer(Phase.COMMITTED, "c", ""))
        assert far.receive(Answer).phase is Phase.COMMITTED
