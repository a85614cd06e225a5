"""The options of the commands that create a container, and what they ask the runtime for."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from migrate.cli.late_progress import late_progress
from runtime.errors import ContainerError

if TYPE_CHECKING:
    from formats.sealed_file import Unlock
    from formats.signature import Signed
    from migrate.cli.store_options import Place
    from runtime.creation import CreateRequest
    from runtime.engine.api import RestoreOptions
    from runtime.restore_container import RestorePlan

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class CreateOptions:
    """The values of the options below."""

    bundle: Path | None
    console_socket: Path | None
    pid_file: Path | None
    preserve_fds: int
    no_pivot: bool
    no_new_keyring: bool
    overlay: bool
    restore: Path | None
    no_monitor: bool
    lazy: bool = False
    give: RestoreOptions | None = None
    verify_key: tuple[Path, ...] = ()  # one of these must have signed the image
    snapshot: tuple[Place, str] | None = None  # a store and what is to be restored from it
    place: Place | None = None  # names the secret of an encrypted file


_OPTIONS = (
    click.option(
        "--bundle",
        "-b",
        type=click.Path(file_okay=False, path_type=Path),
        help="Directory with config.json and the rootfs. [default: the current directory]",
    ),
    click.option(
        "--console-socket",
        type=click.Path(path_type=Path),
        help="AF_UNIX socket that receives the master end of the terminal.",
    ),
    click.option(
        "--pid-file", type=click.Path(path_type=Path), help="Write the init's pid here, last."
    ),
    click.option(
        "--preserve-fds",
        type=click.IntRange(min=0),
        default=0,
        help="Pass this many further descriptors (3, 4, …) to the program.",
    ),
    click.option("--no-pivot", is_flag=True, help="Not supported: a root is always pivoted."),
    click.option("--no-new-keyring", is_flag=True, help="Keep the caller's session keyring."),
    click.option("--overlay", is_flag=True, help="Private overlay over the rootfs."),
    click.option(
        "--restore",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Put the program of this state file into the container.",
    ),
    click.option(
        "--verify-key",
        type=click.Path(dir_okay=False, path_type=Path),
        multiple=True,
        envvar="WHERRY_VERIFY_KEY",
        show_envvar=True,
        help="Only restore what this public key (Ed25519, PEM) has signed; repeatable.",
    ),
    click.option(
        "--lazy",
        is_flag=True,
        help="With --restore: the program waits for a page of its memory when it needs it, instead "
        "of for all of them.",
    ),
    click.option(
        "--no-monitor",
        is_flag=True,
        help="Leave the init to the child subreaper above this command.",
    ),
)


def create_options(function: F) -> F:
    """Give a command the options that all commands have that create a container."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@contextlib.contextmanager
def request_from(
    cid: str,
    options: CreateOptions,
    *,
    console: int | None = None,
    foreground: bool = False,
) -> Iterator[CreateRequest]:
    """The request that the options describe; what was opened for it is closed at the end.

    Args:
        cid: The new container's id.
        options: As given on the command line.
        console: A socket of the caller's own for the terminal, instead of ``--console-socket``;
            used if the configuration wants a terminal.
        foreground: We stay until the end, so that a pid file does not mean a supervisor.

    Raises:
        SpecError: The bundle's configuration is invalid.
        ContainerError: An option is not supported, or does not fit the configuration.
    """
    from runtime.creation import CreateRequest
    from runtime.sandbox.descriptors import Stdio

    if options.no_pivot:
        raise ContainerError("--no-pivot is not supported", reason="unsupported-option")
    _check_preserved(options.preserve_fds)
    bundle = (options.bundle or Path.cwd()).absolute()
    plan = None
    if options.lazy and options.restore is None and options.snapshot is None:
        raise ContainerError("--lazy needs an image to restore", reason="unsupported-option")
    if options.restore is not None:
        from runtime.restore_container import plan_restore

        plan = plan_restore(
            options.restore,
            options.bundle,
            cid,
            _given(options),
            judge=_signature_judge(options.verify_key),
            unlock=_unlock(options.restore, options.place),
        )
    elif options.snapshot is not None:
        plan = _plan_snapshot(options.snapshot, options, cid)
    if plan is not None:
        spec, bundle = plan.spec, plan.bundle
    else:
        from runtime.spec import load_spec

        spec = load_spec(bundle).raw
    with contextlib.ExitStack() as stack:
        if console is not None and not wants_terminal(spec):
            console = None
        if options.console_socket is not None:
            console = stack.enter_context(connected(options.console_socket)).fileno()
        check_console(spec, console)
        progress = None
        if plan is not None:
            progress = stack.enter_context(late_progress("restore"))
        yield CreateRequest(
            cid=cid,
            spec=spec,
            bundle=bundle,
            stdio=Stdio(0, 1, 2),
            overlay=options.overlay or (plan is not None and plan.overlay),
            console=console,
            pid_file=options.pid_file,
            monitor=not options.no_monitor and (foreground or not _supervised(options)),
            preserve_fds=options.preserve_fds,
            new_keyring=not options.no_new_keyring,
            restore=plan,
            progress=progress,
        )


def _given(options: CreateOptions) -> RestoreOptions:
    from runtime.engine.api import RestoreOptions

    return dataclasses.replace(options.give or RestoreOptions(), lazy=options.lazy)


def _plan_snapshot(reference: tuple[Place, str], options: CreateOptions, cid: str) -> RestorePlan:
    from migrate.cli.store_options import opened
    from migrate.store.carrier import plan_snapshot_restore
    from migrate.store.config import Operation

    place, wanted = reference
    with opened(place, Operation.RESTORE) as store:
        found = store.find(wanted)
        return plan_snapshot_restore(
            store,
            found.snapshot_id,
            options.bundle,
            cid,
            _given(options),
            verify_keys=_verify_keys(options.verify_key),
        )


def _unlock(path: Path, place: Place | None) -> Unlock:
    """What finds the key of a state file.

    Raises:
        StoreError: A secret is named, and the file is not encrypted: whoever names one expects that
            only its holders can have made the file.
    """
    from migrate.cli.store_options import Place

    if place is not None and place.names_secret:
        from formats.statefile import is_sealed, open_image
        from migrate.errors import StoreError

        with open_image(path) as source:
            if not is_sealed(source):
                raise StoreError(
                    f"{path}: a secret is given, and the file is not encrypted", reason="store-key"
                )
    return (place or Place(None)).unlock_file(path)


def _signature_judge(key_files: tuple[Path, ...]) -> Callable[[FileIO], Signed] | None:
    """What a state file must go through when there are keys."""
    if not key_files:
        return None
    from migrate.store.signing import judge_image

    return partial(judge_image, keys=_verify_keys(key_files))


def _verify_keys(key_files: tuple[Path, ...]) -> tuple[bytes, ...]:
    if not key_files:
        return ()
    from migrate.store.signing import verify_key

    return tuple(verify_key(path) for path in key_files)


def _check_preserved(count: int) -> None:
    for fd in range(3, 3 + count):
        try:
            os.fstat(fd)
        except OSError:
            raise ContainerError(
                f"--preserve-fds {count}: descriptor {fd} is not open", reason="fd-not-open"
            ) from None


def wants_terminal(spec: dict[str, Any]) -> bool:
    """Whether a configuration asks for a terminal."""
    return bool((spec.get("process") or {}).get("terminal"))


def check_console(spec: dict[str, Any], console: int | None) -> None:
    """Refuse a terminal without a receiver, and a receiver without a terminal.

    Raises:
        ContainerError: With the reason ``console``.
    """
    terminal = wants_terminal(spec)
    if terminal and console is None:
        raise ContainerError(
            "process.terminal is true, give --console-socket to receive the terminal",
            reason="console",
        )
    if console is not None and not terminal:
        raise ContainerError(
            "a console socket was given, but process.terminal is false", reason="console"
        )


def connected(path: Path) -> socket.socket:
    """A connection to a console socket.

    Raises:
        ContainerError: Nobody listens there.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(str(path))
    except OSError as exc:
        sock.close()
        raise ContainerError(f"console socket {path}: {exc.strerror}", reason="console") from exc
    return sock


def _supervised(options: CreateOptions) -> bool:
    """Whether our parent is a supervisor that expects to reap the init itself.

    That is how conmon and the containerd shim call a runtime: with a pid file, and being child
    subreapers. Who is a subreaper cannot be asked, but tried: an orphan of ours goes there.
    """
    return options.pid_file is not None and os.getppid() != 1 and _orphans_go_to(os.getppid())


def _orphans_go_to(pid: int) -> bool:
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        try:
            ours = os.getpid()
            if os.fork() == 0:
                while os.getppid() == ours:
                    os.sched_yield()
                os.write(writer, b"y" if os.getppid() == pid else b"n")
        finally:
            os._exit(0)
    os.close(writer)
    try:
        os.waitpid(middle, 0)
        return os.read(reader, 1) == b"y"
    finally:
        os.close(reader)
