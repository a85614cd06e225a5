"""The records of an image, looked up by their class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from formats.records.codec import Record
from runtime.errors import RestoreError

R = TypeVar("R")


class Records:
    """All records of an image, in their order.

    Args:
        records: As `formats.statefile.ImageReader.records` gives them.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self._records = list(records)
        self._by_class: dict[type, list[Any]] = {}
        for record in self._records:
            self._by_class.setdefault(type(record), []).append(record)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def all_of(self, kind: type[R]) -> list[R]:
        """The records of a class, which nobody may change."""
        return self._by_class.get(kind, [])

    def the(self, kind: type[R]) -> R:
        """The only record of a class.

        Raises:
            RestoreError: The image has another number of them.
        """
        found = self.all_of(kind)
        if len(found) != 1:
            raise RestoreError(
                f"the image has {len(found)} {kind.__name__.lower()} records, not one",
                reason="image-inconsistent",
            )
        return found[0]
