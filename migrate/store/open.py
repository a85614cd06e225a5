"""From a store's URL to the backend that serves it."""

from __future__ import annotations

import importlib
from typing import cast

from migrate.errors import StoreError
from migrate.store.backend import Backend

_MODULES = {
    "file": "migrate.store.local",
    "sftp": "migrate.store.sftp",
    "s3": "migrate.store.s3",
    "oci": "migrate.store.oci",
    "oci+http": "migrate.store.oci",
}


def open_backend(url: str) -> Backend:
    """The backend for a URL; its module is imported only now.

    Args:
        url: A path, or ``file://``, ``sftp://user@host[:port]/path``, ``s3://bucket/prefix``,
            ``oci://registry/repository``.

    Raises:
        StoreError: Reason ``store-url``: nobody serves this scheme. Else what the backend raises.
    """
    scheme, found, _ = url.partition("://")
    if not found:
        scheme = "file"
    module = _MODULES.get(scheme)
    if module is None:
        raise StoreError(
            f"{url}: no store can be at {scheme}://; a path, file, sftp, s3 or oci can",
            reason="store-url",
        )
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as exc:
        if exc.name != module:
            raise
        raise StoreError(f"{url}: this wherry has no {scheme} stores", reason="store-url") from None
    return cast("Backend", loaded.open_backend(url))
