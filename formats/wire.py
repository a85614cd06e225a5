"""msgpack, with its options chosen once.

Writing:
* ``use_bin_type`` keeps text and bytes apart (msgpack 2.0 types).
* ``strict_types`` refuses subclasses, so that nothing is written which would not come back.
* ``unicode_errors="surrogateescape"`` lets a path that is not UTF-8 through unchanged, as the bytes
  that the kernel knows.

Reading, where every byte may be hostile:
* Lengths are limited before anything is allocated. An array header that promises more elements
  than `MAX_ITEMS` is refused; so nested headers cannot multiply into gigabytes.
* A byte can become a hundred bytes of objects: a map of one entry has four bytes. So maps, arrays,
  and their elements count against a `Budget` while they are made.
* Extension types, and with them timestamps, are not part of the format: ``max_ext_len=0``.
* Map keys are text (``strict_map_key`` keeps out anything but text and bytes; the record codec then
  refuses bytes).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack

from formats.errors import ImageCorruptError, ImageWriteError
from formats.limits import MAX_BLOB_SIZE, MAX_ITEMS, MAX_TEXT_SIZE, MAX_VALUES_WEIGHT

_packer = msgpack.Packer(use_bin_type=True, strict_types=True, unicode_errors="surrogateescape")
_LIMITS: dict[str, Any] = {
    "raw": False,
    "use_list": True,
    "strict_map_key": True,
    "unicode_errors": "surrogateescape",
    "max_array_len": MAX_ITEMS,
    "max_map_len": MAX_ITEMS,
    "max_str_len": MAX_TEXT_SIZE,
    "max_bin_len": MAX_BLOB_SIZE,
    "max_ext_len": 0,
}


class Budget:
    """What values may still weigh: about the bytes of memory that their objects take.

    Args:
        weight: At the start; more can be added to `left`.
    """

    __slots__ = ("left",)

    # docs/format.md has these numbers.
    _ARRAY, _ELEMENT, _MAP, _ENTRY = 56, 60, 200, 70

    def __init__(self, weight: int = MAX_VALUES_WEIGHT) -> None:
        self.left = weight

    def take_array(self, value: list[Any]) -> list[Any]:
        """Count an array that was just made; ImageCorruptError when it is too much."""
        self.left -= self._ARRAY + self._ELEMENT * len(value)
        if self.left < 0:
            raise self._spent()
        return value

    def take_map(self, value: dict[str, Any]) -> dict[str, Any]:
        """As `take_array`, for a map."""
        self.left -= self._MAP + self._ENTRY * len(value)
        if self.left < 0:
            raise self._spent()
        return value

    @staticmethod
    def _spent() -> ImageCorruptError:
        return ImageCorruptError(
            "msgpack that unpacks into far more than its size accounts for", reason="image-bomb"
        )


def pack(value: Any) -> bytes:
    """Serialize one value of None, bool, int, float, str, bytes, list and dict.

    Raises:
        ImageWriteError: Text that is neither Unicode nor bytes of a path (reason ``not-text``).
        TypeError, OverflowError: Another type, or an integer beyond 64 bits: a bug.
    """
    try:
        packed: bytes = _packer.pack(value)
    except UnicodeEncodeError as exc:
        raise ImageWriteError(f"{exc.object!r:.80} is no text", reason="not-text") from None
    return packed


def unpack(data: bytes | bytearray | memoryview) -> Any:
    """Read exactly one value; ImageCorruptError when *data* is anything else."""
    budget = Budget()
    try:
        return msgpack.unpackb(
            data, list_hook=budget.take_array, object_hook=budget.take_map, **_LIMITS
        )
    except (msgpack.UnpackException, ValueError, RecursionError) as exc:
        raise _malformed(exc) from None


def unpack_all(data: bytes | bytearray | memoryview, budget: Budget | None = None) -> Iterator[Any]:
    """Read the values that stand one after another in *data*, to its last byte.

    Args:
        data: msgpack.
        budget: What all of them together may weigh; one of this call's own by default.

    Raises:
        ImageCorruptError: Malformed or truncated msgpack, or a value beyond the limits.
    """
    budget = budget or Budget()
    unpacker = msgpack.Unpacker(
        max_buffer_size=max(1, len(data)),
        list_hook=budget.take_array,
        object_hook=budget.take_map,
        **_LIMITS,
    )
    unpacker.feed(data)
    while unpacker.tell() < len(data):
        try:
            value = unpacker.unpack()
        except (msgpack.UnpackException, ValueError, RecursionError) as exc:
            raise _malformed(exc) from None
        yield value


def _malformed(exc: Exception) -> ImageCorruptError:
    return ImageCorruptError(f"malformed msgpack: {str(exc) or type(exc).__name__}")
