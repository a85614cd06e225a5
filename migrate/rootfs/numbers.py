"""Lists of file numbers in messages: u32 each, little-endian."""

from __future__ import annotations

import array
import sys
from collections.abc import Iterable

from migrate.errors import ProtocolError

MAX_PER_MESSAGE = 1 << 18


def pack_numbers(numbers: Iterable[int]) -> bytes:
    """The bytes of a list."""
    words = array.array("I", numbers)
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()


def unpack_numbers(data: bytes) -> list[int]:
    """The list of some bytes.

    Raises:
        ProtocolError: They are none.
    """
    if len(data) % 4:
        raise ProtocolError("a list of file numbers is malformed")
    words = array.array("I")
    words.frombytes(data)
    if sys.byteorder == "big":
        words.byteswap()
    return words.tolist()
