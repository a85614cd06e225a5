"""Real servers on loopback that a store can lie on, for as long as a test run needs them."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import bcrypt
from moto.server import ThreadedMotoServer

from tests.support.wait import wait_until


@contextlib.contextmanager
def sshd(base: Path, sftp_server: str = "internal-sftp") -> Iterator[tuple[int, Path]]:
    """OpenSSH's server, with a host key and a user's key of its own.

    It runs in a mount namespace where root has no locked password, as some systems ship it.

    Args:
        base: A directory for it.
        sftp_server: Command of its ``sftp`` subsystem.

    Yields:
        Its port, and a home directory whose ``.ssh`` is made for it.
    """
    home = base / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    for key in (base / "host_key", home / ".ssh" / "id_ed25519"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(key)],
            check=True,
        )
    (base / "shadow").write_text("root:*:19000:0:99999:7:::\n")
    kind, blob, _ = (base / "host_key.pub").read_text().split()
    while True:  # a port that was free a moment ago may be somebody's by now
        port = _free_port()
        (home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {blob}\n")
        (base / "sshd_config").write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {base}/host_key\n"
            f"AuthorizedKeysFile {home}/.ssh/id_ed25519.pub\nPidFile none\n"
            "PermitRootLogin prohibit-password\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\n"
            f"Subsystem sftp {sftp_server}\n"
        )
        script = (
            'mount --bind "$1/shadow" /etc/shadow && mount -t tmpfs -o mode=755 tmpfs /run &&'
            ' mkdir /run/sshd && exec "$2" -D -e -f "$1/sshd_config"'
        )
        program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin") or "sshd"
        command = ["unshare", "--mount", "sh", "-c", script, "sh", str(base), program]
        with _running(command, base / "sshd.log") as server:
            wait_until(
                lambda server=server: (
                    server.poll() is not None  # type: ignore[misc]
                    or "listening" in (base / "sshd.log").read_text()
                ),
                what="sshd",
            )
            if server.poll() is None:
                yield port, home
                return
            said = (base / "sshd.log").read_text()
            assert "Address already in use" in said, said


@contextlib.contextmanager
def docker_registry(
    base: Path, *, login: tuple[str, str] | None = None, may_remove: bool = True
) -> Iterator[int]:
    """The distribution registry of Debian's ``docker-registry``.

    Args:
        base: A directory for it.
        login: Name and password that it wants.
        may_remove: Whether it lets manifests be removed.

    Yields:
        Its port.
    """
    base.mkdir(parents=True, exist_ok=True)
    (base / "config.yml").write_text(
        f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {base}/data\n"
        f"  delete:\n    enabled: {str(may_remove).lower()}\n"
        "http:\n  addr: 127.0.0.1:0\n"
    )
    if login is not None:
        hashed = bcrypt.hashpw(login[1].encode(), bcrypt.gensalt(4)).decode()
        (base / "htpasswd").write_text(f"{login[0]}:{hashed}\n")
        with (base / "config.yml").open("a") as config:
            config.write(f"auth:\n  htpasswd:\n    realm: test\n    path: {base}/htpasswd\n")
    log = base / "registry.log"
    with _running(["docker-registry", "serve", str(base / "config.yml")], log):
        ports = wait_until(
            lambda: re.findall(r"listening on 127\.0\.0\.1:(\d+)", log.read_text()),
            what="docker-registry",
        )
        yield int(ports[0])


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """moto's S3 over HTTP: no server of Debian's speaks S3 without a cluster behind it.

    Yields:
        Its URL.
    """
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    try:
        _, port = server.get_host_and_port()
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()


class Answer(NamedTuple):
    """What an HTTP server says; the body need not be as long as the headers claim."""

    status: int
    headers: dict[str, str] = {}
    body: bytes = b""


@contextlib.contextmanager
def http_server(answer: Callable[[str, str, Mapping[str, str]], Answer]) -> Iterator[str]:
    """A server that says what it is told to.

    Args:
        answer: Called with method, path with query, and headers of each request.

    Yields:
        Its URL.
    """

    class Handler(BaseHTTPRequestHandler):
        def _respond(self) -> None:
            if self.headers.get("Expect") == "100-continue":
                self.handle_expect_100()  # the client would wait a second for it
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            said = answer(self.command, self.path, dict(self.headers))
            self.send_response(said.status)
            for name, value in said.headers.items():
                self.send_header(name, value)
            if "Content-Length" not in said.headers:
                self.send_header("Content-Length", str(len(said.body)))
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(said.body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _respond  # noqa: N815

        def log_message(self, *_args: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def _running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server that ends with the block, also when this process is killed."""

    with log.open("wb") as output:
        server = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield server
    finally:
        # A session of its own, so that those who serve single connections go, too.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
