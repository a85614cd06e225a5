"""SSH connections that behave as ``ssh`` users expect, and the only home of paramiko.

Aliases, ports, users, keys, proxies and known-hosts files come from ``~/.ssh/config`` and the
command line (ssh_config.py). A host whose key is not known is refused unless
``StrictHostKeyChecking`` says otherwise, and one whose key has changed is refused always, before
anything is sent (known_hosts.py).

Speed: AES-GCM is preferred, because it is one pass over the data in one call of the crypto
library, and windows are large enough for a long fat line. Nothing is compressed here: images are.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import paramiko
from paramiko.pkey import UnknownKeyType

from migrate import known_hosts
from migrate.destination import Destination
from migrate.errors import HostKeyError, LoginError, MigrateError, TransportError
from migrate.known_hosts import Verdict
from migrate.ssh_config import Found, HostSettings, SshOptions, settle
from migrate.transport import Buffer

log = logging.getLogger(__name__)

WINDOW_SIZE = 64 << 20  # bytes the far side may send before we have read any
MAX_PACKET_SIZE = 256 << 10  # of packets to us; the server names its own limit for ours
KEEPALIVE_S = 10
DEAD_AFTER_MS = 15_000  # unacknowledged data or keepalives for so long: the far host is gone
STDERR_KEPT = 8192
_THREAD_ENDS_WITHIN_S = 5.0
PREFERRED_CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)
_RSA_ALGORITHMS = ("rsa-sha2-512", "rsa-sha2-256")

Ask = Callable[[str], str | None]
"""Asks the person at the terminal for a secret; None when there is nobody or no answer."""


class SshConnection:
    """A login on a far host. A context manager; ``close`` is idempotent."""

    def __init__(self, transport: paramiko.Transport, below: SshConnection | None = None) -> None:
        self._transport = transport
        self._below = below  # the jump host that this connection goes through

    def __enter__(self) -> SshConnection:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection with everything that runs over it."""
        self._transport.close()
        # The library's thread looks only now and then whether its work is over; whoever enters
        # a time namespace next must be alone (EUSERS, man 2 setns).
        if self._transport.is_alive() and self._transport is not threading.current_thread():
            self._transport.join(_THREAD_ENDS_WITHIN_S)
        if self._below is not None:
            self._below.close()

    def run(self, command: str) -> SshChannel:
        """Start a command over there and return its standard streams.

        Args:
            command: For the login shell of the user.

        Raises:
            TransportError: The connection broke, or the server refused.
        """
        try:
            channel = self._transport.open_session(
                window_size=WINDOW_SIZE, max_packet_size=MAX_PACKET_SIZE, timeout=30
            )
            channel.exec_command(command)
        except (paramiko.SSHException, OSError, EOFError) as exc:
            raise TransportError(f"cannot run {command!r} over there: {exc}") from exc
        return SshChannel(channel)

    def is_alive(self) -> bool:
        """Whether nothing has been noticed yet that ended the connection."""
        return self._transport.is_active()

    def sftp(self, timeout_s: float) -> paramiko.SFTPClient:
        """Start an SFTP session, for one thread at a time.

        Args:
            timeout_s: How long to wait for an answer, here and later; then it is TimeoutError.

        Raises:
            TransportError: The connection broke, or the server has no SFTP.
        """
        try:
            channel = self._transport.open_session(
                window_size=WINDOW_SIZE, max_packet_size=MAX_PACKET_SIZE, timeout=30
            )
            channel.settimeout(timeout_s)
            channel.invoke_subsystem("sftp")
            return paramiko.SFTPClient(channel)
        except (paramiko.SSHException, OSError, EOFError) as exc:
            raise TransportError(
                f"cannot begin an SFTP session over there: {exc or 'the server hung up'}"
            ) from exc

    def forward(self, host: str, port: int) -> paramiko.Channel:
        """A TCP connection from the far host to another one."""
        try:
            return self._transport.open_channel("direct-tcpip", (host, port), ("127.0.0.1", 0))
        except paramiko.SSHException as exc:
            raise TransportError(f"the jump host cannot reach {host}: {exc}") from exc


class SshChannel:
    """The standard streams of a command on a far host; a `migrate.transport.Channel`.

    What the command writes to its standard error is kept, the last of it, for messages.
    """

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self._stderr = bytearray()
        # Unread standard error would fill its window and stop the far side.
        self._drain = threading.Thread(target=self._keep_stderr, name="ssh-stderr", daemon=True)
        self._drain.start()

    def read(self, size: int, timeout_s: float | None) -> bytes:
        """See `Channel`."""
        self._channel.settimeout(timeout_s)
        try:
            return self._channel.recv(size)
        except TimeoutError as exc:
            raise TransportError(
                f"no word from the far side for {timeout_s:g} s", reason="timeout"
            ) from exc
        except (OSError, EOFError, paramiko.SSHException) as exc:
            raise TransportError(f"connection lost: {exc}") from exc

    def write(self, data: Buffer) -> None:
        """See `Channel`."""
        view = memoryview(data).cast("B")
        self._channel.settimeout(DEAD_AFTER_MS / 1000 * 2)
        try:
            while view:
                # A packet's worth at a time: paramiko copies what it is given, each time anew.
                view = view[self._channel.send(bytes(view[:32768])) :]
        except (OSError, EOFError, paramiko.SSHException) as exc:
            why = str(exc) or "the far host does not answer"
            raise TransportError(f"connection lost: {why}") from exc

    def close(self) -> None:
        """See `Channel`."""
        self._channel.close()

    def last_words(self, timeout_s: float = 2.0) -> str:
        """The end of the command's standard error, once the command has ended."""
        self._drain.join(timeout_s)
        return bytes(self._stderr).decode("utf-8", "replace").strip()

    def exit_status(self, timeout_s: float = 2.0) -> int | None:
        """The command's exit status; None when it has not ended or the connection broke."""
        if not self._channel.status_event.wait(timeout_s):
            return None
        status = self._channel.exit_status
        return None if status < 0 else status

    def _keep_stderr(self) -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            while True:
                try:
                    data = self._channel.recv_stderr(4096)
                except TimeoutError:  # the timeout of read() and write() holds here too
                    continue
                if not data:
                    return
                self._stderr += data
                del self._stderr[:-STDERR_KEPT]


def connect(
    destination: Destination, options: SshOptions, *, ask: Ask | None = None, depth: int = 0
) -> SshConnection:
    """Log in on a far host.

    Args:
        destination: Where to.
        options: What the command line says.
        ask: For passphrases and passwords.
        depth: How many jump hosts led here.

    Raises:
        HostKeyError: The host's key is not known, has changed or was revoked.
        LoginError: No key or password was accepted.
        TransportError: The host cannot be reached or is no SSH server.
        MigrateError: The configuration makes no sense.
    """
    _quiet_paramiko()
    settings = settle(destination, options, _lookup)
    below, sock = _dial(destination, settings, options, ask, depth)
    try:
        transport = paramiko.Transport(
            sock, default_window_size=WINDOW_SIZE, default_max_packet_size=MAX_PACKET_SIZE
        )
    except paramiko.SSHException as exc:
        raise TransportError(f"{destination}: {exc}") from exc
    connection = SshConnection(transport, below)
    try:
        _begin(transport, destination, settings)
        _log_in(transport, destination, settings, options, ask)
        transport.set_keepalive(KEEPALIVE_S)
    except BaseException:
        connection.close()
        raise
    return connection


def _lookup(text: str, host: str) -> Found:
    try:
        answers = paramiko.SSHConfig.from_text(text).lookup(host)
    except (paramiko.ConfigParseError, paramiko.CouldNotCanonicalize, ImportError) as exc:
        raise ValueError(str(exc)) from exc
    found: Found = {name.lower(): value for name, value in answers.items()}
    if found.get("hostname") == host:  # filled in by paramiko when the file names none
        del found["hostname"]
    return found


def _quiet_paramiko() -> None:
    """paramiko logs every failure that it also raises, with a traceback."""
    detailed = log.isEnabledFor(logging.DEBUG)
    logging.getLogger("paramiko").setLevel(logging.INFO if detailed else logging.CRITICAL)


# Getting there

_Socket = socket.socket | paramiko.Channel | paramiko.ProxyCommand


def _dial(
    destination: Destination,
    settings: HostSettings,
    options: SshOptions,
    ask: Ask | None,
    depth: int,
) -> tuple[SshConnection | None, _Socket]:
    if settings.proxy_jump is not None:
        if depth >= 8:
            raise MigrateError(f"{destination}: more than 8 jump hosts", reason="bad-ssh-config")
        *others, last = settings.proxy_jump.split(",")
        jump, port = _jump_of(last)
        through = {"proxyjump": ",".join(others)} if others else {}
        known_hosts = options.known_hosts
        jump_options = SshOptions(port, options.identities, known_hosts, through, options.config)
        below = connect(jump, jump_options, ask=ask, depth=depth + 1)
        return below, below.forward(settings.host, settings.port)
    if settings.proxy_command is not None:
        return None, paramiko.ProxyCommand(settings.proxy_command)
    try:
        sock = socket.create_connection(
            (settings.host, settings.port), timeout=settings.connect_timeout_s
        )
    except OSError as exc:
        raise TransportError(
            f"{destination}: cannot connect to {settings.host} port {settings.port}:"
            f" {exc.strerror or exc}",
            reason="unreachable",
        ) from exc
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_AFTER_MS)
    return None, sock


def _jump_of(text: str) -> tuple[Destination, int | None]:
    """``[user@]host[:port]``, as ProxyJump has it."""
    parsed = Destination.parse(text.removeprefix("ssh://"))
    if parsed.path is not None and not parsed.path.isdigit():
        raise MigrateError(f"ProxyJump {text!r} is not [user@]host[:port]", reason="bad-ssh-config")
    port = int(parsed.path) if parsed.path else None
    return Destination(parsed.host, parsed.user), port


def _begin(transport: paramiko.Transport, destination: Destination, settings: HostSettings) -> None:
    """Agree on keys and check the host's."""
    name = known_hosts.lookup_name(settings.host, settings.port, settings.host_key_alias)
    known = known_hosts.keys_of(name, [*settings.user_known_hosts, *settings.system_known_hosts])
    security = transport.get_security_options()
    usual = list(security.ciphers)
    security.ciphers = [cipher for cipher in PREFERRED_CIPHERS if cipher in usual]
    security.key_types = _key_types(list(security.key_types), known)
    transport.banner_timeout = settings.connect_timeout_s
    transport.auth_timeout = settings.connect_timeout_s
    try:
        transport.start_client(timeout=settings.connect_timeout_s)
        key = transport.get_remote_server_key()
    except (paramiko.SSHException, OSError, EOFError) as exc:
        raise TransportError(f"{destination}: {exc or 'the server hung up'}") from exc
    _check_host_key(destination, settings, name, known, key)


def _key_types(usual: list[str], known: tuple[known_hosts.KnownKey, ...]) -> list[str]:
    """Ask for a key that we can compare with: types that are known for the host come first."""
    first: list[str] = []
    for key in known:
        first += _RSA_ALGORITHMS if key.key_type == "ssh-rsa" else (key.key_type,)
    return sorted(usual, key=lambda name: name not in first)


def _check_host_key(
    destination: Destination,
    settings: HostSettings,
    name: str,
    known: tuple[known_hosts.KnownKey, ...],
    key: paramiko.PKey,
) -> None:
    kind, blob = key.get_name(), key.asbytes()
    verdict, where = known_hosts.judge(known, kind, blob)
    shown = f"{kind} {known_hosts.fingerprint(blob)}"
    if verdict is Verdict.KNOWN:
        return
    if verdict is Verdict.REVOKED:
        raise HostKeyError(
            f"{destination}: the host key {shown} is revoked at {where}",
            reason="host-key-revoked",
        )
    lax = settings.strict in ("no", "off")
    if verdict is Verdict.CHANGED:
        if not lax:
            raise HostKeyError(
                f"{destination}: the host key has CHANGED: it is {shown}, {where} has another;"
                " somebody may be listening in, or the host was set up anew, then remove the old"
                f" key with ssh-keygen -R {name!r}",
                reason="host-key-changed",
            )
        log.warning("%s: host key %s differs from %s", destination, shown, where)
        return
    if settings.strict not in ("accept-new", "no", "off"):
        raise HostKeyError(
            f"{destination}: the host key {shown} is not known; compare it with the host's own and"
            f" add it (ssh-keyscan{_port_words(settings)} {settings.host} >> ~/.ssh/known_hosts),"
            " or accept it with -o StrictHostKeyChecking=accept-new"
        )
    if settings.user_known_hosts:
        known_hosts.remember(settings.user_known_hosts[0], name, kind, blob)
    log.warning("%s: added host key %s to the known hosts", destination, shown)


def _port_words(settings: HostSettings) -> str:
    return "" if settings.port == known_hosts.SSH_PORT else f" -p {settings.port}"


# Logging in


def _log_in(
    transport: paramiko.Transport,
    destination: Destination,
    settings: HostSettings,
    options: SshOptions,
    ask: Ask | None,
) -> None:
    """Try keys as ``ssh`` does: named on the command line, the agent's, the usual files."""
    tried: list[str] = []
    try:
        for label, key in _keys(settings, options, ask):
            tried.append(label)
            if _try_key(transport, settings.user, key):
                return
        tried.append("password")
        if _try_password(transport, settings, ask):
            return
    except paramiko.BadAuthenticationType as exc:
        raise LoginError(
            f"{settings.user}@{settings.host}: the server takes only"
            f" {', '.join(exc.allowed_types)}; tried {', '.join(tried)}"
        ) from exc
    except (paramiko.SSHException, OSError, EOFError) as exc:
        if isinstance(exc, paramiko.AuthenticationException) or not transport.is_active():
            raise LoginError(
                f"{settings.user}@{settings.host}: the server hung up during the login"
                f" ({exc or type(exc).__name__}); tried {', '.join(tried) or 'nothing'}"
            ) from exc
        raise TransportError(f"{destination}: {exc}") from exc
    keys = [label for label in tried if label != "password"]
    raise LoginError(
        f"{settings.user}@{settings.host}: permission denied; tried"
        f" {', '.join(keys) or 'no key, for there is none'}; name one with --identity"
    )


def _keys(
    settings: HostSettings, options: SshOptions, ask: Ask | None
) -> Iterator[tuple[str, paramiko.PKey]]:
    explicit = {path.expanduser() for path in options.identities}
    for path in settings.identities:
        if path in explicit:
            yield from _key_file(path, ask, required=True)
    if not settings.only_identities:
        yield from _agent_keys(settings)
    for path in settings.identities:
        if path not in explicit:
            yield from _key_file(path, ask, required=False)


def _agent_keys(settings: HostSettings) -> Iterator[tuple[str, paramiko.PKey]]:
    if settings.agent == "none":
        return
    before = os.environ.get("SSH_AUTH_SOCK")
    if settings.agent not in (None, "SSH_AUTH_SOCK"):
        os.environ["SSH_AUTH_SOCK"] = str(Path(str(settings.agent)).expanduser())
    try:
        agent = paramiko.Agent()
        keys = agent.get_keys()
    except (paramiko.SSHException, OSError) as exc:
        log.info("no keys from the agent: %s", exc)
        return
    finally:
        if before is not None:
            os.environ["SSH_AUTH_SOCK"] = before
    for key in keys:
        yield f"the agent's {key.get_name()} key", key
    agent.close()


def _key_file(
    path: Path, ask: Ask | None, *, required: bool
) -> Iterator[tuple[str, paramiko.PKey]]:
    try:
        yield str(path), _load_key(path, ask)
    except FileNotFoundError:
        if required:
            raise LoginError(f"{path}: no such key file", reason="no-such-key") from None
    except paramiko.PasswordRequiredException:
        sentence = f"{path}: the key has a passphrase; add it to your agent with ssh-add"
        if required:
            raise LoginError(sentence, reason="key-locked") from None
        log.warning("%s", sentence)
    except (paramiko.SSHException, UnknownKeyType, OSError, ValueError) as exc:
        if required:
            raise LoginError(f"{path}: not a usable key: {exc}", reason="bad-key") from exc
        log.info("%s: not a usable key: %s", path, exc)


def _load_key(path: Path, ask: Ask | None) -> paramiko.PKey:
    try:
        return paramiko.PKey.from_path(path)
    except (paramiko.PasswordRequiredException, TypeError) as exc:
        # TypeError is how the crypto library says that a passphrase is missing.
        passphrase = ask(f"passphrase for {path}: ") if ask is not None else None
        if passphrase is None:
            raise paramiko.PasswordRequiredException(str(exc)) from exc
        return _unlock(path, passphrase)


def _unlock(path: Path, passphrase: str) -> paramiko.PKey:
    # PKey.from_path() of paramiko 5 fails on any passphrase, so each kind is tried.
    failure: Exception | None = None
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            return kind.from_private_key_file(str(path), passphrase)
        except (paramiko.SSHException, ValueError) as exc:
            failure = failure or exc
    raise paramiko.SSHException(f"the passphrase does not fit ({failure})")


def _try_key(transport: paramiko.Transport, user: str, key: paramiko.PKey) -> bool:
    try:
        further = transport.auth_publickey(user, key)
    except paramiko.BadAuthenticationType:
        raise
    except paramiko.AuthenticationException:
        if not transport.is_active():
            raise
        return False
    if further:
        raise LoginError(
            f"{user}: the server wants {' and '.join(further)} besides the key, which is not"
            " supported",
            reason="login-steps",
        )
    return True


def _try_password(transport: paramiko.Transport, settings: HostSettings, ask: Ask | None) -> bool:
    """Ask for a password, when there is somebody to ask and the server takes one."""
    if ask is None:
        return False
    try:
        transport.auth_none(settings.user)
    except paramiko.BadAuthenticationType as exc:
        if not {"password", "keyboard-interactive"} & set(exc.allowed_types):
            return False
    else:
        return True
    password = ask(f"{settings.user}@{settings.host}'s password: ")
    if password is None:
        return False
    try:
        return not transport.auth_password(settings.user, password)
    except paramiko.AuthenticationException:
        if not transport.is_active():
            raise
        return False
