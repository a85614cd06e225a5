"""Read JSON strictly: wrong types, missing and unknown keys are errors that name their path.

A ``Node`` is one JSON value with the path that leads to it. Reading an object's key marks it as
known; ``done()`` then refuses whatever nobody read. So a key that the runtime does not honour can
never be skipped in silence: not reading it is refusing it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from runtime.errors import SpecError

_PLAIN_KEY = re.compile(r"[A-Za-z_][\w-]*\Z")


def invalid(path: str, why: str) -> SpecError:
    """The configuration contradicts the specification at *path*."""
    return SpecError(f"config.json: {path}: {why}", reason="spec-invalid")


def unsupported(path: str, why: str) -> SpecError:
    """The configuration asks at *path* for something that cannot be given."""
    return SpecError(f"config.json: {path}: {why}", reason="spec-unsupported")


class Node:
    """A JSON value and its path in the configuration, for instance ``linux.namespaces[2].path``."""

    __slots__ = ("_seen", "path", "value")

    def __init__(self, value: Any, path: str = "") -> None:
        self.value = value
        self.path = path
        self._seen: set[str] = set()

    def _child_path(self, key: str) -> str:
        if not _PLAIN_KEY.match(key):
            return f"{self.path}[{key!r}]"
        return f"{self.path}.{key}" if self.path else key

    def _wrong(self, wanted: str) -> SpecError:
        got = "null" if self.value is None else f"{type(self.value).__name__} {self.value!r:.80}"
        return invalid(self.path or "(top)", f"{got}, needs {wanted}")

    # -- objects

    def _object(self) -> Mapping[str, Any]:
        if not isinstance(self.value, dict):
            raise self._wrong("an object")
        return self.value

    def get(self, key: str) -> Node | None:
        """The value of *key*, or None when it is absent or null. Marks the key as known."""
        self._seen.add(key)
        value = self._object().get(key)
        return None if value is None else Node(value, self._child_path(key))

    def need(self, key: str) -> Node:
        """The value of *key*, which must be there."""
        node = self.get(key)
        if node is None:
            raise invalid(self._child_path(key), "is missing")
        return node

    def refuse(self, key: str, why: str) -> None:
        """Refuse *key* by name when it asks for something: anything but null, "", {}, [], false."""
        node = self.get(key)
        if node is not None and node.value not in ("", {}, [], False):
            raise unsupported(node.path, why)

    def done(self) -> None:
        """Refuse every key that was not read."""
        for key in self._object():
            if key not in self._seen:
                raise unsupported(self._child_path(key), "unknown key; wherry would not honour it")

    def items(self) -> Iterator[tuple[str, Node]]:
        """All keys with their values, for maps with free keys."""
        for key, value in self._object().items():
            yield key, Node(value, self._child_path(key))

    # -- lists

    def elements(self) -> list[Node]:
        """The elements of a list."""
        if not isinstance(self.value, list):
            raise self._wrong("a list")
        return [Node(value, f"{self.path}[{index}]") for index, value in enumerate(self.value)]

    def list_of(self, key: str) -> list[Node]:
        """The elements under *key*; none when it is absent or null."""
        node = self.get(key)
        return [] if node is None else node.elements()

    def strings(self, key: str) -> tuple[str, ...]:
        """The strings under *key*; none when it is absent or null."""
        return tuple(node.text() for node in self.list_of(key))

    def string_map(self, key: str) -> dict[str, str]:
        """A map of strings under *key*; empty when it is absent or null."""
        node = self.get(key)
        return {} if node is None else {name: value.text() for name, value in node.items()}

    # -- scalars

    def text(self) -> str:
        """A string without NUL bytes."""
        if not isinstance(self.value, str):
            raise self._wrong("a string")
        if "\0" in self.value:
            raise invalid(self.path, "contains a NUL byte")
        return self.value

    def integer(self, low: int = -(1 << 63), high: int = (1 << 64) - 1) -> int:
        """An integer in ``[low, high]``."""
        # bool is an int to Python, 3.0 is not: JSON tells them apart, so do we
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            raise self._wrong("an integer")
        if not low <= self.value <= high:
            raise invalid(self.path, f"{self.value} is not between {low} and {high}")
        return self.value

    def boolean(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            raise self._wrong("true or false")
        return self.value

    def choice(self, choices: Collection[str]) -> str:
        """A string that is one of *choices*."""
        text = self.text()
        if text not in choices:
            raise invalid(self.path, f"{text!r} is none of {', '.join(sorted(choices))}")
        return text

    def str_of(self, key: str, default: str = "") -> str:
        """The string under *key*, or *default*."""
        node = self.get(key)
        return default if node is None else node.text()

    def bool_of(self, key: str, default: bool = False) -> bool:
        """The boolean under *key*, or *default*."""
        node = self.get(key)
        return default if node is None else node.boolean()

    def int_of(self, key: str, low: int = -(1 << 63), high: int = (1 << 64) - 1) -> int | None:
        """The integer under *key*, or None."""
        node = self.get(key)
        return None if node is None else node.integer(low, high)
