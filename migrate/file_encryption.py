"""Keys of encrypted state files.

Each file has a master key of its own, random, wrapped once for each secret that shall open it, in
the same way as the key of a store (`migrate.store.crypto`). The key table of the file
(`formats.sealed_file`) is one msgpack map: ``id``, 16 random bytes that stand for the store's id,
and ``keys``, an array of what a store has as key objects.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from formats import wire
from formats.errors import ImageCorruptError
from formats.sealed_file import Cipher, SealedSink
from formats.statefile import Sink
from migrate.errors import StoreError
from migrate.store.crypto import (
    FileCipher,
    Secret,
    key_from,
    new_master,
    unwrapped_key,
    wrapped_key,
)

ID_SIZE = 16
MAX_KEYS = 64


class FileSealer:
    """Makes encrypted files that some secrets open; for `runtime.checkpoint_container`.

    It makes one file: its key is random, and good for nothing else.

    Args:
        secrets: Any of them opens it.
    """

    def __init__(self, secrets: Sequence[Secret]) -> None:
        if not 1 <= len(secrets) <= MAX_KEYS:
            raise StoreError(f"{len(secrets)} secrets, 1 to {MAX_KEYS} fit", reason="store-key")
        master, file_id = new_master(), os.urandom(ID_SIZE)
        keys = [wrapped_key(file_id, master, secret) for secret in secrets]
        self._table = wire.pack({"id": file_id, "keys": keys})
        self._cipher = FileCipher(master)

    def seal(self, sink: Sink) -> SealedSink:
        """What seals an image into *sink*."""
        return SealedSink(sink, self._table, self._cipher)

    def unlock(self, table: bytes) -> Cipher:
        """The cipher of the file that was made (formats.sealed_file.Unlock)."""
        if table != self._table:
            raise ImageCorruptError("is another file than was written")
        return self._cipher


def unlock_table(table: bytes, secret: Secret) -> Cipher:
    """A file's cipher.

    Raises:
        ImageCorruptError: The table is none.
        StoreError: Reason ``store-key``: the secret opens none of the file's keys.
    """
    value = wire.unpack(table)
    if type(value) is not dict:
        raise ImageCorruptError("its key table is malformed")
    file_id, keys = value.get("id"), value.get("keys")
    if type(file_id) is not bytes or len(file_id) != ID_SIZE or type(keys) is not list:
        raise ImageCorruptError("its key table is malformed")
    if len(keys) > MAX_KEYS:
        raise ImageCorruptError(f"its key table has {len(keys)} keys, at most {MAX_KEYS} fit")
    for entry in keys:
        key = key_from(entry, file_id, "the key table")
        master = unwrapped_key(file_id, key, secret) if key.method == secret.method else None
        if master is not None:
            return FileCipher(master)
    raise StoreError(
        f"this {secret.method.replace('-', ' ')} opens none of the file's keys", reason="store-key"
    )
