"""The far side of ship and migrate: one conversation over the standard descriptors.

``wherry receive`` is run over SSH by the wherry that ships or migrates. It takes part in one
conversation and ends; when the connection breaks it removes what it has made, unless a container
has been committed to this host.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from pathlib import Path

from formats.errors import WherryError
from migrate.errors import RemoteError, TransportError
from migrate.hello import exchange
from migrate.messages import Failed, Hello, OfferContainer, OfferFile, Pages, Query
from migrate.protocol import Peer
from migrate.receive_file import receive_file
from migrate.transport import DescriptorChannel

log = logging.getLogger(__name__)

# The source speaks or hangs up within this time; its host may have vanished without a word.
SILENCE_TIMEOUT_S = 120.0
F_SETPIPE_SZ = 1031  # include/uapi/linux/fcntl.h
PIPE_SIZE = 1 << 20


def own_channel() -> DescriptorChannel:
    """The standard descriptors as a channel that nothing else in this process can write into.

    Descriptor 1 becomes a copy of 2, so that a stray word goes to the log of the far side and not
    into the middle of a message; descriptor 0 becomes ``/dev/null``.
    """
    reader = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
    writer = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    with contextlib.suppress(OSError):  # sshd may have given a socket
        fcntl.fcntl(reader, F_SETPIPE_SZ, PIPE_SIZE)
    return DescriptorChannel(reader, writer)


def serve(channel: DescriptorChannel, root: Path) -> None:
    """Hold one conversation.

    Args:
        channel: To the source.
        root: State root of this host's containers.

    Raises:
        WherryError: Whatever failed; the source has been told if it still listens.
    """
    peer = Peer(channel, timeout_s=SILENCE_TIMEOUT_S)
    try:
        _answer(peer, root, exchange(peer), channel.fds())
    except TransportError:
        raise
    except RemoteError:
        raise  # the source's own words; nobody waits for ours
    except WherryError as exc:
        _tell(peer, exc.reason, str(exc))
        raise
    except OSError as exc:
        _tell(peer, "os-error", f"{exc.filename or 'receive'}: {exc.strerror or exc}")
        raise
    except Exception as exc:
        _tell(peer, "internal-error", f"internal error over there: {type(exc).__name__}: {exc}")
        raise


def _answer(peer: Peer, root: Path, source: Hello, fds: tuple[int, int]) -> None:
    message = peer.receive_any(OfferFile, OfferContainer, Query, Pages)
    if isinstance(message, OfferFile):
        receive_file(peer, message)
        return
    # The runtime is not needed for files, and takes its time to load.
    from migrate.receive_container import receive_container
    from migrate.receive_query import answer_query, serve_pager

    if isinstance(message, OfferContainer):
        receive_container(peer, message, root, source, fds)
    elif isinstance(message, Query):
        answer_query(peer, message, root)
    elif isinstance(message, Pages):
        serve_pager(peer, message, root, fds)


def _tell(peer: Peer, reason: str, sentence: str) -> None:
    with contextlib.suppress(TransportError):
        peer.send(Failed(reason, sentence))
