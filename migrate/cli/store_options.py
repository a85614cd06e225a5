"""The store that a command works on: ``--store``, WHERRY_STORE, and ``STORE:ID``."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from migrate.errors import StoreError

if TYPE_CHECKING:
    from formats.sealed_file import Cipher, Unlock
    from migrate.store.backend import Backend
    from migrate.store.config import Operation, StoreConfig
    from migrate.store.crypto import Secret
    from migrate.store.sealing import Seal
    from migrate.store.store import Store

F = TypeVar("F", bound=Callable[..., Any])

_PASSWORD = "WHERRY_STORE_PASSWORD"  # read by migrate.store.secrets, which is slow to import
_OPTIONS = (
    click.option(
        "--store",
        "url",
        metavar="URL",
        envvar="WHERRY_STORE",
        show_envvar=True,
        help="A path, or file://, sftp://user@host/path, s3://bucket/prefix, oci://registry/name.",
    ),
)
_SECRETS = (
    click.option(
        "--password-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Unlock the store or file with the password in this file.",
    ),
    click.option(
        "--password-command",
        metavar="COMMAND",
        help="Unlock it with the password that this command prints.",
    ),
    click.option(
        "--key-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Unlock it with this key file.",
    ),
    click.option(
        "--identity",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Unlock it with this private key (X25519, PEM).",
    ),
)


@dataclass(frozen=True, slots=True)
class Place:
    """A store as the options name it, and how to unlock it.

    Attributes:
        url: None when none is named.
        password_file, password_command, key_file, identity: Where the secret comes from; without
            any, WHERRY_STORE_PASSWORD, or the terminal.
    """

    url: str | None
    password_file: Path | None = None
    password_command: str | None = None
    key_file: Path | None = None
    identity: Path | None = None

    @property
    def has_secret(self) -> bool:
        """Whether somebody has given a secret, in whatever way."""
        return self.names_secret or _PASSWORD in os.environ

    @property
    def names_secret(self) -> bool:
        """Whether the options name a secret."""
        given = (self.password_file, self.password_command, self.key_file, self.identity)
        return any(one is not None for one in given)

    def secret(self, *, new: bool = False) -> Secret:
        """The secret that unlocks the store.

        Args:
            new: It is for a new store: a password that is typed is asked for twice.

        Raises:
            StoreError: There is none (``store-key``).
        """
        from migrate.store import secrets

        given = [self.password_file, self.password_command, self.key_file, self.identity]
        if sum(one is not None for one in given) > 1:
            raise click.UsageError(
                "give one of --password-file, --password-command, --key-file and --identity"
            )
        if self.password_file is not None:
            return secrets.password_from_file(self.password_file)
        if self.password_command is not None:
            return secrets.password_from_command(self.password_command)
        if self.key_file is not None:
            return secrets.key_file(self.key_file)
        if self.identity is not None:
            return secrets.identity(self.identity)
        found = secrets.password_from_environment()
        if found is not None:
            return found
        return ask_password(f"password of {self.url}", twice=new)

    def unlock(self, backend: Backend, config: StoreConfig) -> Seal:
        """Find the store's key (migrate.store.store.Unlock)."""
        from migrate.store.crypto import unlock

        return unlock(backend, config, self.secret())

    def unlock_file(self, path: Path) -> Unlock:
        """What finds the key of a state file, should that be encrypted."""

        def secret() -> Secret:
            return dataclasses.replace(self, url=str(path)).secret()

        def unlock(table: bytes) -> Cipher:
            from migrate.file_encryption import unlock_table

            if table not in found:
                found[table] = unlock_table(table, secret())
            return found[table]

        found: dict[bytes, Cipher] = {}
        return unlock


def ask_password(prompt: str, *, twice: bool) -> Secret:
    """Ask for a password on the terminal; StoreError (``store-key``) when there is none."""
    from migrate.store.secrets import password_secret

    if not sys.stdin.isatty():
        raise StoreError(
            f"there is no terminal to ask for the {prompt}; give --password-file, "
            "--password-command, --key-file, --identity or WHERRY_STORE_PASSWORD",
            reason="store-key",
        )
    typed = click.prompt(prompt, hide_input=True, err=True, confirmation_prompt=twice)
    return password_secret(str(typed))


def store_options(function: F) -> F:
    """Give a command the options that say which store, and how to unlock it, as a `Place`."""

    @functools.wraps(function)
    def with_place(
        *args: Any,
        url: str | None,
        password_file: Path | None,
        password_command: str | None,
        key_file: Path | None,
        identity: Path | None,
        **rest: Any,
    ) -> Any:
        place = Place(url, password_file, password_command, key_file, identity)
        return function(*args, place=place, **rest)

    decorated: Any = with_place
    for option in reversed((*_OPTIONS, *_SECRETS)):
        decorated = option(decorated)
    return cast("F", decorated)


def secret_options(function: F) -> F:
    """Only the options that name a secret, as a `Place` without a store."""

    @functools.wraps(function)
    def with_place(
        *args: Any,
        password_file: Path | None,
        password_command: str | None,
        key_file: Path | None,
        identity: Path | None,
        **rest: Any,
    ) -> Any:
        place = Place(None, password_file, password_command, key_file, identity)
        return function(*args, place=place, **rest)

    decorated: Any = with_place
    for option in reversed(_SECRETS):
        decorated = option(decorated)
    return cast("F", decorated)


def opened(place: Place, operation: Operation) -> Store:
    """Open the store that the options name.

    Raises:
        UsageError: They name none.
        StoreError: It cannot be opened.
    """
    from migrate.store.store import open_store

    store = open_store(require_url(place.url), operation, place.unlock)
    if place.has_secret and not store.config.encrypted:
        store.disconnect()
        # Whoever gives a secret expects that nobody can read along: another store in the place of
        # an encrypted one must not go unnoticed.
        raise StoreError(
            f"{store.url}: a secret is given, and the store is not encrypted", reason="store-key"
        )
    return store


def require_url(url: str | None) -> str:
    """The store's URL; a usage error when there is none."""
    if not url:
        raise click.UsageError("no store is named; give --store or set WHERRY_STORE")
    return url


def at_reference(text: str, place: Place) -> tuple[Place, str]:
    """As `split_reference`; the store gets the secret of the options."""
    url, snapshot = split_reference(text, place.url)
    return dataclasses.replace(place, url=url), snapshot


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
