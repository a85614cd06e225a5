"""What the commands share: the global settings and the options that several of them take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from runtime.container import Container

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Settings:
    """The global options; every command gets them with ``@pass_settings``.

    Attributes:
        root: Directory of the containers' state, absolute.
        debug: Detailed log, tracebacks.
        log_file: Where the log goes instead of standard error.
        log_format: ``"text"`` or ``"json"``.
    """

    root: Path
    debug: bool
    log_file: Path | None = None
    log_format: str = "text"

    def load(self, cid: str) -> Container:
        """The container with this id, which may be abbreviated."""
        from runtime.container import Container

        return Container.load(self.root, cid)


pass_settings = click.make_pass_decorator(Settings)


def print_json(document: Any) -> None:
    """Print one JSON document for people and programs."""
    import json

    click.echo(json.dumps(document, indent=2))
