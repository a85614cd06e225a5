"""The store that a command works on: ``--store``, WHERRY_STORE, and ``STORE:ID``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from migrate.errors import StoreError

if TYPE_CHECKING:
    from migrate.store.config import Operation
    from migrate.store.store import Store

F = TypeVar("F", bound=Callable[..., Any])

_STORE = click.option(
    "--store",
    "url",
    metavar="URL",
    envvar="WHERRY_STORE",
    show_envvar=True,
    help="A path, or file://, sftp://user@host/path, s3://bucket/prefix, oci://registry/name.",
)


def store_options(function: F) -> F:
    """Give a command the options that say which store, and how to unlock it."""
    return _STORE(function)


def opened(url: str | None, operation: Operation) -> Store:
    """Open the store that the options name.

    Raises:
        UsageError: They name none.
        StoreError: It cannot be opened.
    """
    from migrate.store.store import open_store

    return open_store(require_url(url), operation, _unlock)


def require_url(url: str | None) -> str:
    """The store's URL; a usage error when there is none."""
    if not url:
        raise click.UsageError("no store is named; give --store or set WHERRY_STORE")
    return url


def split_reference(text: str, url: str | None) -> tuple[str, str]:
    """A store's URL and a snapshot from ``STORE:ID``, or from ``ID`` and the store of the options.

    Args:
        text: As given. In ``STORE:ID`` the store ends at the first colon behind the part of a URL
            that may have one, or behind the name of a directory that exists.
        url: The store of the options.
    """
    head, scheme, rest = text.partition("://")
    if scheme:
        authority, slash, path = rest.partition("/")
        if slash:
            path, colon, snapshot = path.partition(":")
            authority = f"{authority}/{path}"
        else:
            authority, colon, snapshot = authority.rpartition(":")
        if colon and snapshot:
            return f"{head}://{authority}", snapshot
        raise click.UsageError(f"{text!r} names a store and no snapshot; write STORE:ID")
    at = text.find(":")
    while at > 0:
        if Path(text[:at]).is_dir():
            return text[:at], text[at + 1 :]
        at = text.find(":", at + 1)
    if "/" in text and "@" not in text:
        raise StoreError(f"{text}: no store is there, and no file", reason="not-a-store")
    return require_url(url), text.removeprefix(":")


def _unlock(*_: Any) -> Any:
    raise StoreError("encrypted stores cannot be opened yet", reason="store-key")
