"""What goes wrong while a network is put back, in the words of a restore."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

from runtime.errors import RestoreError


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Name *what* the block puts back.

    Raises:
        RestoreError: The kernel refused it; or the image holds what does not fit into a message of
            netlink, or no message at all.
    """
    try:
        yield
    except OSError as exc:
        raise RestoreError(f"{what}: {exc}") from exc
    except (ValueError, OverflowError, struct.error) as exc:
        raise RestoreError(f"{what}: {exc}", reason="image-inconsistent") from exc
