"""``wherry``: the group of commands, its global options, and how failures reach the user.

Commands load when they are named, so that ``wherry state`` does not pay for paramiko. A failure
that we can explain is one line on standard error and the exit code of its class; anything else is
a bug and shows its traceback with ``--debug``.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click

from formats.errors import WherryError
from migrate.cli.options import Settings
from runtime.interrupt import Interrupted, raise_on_signals

DEFAULT_ROOT = "/run/wherry"
INTERNAL_ERROR = 70  # EX_SOFTWARE, sysexits.h
BROKEN_PIPE = 141  # what a shell reports for a program that SIGPIPE ended


class Entry(NamedTuple):
    """Where a command lives, and its line in the overview (shown without importing it)."""

    module: str
    summary: str


COMMANDS: dict[str, Entry] = {
    "do": Entry("migrate.cli.do", "Run a command over the host's root with a private overlay."),
    "run": Entry("migrate.cli.run", "Create a container and start it."),
    "create": Entry("migrate.cli.create", "Create a container; its program waits for start."),
    "start": Entry("migrate.cli.start", "Start the program of a created container."),
    "exec": Entry("migrate.cli.exec", "Run a further process in a running container."),
    "pause": Entry("migrate.cli.pause", "Freeze a running container."),
    "resume": Entry("migrate.cli.resume", "Thaw a paused container."),
    "state": Entry("migrate.cli.state", "Print the OCI state of a container."),
    "list": Entry("migrate.cli.list", "List containers."),
    "ps": Entry("migrate.cli.ps", "List the processes of a container."),
    "events": Entry("migrate.cli.events", "Print the statistics of a container, repeatedly."),
    "wait": Entry("migrate.cli.wait", "Wait for a container and return its exit status."),
    "kill": Entry("migrate.cli.kill", "Send a signal to a container."),
    "delete": Entry("migrate.cli.delete", "Delete a container and all that belongs to it."),
    "update": Entry("migrate.cli.update", "Change the resource limits of a container."),
    "spec": Entry("migrate.cli.spec", "Write a starting config.json for a bundle."),
    "checkpoint": Entry("migrate.cli.checkpoint", "Save a running container to a state file."),
    "restore": Entry("migrate.cli.restore", "Bring a state file or a snapshot back to life."),
    "snapshot": Entry("migrate.cli.snapshot", "Save a running container into a store."),
    "snapshots": Entry("migrate.cli.snapshots", "List the snapshots of a store."),
    "forget": Entry("migrate.cli.forget", "Drop snapshots by policy."),
    "store": Entry("migrate.cli.store", "Make, check and prune stores; see what they hold."),
    "schedule": Entry("migrate.cli.schedule", "Take snapshots at set times."),
    "image": Entry("migrate.cli.image", "Look into images, verify, compare, copy, name them."),
    "cpu": Entry("migrate.cli.cpu", "Compare the processors of hosts."),
    "ship": Entry("migrate.cli.ship", "Copy a state file to another host."),
    "migrate": Entry("migrate.cli.migrate", "Move a running container to another host."),
    "receive": Entry("migrate.cli.receive", "The other side of migrate; called over SSH."),
    "check": Entry("migrate.cli.check", "Report what this kernel and installation offer."),
    "features": Entry("migrate.cli.features", "Print what the runtime supports, as OCI defines."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module only when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = importlib.import_module(entry.module).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from runtime.oci_state import OCI_VERSION
        from runtime.version import VERSION

        click.echo(f"wherry version {VERSION}\nspec: {OCI_VERSION}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_ROOT,
    envvar="WHERRY_ROOT",
    show_default=True,
    show_envvar=True,
    help="Directory of the containers' state.",
)
@click.option("--debug", is_flag=True, help="Log in detail; show tracebacks.")
@click.option("--log", "log_file", type=click.Path(path_type=Path), help="Log to a file.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text")
@click.option("--version", "-v", is_flag=True, callback=_print_version, expose_value=False)
@click.pass_context
def cli(
    ctx: click.Context, root: Path, debug: bool, log_file: Path | None, log_format: str
) -> None:
    """Run, checkpoint, ship, restore and migrate containers."""
    settings = Settings(root=root.absolute(), debug=debug, log_file=log_file, log_format=log_format)
    # The failure report below runs when click's context is gone already.
    _current.append(settings)
    ctx.obj = settings
    from migrate.cli.logs import configure_logging

    configure_logging(settings)


_current: list[Settings] = []
_stdout = sys.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Without the program's name; those of the process by default.

    Returns:
        The exit status. Without *arguments*, as the process's own command, it does not return
        but ends the process: taking the interpreter apart first would cost 8 ms of every call.
    """
    code = _run(arguments)
    if arguments is None:
        _flush()
        os._exit(code)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    global _stdout  # noqa: PLW0603 - see _reader_gone
    _stdout = sys.stdout
    raise_on_signals()
    _current.clear()
    try:
        result = cli.main(
            args=None if arguments is None else list(arguments),
            prog_name="wherry",
            standalone_mode=False,
        )
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.Abort:
        return 130
    except click.ClickException as exc:
        return _usage_error(exc)
    except Interrupted as exc:
        return 128 + exc.signum
    except (BrokenPipeError, SystemExit) as exc:
        return _reader_gone(exc)
    except WherryError as exc:
        code = f"[{exc.reason}]"
        # A list of refusals ends with the code of its last one.
        sentence = str(exc) if str(exc).endswith(code) else f"{exc} {code}"
        return _fail(exc, sentence, exc.exit_code)
    except OSError as exc:
        return _fail(exc, _os_sentence(exc), 1)
    except Exception as exc:
        return _fail(exc, f"internal error: {type(exc).__name__}: {exc}", INTERNAL_ERROR)


def _flush() -> None:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        pass  # reported already, or nobody is there to report it to


def _usage_error(exc: click.ClickException) -> int:
    from migrate.cli.logs import write_failure

    exc.show()
    write_failure(_settings(), exc.format_message())
    return exc.exit_code


def _fail(exc: BaseException, sentence: str, code: int) -> int:
    """Report a failure: one line, notes after it, the traceback only when asked for."""
    from migrate.cli.logs import write_failure

    settings = _settings()
    notes = [note for note in _notes(exc) if settings.debug or not note.startswith("Traceback")]
    lines = [f"wherry: {sentence}", *(f"wherry: note: {note}" for note in notes)]
    if settings.debug:
        import traceback

        lines.insert(0, "".join(traceback.format_exception(exc)).rstrip())
    elif code == INTERNAL_ERROR:
        lines.append("wherry: this is a bug; run again with --debug for the traceback")
    try:
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()
    except OSError:
        pass  # nobody reads the complaint; the exit status still tells
    write_failure(settings, sentence)
    return code


def _settings() -> Settings:
    return _current[-1] if _current else Settings(root=Path(DEFAULT_ROOT), debug=False)


def _notes(exc: BaseException) -> list[str]:
    return list(getattr(exc, "__notes__", []))


def _os_sentence(exc: OSError) -> str:
    text = exc.strerror or str(exc)
    return f"{exc.filename}: {text}" if exc.filename is not None else text


def _reader_gone(exc: BaseException) -> int:
    """End as quietly as a program that SIGPIPE has ended."""
    # Click turns the error into an exit, and puts something that forgives into sys.stdout's place.
    if isinstance(exc, SystemExit) and sys.stdout is _stdout:
        return exc.code if isinstance(exc.code, int) else 1
    # The next flush goes nowhere instead of failing again.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    return BROKEN_PIPE


if __name__ == "__main__":
    sys.exit(main())
