"""Creating, starting and accompanying a container: what run, do and restore have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from migrate.cli.create_request import CreateOptions, request_from
from migrate.cli.exit_status import shell_status
from runtime.container import Container

if TYPE_CHECKING:
    from runtime.creation import CreateRequest

RequestSource = Callable[[int | None], contextlib.AbstractContextManager["CreateRequest"]]
"""Makes a request, given the console socket of a terminal relay or None; it need not use it."""


def run_detached(root: Path, cid: str, options: CreateOptions) -> int:
    """Create and start; the container goes on without us."""
    with request_from(cid, options) as request:
        Container.run(root, request)
    return 0


def run_in_foreground(root: Path, cid: str, options: CreateOptions, *, keep: bool = False) -> int:
    """Create, start, accompany and delete a container; returns the exit status."""
    own_terminal = options.console_socket is None

    def make_request(console: int | None) -> contextlib.AbstractContextManager[CreateRequest]:
        return request_from(cid, options, console=console, foreground=True)

    return accompany(root, make_request, own_terminal=own_terminal, keep=keep)


def accompany(
    root: Path,
    make_request: RequestSource,
    *,
    own_terminal: bool,
    keep: bool = False,
    like_a_command: bool = False,
) -> int:
    """Create and start a container, and stand in for its program until it ends.

    Args:
        root: The state root.
        make_request: Describes the container.
        own_terminal: Relay between our terminal and the one inside, if the container gets one.
        keep: Leave the container when its program has ended.
        like_a_command: Let signals end the program that would end an ordinary command.

    Returns:
        The exit status: the program's own, or 128 plus the number of the signal that ended it.
    """
    with contextlib.ExitStack() as stack:
        relay = None
        if own_terminal:
            from migrate.cli.foreground import TerminalRelay

            relay = TerminalRelay()
            stack.callback(relay.close)
        with make_request(None if relay is None else relay.console) as request:
            if request.console is None:
                relay = None
            container = Container.create(root, request, meanwhile=_import_the_rest)
        from migrate.cli.foreground import ended_by, forwarded_signals

        with _destroyed_at_the_end(container, keep=keep):
            init = container.metadata.init
            assert init is not None
            if relay is not None:
                relay.receive_master()
            with forwarded_signals(init, like_a_command=like_a_command):
                container.start()
                status = container.wait() if relay is None else relay.run(container.wait)
    signum = ended_by()
    return shell_status(status) if signum is None else 128 + signum


@contextlib.contextmanager
def _destroyed_at_the_end(container: Container, *, keep: bool) -> Iterator[None]:
    try:
        yield
    except BaseException:
        container.destroy(force=True)
        raise
    if not keep:
        container.destroy(force=True)


def _import_the_rest() -> None:
    """Load what is needed from now on; it costs nothing while the monitor makes the container."""
    import runtime.destruction
    import runtime.waiting  # noqa: F401
