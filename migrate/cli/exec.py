"""``wherry exec``: a further process in a running container."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from migrate.cli.create_request import connected, wants_terminal
from migrate.cli.exit_status import shell_status
from migrate.cli.foreground import TerminalRelay, forwarded_signals
from migrate.cli.options import Settings, pass_settings
from runtime.errors import ContainerError

if TYPE_CHECKING:
    from runtime.container import Container


@click.command("exec", context_settings={"allow_interspersed_args": False})
@click.option("--console-socket", type=click.Path(path_type=Path), help="Receives the terminal.")
@click.option("--cwd", help="Working directory inside.")
@click.option("--env", "-e", multiple=True, help="KEY=VALUE, on top of the container's own.")
@click.option("--tty", "-t", is_flag=True, help="Give the process a terminal.")
@click.option("--user", "-u", help="UID[:GID] inside.")
@click.option("--additional-gids", "-g", type=int, multiple=True, help="Further groups.")
@click.option("--process", "-p", "process_file", type=click.Path(path_type=Path))
@click.option("--detach", "-d", is_flag=True, help="Return as soon as the process has started.")
@click.option("--pid-file", type=click.Path(path_type=Path), help="Write the process's pid here.")
@click.option("--process-label", hidden=True)
@click.option("--apparmor", hidden=True)
@click.option("--no-new-privs", is_flag=True, help="No setuid program gains privileges.")
@click.option("--cap", "-c", multiple=True, help="Add a capability, for instance CAP_NET_ADMIN.")
@click.option("--preserve-fds", type=click.IntRange(min=0), default=0, hidden=True)
@click.option("--ignore-paused", is_flag=True, hidden=True)
@click.argument("cid", metavar="ID")
@click.argument("args", metavar="COMMAND...", nargs=-1, type=click.UNPROCESSED)
@pass_settings
def command(settings: Settings, /, cid: str, args: tuple[str, ...], **options: Any) -> int:
    """Run a further process in a running container; its exit status becomes ours."""
    for name in ("process_label", "apparmor", "preserve_fds", "ignore_paused"):
        if options[name]:
            flag = name.replace("_", "-")
            raise ContainerError(f"exec --{flag} is not supported", reason="unsupported-option")
    container = settings.load(cid)
    process = _process(container, args, options)
    return _run(container, process, options)


def _process(
    container: Container, args: tuple[str, ...], options: dict[str, Any]
) -> dict[str, Any]:
    """The OCI process: that of the container, changed as the options say."""
    if options["process_file"] is not None:
        process = _read(options["process_file"])
    else:
        if not args:
            raise click.UsageError("say what to run, or give --process")
        process = {**container.metadata.spec["process"], "args": list(args), "terminal": False}
        process.pop("consoleSize", None)
    if options["cwd"] is not None:
        process["cwd"] = options["cwd"]
    if options["env"]:
        process["env"] = [*process.get("env", []), *options["env"]]
    if options["tty"]:
        process["terminal"] = True
    if options["no_new_privs"]:
        process["noNewPrivileges"] = True
    if options["user"] is not None:
        process["user"] = _user(options["user"])
    if options["additional_gids"]:
        user = dict(process.get("user") or {})
        user["additionalGids"] = [*user.get("additionalGids", []), *options["additional_gids"]]
        process["user"] = user
    if options["cap"]:
        process["capabilities"] = _with_capabilities(process.get("capabilities"), options["cap"])
    return process


def _user(text: str) -> dict[str, Any]:
    uid, _, gid = text.partition(":")
    if not uid.isdigit() or (gid and not gid.isdigit()):
        raise click.UsageError(f"--user {text!r}: write numbers, UID or UID:GID")
    return {"uid": int(uid), "gid": int(gid or 0)}


def _with_capabilities(capabilities: Any, names: tuple[str, ...]) -> dict[str, list[str]]:
    """Add to the sets that runc adds to: all but the ambient one."""
    added = [name if name.upper().startswith("CAP_") else f"CAP_{name}" for name in names]
    sets = {key: list(value) for key, value in (capabilities or {}).items()}
    for key in ("bounding", "effective", "permitted"):
        sets[key] = list(dict.fromkeys([*sets.get(key, []), *(name.upper() for name in added)]))
    return sets


def _read(path: Path) -> dict[str, Any]:
    try:
        process = json.loads(path.read_text())
    except ValueError as exc:
        raise click.UsageError(f"{path} is not JSON: {exc}") from exc
    if not isinstance(process, dict):
        raise click.UsageError(f"{path} holds no JSON object")
    return process


def _run(container: Container, process: dict[str, Any], options: dict[str, Any]) -> int:
    from runtime.exec_session import ExecRequest
    from runtime.sandbox.descriptors import Stdio

    with contextlib.ExitStack() as stack:
        relay, console = None, None
        if wants_terminal({"process": process}):
            if options["console_socket"] is not None:
                console = stack.enter_context(connected(options["console_socket"])).fileno()
            elif options["detach"]:
                raise ContainerError(
                    "a detached process with a terminal needs --console-socket", reason="console"
                )
            else:
                relay = TerminalRelay()
                stack.callback(relay.close)
                console = relay.console
        handle = container.execute(ExecRequest(process, Stdio(0, 1, 2), console))
        stack.callback(handle.close)
        if options["pid_file"] is not None:
            from runtime.creation import write_pid_file

            write_pid_file(options["pid_file"], handle.process.pid)
        if options["detach"]:
            return 0
        if relay is not None:
            relay.receive_master()
        with forwarded_signals(handle.process):
            return shell_status(handle.wait() if relay is None else relay.run(handle.wait))
