"""``wherry store key``: what unlocks an encrypted store."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from migrate.cli.options import print_json
from migrate.cli.store_options import Place, ask_password, opened, store_options
from migrate.errors import StoreError

if TYPE_CHECKING:
    from migrate.store.crypto import AeadSeal, Secret
    from migrate.store.store import Store

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group("key")
def key_group() -> None:
    """Add, list and remove what unlocks an encrypted store."""


@key_group.command("add")
@store_options
@click.option("--new-password-file", type=_FILE, help="The new password is in this file.")
@click.option("--new-key-file", type=_FILE, help="A new key file, at least 32 random bytes.")
@click.option("--new-recipient", type=_FILE, help="A public key (X25519, PEM).")
@click.option("--label", default="", help="A note for people.")
@_JSON
def add(
    place: Place,
    new_password_file: Path | None,
    new_key_file: Path | None,
    new_recipient: Path | None,
    label: str,
    as_json: bool,
) -> None:
    """Let a further password, key file or private key unlock the store.

    Without an option the new password is asked for on the terminal.
    """
    from migrate.store.config import Operation
    from migrate.store.crypto import add_key

    with opened(place, Operation.WRITE) as store:
        seal = _sealed(store)
        secret = _new_secret(new_password_file, new_key_file, new_recipient)
        key_id = add_key(store.backend, store.config, seal.master, secret, label=label[:200])
    if as_json:
        print_json({"id": key_id.hex(), "method": secret.method})
    else:
        click.echo(f"key {key_id.hex()[:8]} is added")


@key_group.command("list")
@store_options
@_JSON
def list_keys(place: Place, as_json: bool) -> None:
    """List the keys; a secret is not needed, and none is shown."""
    from migrate.cli.store_options import require_url
    from migrate.cli.table import print_table
    from migrate.store.crypto import read_keys
    from migrate.store.open import open_backend

    backend = open_backend(require_url(place.url))
    try:
        keys = read_keys(backend)
    finally:
        backend.close()
    rows = [
        {
            "id": key.key_id.hex(),
            "method": key.method,
            "created": f"{_moment(key.created_ns):%Y-%m-%dT%H:%M:%SZ}",
            "label": key.label,
        }
        for key in keys
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        ("ID", "METHOD", "MADE (UTC)", "LABEL"),
        [(row["id"][:8], row["method"], row["created"], row["label"] or "-") for row in rows],
    )


@key_group.command("remove")
@store_options
@click.argument("wanted", metavar="ID")
def remove(place: Place, wanted: str) -> None:
    """Remove a key; its id may be abbreviated.

    Whoever has unlocked the store before may have kept the master key, which stays the same.
    """
    from migrate.store.config import Operation
    from migrate.store.crypto import read_keys
    from migrate.store.objects import Kind, name_of

    with opened(place, Operation.WRITE) as store:
        _sealed(store)
        keys = read_keys(store.backend)
        found = [key for key in keys if key.key_id.hex().startswith(wanted.lower())]
        if len(found) != 1:
            raise StoreError(
                f"{store.url}: {len(found)} keys begin with {wanted!r}", reason="store-key"
            )
        if len(keys) == 1:
            raise StoreError(
                f"{store.url}: this is the only key; without it the store is lost",
                reason="store-key",
            )
        store.backend.remove(name_of(Kind.KEY, found[0].key_id))
    click.echo(f"key {found[0].key_id.hex()[:8]} is removed")


def _sealed(store: Store) -> AeadSeal:
    from migrate.store.crypto import AeadSeal

    if not isinstance(store.seal, AeadSeal):
        raise StoreError(f"{store.url}: the store is not encrypted", reason="store-key")
    return store.seal


def _new_secret(
    password_file: Path | None, key_file: Path | None, recipient: Path | None
) -> Secret:
    from migrate.store import secrets

    if sum(one is not None for one in (password_file, key_file, recipient)) > 1:
        raise click.UsageError("give one of --new-password-file, --new-key-file, --new-recipient")
    if password_file is not None:
        return secrets.password_from_file(password_file)
    if key_file is not None:
        return secrets.key_file(key_file)
    if recipient is not None:
        return secrets.recipient(recipient)
    return ask_password("new password", twice=True)


def _moment(created_ns: int) -> datetime.datetime:
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return epoch + datetime.timedelta(microseconds=created_ns // 1000)
