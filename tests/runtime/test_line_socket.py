"""JSON lines and descriptors over real sockets."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from runtime.line_socket import MAX_LINE, LineSocket, connect, listen, peer_uid


def pair() -> tuple[LineSocket, LineSocket]:
    left, right = socket.socketpair()
    return LineSocket(left), LineSocket(right)


def test_messages_arrive_whole_and_in_order() -> None:
    left, right = pair()
    with left, right:
        left.send({"n": 1})
        left.send({"text": "ünï\ncode"})
        assert right.receive() == {"n": 1}
        assert right.receive() == {"text": "ünï\ncode"}
        left.close()
        assert right.receive() is None


def test_a_message_larger_than_the_socket_buffer() -> None:
    left, right = pair()
    with left, right:
        message = {"env": ["x" * 1000] * 1000}
        sender = threading.Thread(target=left.send, args=(message,))
        sender.start()
        assert right.receive() == message
        sender.join()


def test_descriptors_come_with_their_message() -> None:
    left, right = pair()
    reader, writer = os.pipe()
    with left, right:
        left.send({"op": "exec"}, [writer])
        os.close(writer)
        assert right.receive() == {"op": "exec"}
        (received,) = right.take_fds()
        assert not os.get_inheritable(received)
        os.write(received, b"through")
        os.close(received)
    assert os.read(reader, 100) == b"through"
    os.close(reader)


def test_descriptors_that_nobody_took_are_closed() -> None:
    left, right = pair()
    reader, writer = os.pipe()
    left.send({}, [writer])
    os.close(writer)
    right.receive()
    right.close()
    assert os.read(reader, 1) == b""  # no writer is left
    os.close(reader)
    left.close()


@pytest.mark.parametrize("line", [b"[1]\n", b"no json\n", b"\xff\n"])
def test_what_is_no_object_is_refused(line: bytes) -> None:
    left, right = pair()
    with left, right:
        left.sock.sendall(line)
        with pytest.raises(ValueError):
            right.receive()


def test_a_line_without_end_is_refused() -> None:
    left, right = pair()

    def flood() -> None:
        try:
            for _ in range(MAX_LINE // 65536 + 2):
                left.sock.sendall(b"x" * 65536)
        except OSError:
            pass

    with left, right:
        sender = threading.Thread(target=flood)
        sender.start()
        with pytest.raises(ValueError, match="more than"):
            right.receive()
        right.close()
        sender.join()


def test_a_socket_under_a_path_of_any_length(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    path = directory / "monitor.sock"
    with listen(path) as listener:
        assert path.stat().st_mode & 0o777 == 0o600
        with connect(path) as client:
            accepted, _ = listener.accept()
            with LineSocket(accepted) as server:
                assert peer_uid(accepted) == os.geteuid()
                client.send({"op": "wait"})
                assert server.receive() == {"op": "wait"}
    with pytest.raises(ConnectionRefusedError):
        connect(path)
    with pytest.raises(FileNotFoundError):
        connect(directory / "other.sock")
