"""A conversation with ``wherry receive`` on a far host."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from migrate.destination import Destination
from migrate.errors import MigrateError, ProtocolError, TransportError
from migrate.hello import exchange
from migrate.messages import Hello
from migrate.protocol import Peer
from migrate.ssh_config import SshOptions

if TYPE_CHECKING:
    from migrate.ssh import Ask, SshChannel

ANSWER_TIMEOUT_S = 120.0  # for a far side that restores gigabytes in silence
RETRY_FOR_S = 30.0  # how long to look for a host when the connection broke
RETRY_PAUSE_S = 0.5
NO_SUCH_COMMAND = 127  # a shell's exit status


@dataclass(frozen=True, slots=True)
class Route:
    """Everything needed to reach a far wherry, now or in a later command.

    Attributes:
        destination: Where.
        ssh: What the command line said about the connection.
        remote_command: The wherry command there, as its shell reads it.
        remote_root: State root there, or None for its default.
    """

    destination: Destination
    ssh: SshOptions = field(default_factory=SshOptions)
    remote_command: str = "wherry"
    remote_root: Path | None = None

    @property
    def command_line(self) -> str:
        """What the far shell is to run."""
        root = f" --root {shlex.quote(str(self.remote_root))}" if self.remote_root else ""
        return f"{self.remote_command}{root} receive"

    def to_json(self) -> dict[str, object]:
        """For the record that a later ``--resume`` reads."""
        return {
            "host": self.destination.host,
            "user": self.destination.user,
            "ssh": self.ssh.to_json(),
            "remote_command": self.remote_command,
            "remote_root": None if self.remote_root is None else str(self.remote_root),
        }

    @classmethod
    def from_json(cls, obj: dict[str, object]) -> Route:
        """The reverse of to_json.

        Raises:
            KeyError, TypeError: The document is not what to_json wrote.
        """
        user, root, ssh = obj.get("user"), obj.get("remote_root"), obj.get("ssh")
        return cls(
            Destination(str(obj["host"]), None if user is None else str(user)),
            SshOptions.from_json(ssh if isinstance(ssh, dict) else {}),
            str(obj["remote_command"]),
            None if root is None else Path(str(root)),
        )


@dataclass(slots=True)
class Conversation:
    """An open line to a far wherry, after the hello.

    Attributes:
        peer: To talk with it.
        hello: Who it is.
    """

    peer: Peer
    hello: Hello


@contextlib.contextmanager
def talk_to(route: Route, ask: Ask | None = None) -> Iterator[Conversation]:
    """Connect, start ``wherry receive`` over there and say hello.

    Failures inside the ``with`` that come from the far side's end get its last words as a note.

    Raises:
        MigrateError: The host cannot be reached, does not let us in, or has no wherry.
    """
    from migrate.ssh import connect

    with connect(route.destination, route.ssh, ask=ask) as connection:
        channel = connection.run(route.command_line)
        peer = Peer(channel, timeout_s=ANSWER_TIMEOUT_S)
        try:
            yield Conversation(peer, _hello(peer, channel, route))
        except (TransportError, ProtocolError) as exc:
            words = _printable(channel.last_words())
            if words and not getattr(exc, "__notes__", None):
                exc.add_note(f"{route.destination} said: {words}")
            raise
        finally:
            channel.close()


def _hello(peer: Peer, channel: SshChannel, route: Route) -> Hello:
    try:
        return exchange(peer)
    except (TransportError, ProtocolError) as exc:
        if channel.exit_status() != NO_SUCH_COMMAND:
            raise
        raise MigrateError(
            f"{route.destination}: its shell finds no {route.remote_command!r}; install wherry"
            " there, or name it with --remote-command /path/to/wherry",
            reason="no-remote-wherry",
        ) from exc


def _printable(text: str) -> str:
    """One line of the far side's words, without anything that could play with a terminal."""
    line = "; ".join(filter(None, (part.strip() for part in text.splitlines()[-3:])))
    return "".join(char if char.isprintable() else "?" for char in line)[:500]
