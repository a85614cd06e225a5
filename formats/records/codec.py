"""Records as msgpack maps: frozen dataclasses on one side, plain dictionaries on the other.

A record is a frozen, slotted dataclass registered under a wire name::

    @record("vma")
    @dataclass(frozen=True, slots=True)
    class Vma:
        start: int
        end: int

On the wire it is a map from field name to value. The rules, in both directions:

* Types are exact. A ``bool`` is not an ``int``, an ``int`` is not a ``float``.
* ``int`` fits 64 bits: ``-2**63`` to ``2**64 - 1``.
* Keys that the class does not know are ignored: a newer writer may add them.
* A missing key takes the field's default; without a default the image is corrupt.
* Depth, lengths and counts are bounded as `formats.limits` says.

Field types: ``int``, ``bool``, ``str``, ``bytes``, ``float``, ``X | None``, ``tuple[X, ...]``,
``tuple[X, Y]``, ``dict[str, X]``, a `enum.StrEnum`, another dataclass, and `Json`. The converters
of a class are made once, at its first use; there is no per-value look at annotations.

Text is UTF-8; bytes of a path that are not UTF-8 appear as lone surrogates, as `os.fsdecode` makes
them, and reach the wire unchanged.
"""

from __future__ import annotations

import dataclasses
import enum
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol, TypeVar

from formats.errors import ImageCorruptError, ImageWriteError
from formats.limits import (
    INT_MAX,
    INT_MIN,
    MAX_BLOB_SIZE,
    MAX_DEPTH,
    MAX_ITEMS,
    MAX_TEXT_SIZE,
)

KIND_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,63}")


class _JsonMark:
    """Tells the codec that any JSON-like value may stand here."""


Json = Annotated[Any, _JsonMark]
"""A value made of None, bool, int, float, str, list and dict with str keys."""


class Record(Protocol):
    """Any instance of a dataclass that went through `record`."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


_Class = TypeVar("_Class", bound=type)
_Convert = Callable[[Any, int], Any]  # (value, levels left) -> value


class _BadValueError(Exception):
    """A value of the wrong type or size; collects the path to it on its way up."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.path = ""

    def below(self, step: str) -> _BadValueError:
        self.path = step + self.path
        return self


class _OutOfBoundsError(_BadValueError):
    """A value of the right type that is too large: the workload's doing, not a bug."""


class _Field(NamedTuple):
    name: str
    pack: _Convert
    unpack: _Convert
    default: Callable[[], Any] | None


_classes: dict[str, type] = {}
_kinds: dict[type, str] = {}
_plans: dict[type, tuple[_Field, ...]] = {}
_nested_classes: set[type] = set()  # named in some plan


# The registry


def record(kind: str) -> Callable[[_Class], _Class]:
    """Register a frozen, slotted dataclass under the wire name *kind*.

    Raises:
        TypeError: The class is not such a dataclass.
        ValueError: The name is malformed or taken.
    """

    def register(cls: _Class) -> _Class:
        if not KIND_PATTERN.fullmatch(kind):
            raise ValueError(f"record name {kind!r} must match {KIND_PATTERN.pattern}")
        if kind in _classes:
            raise ValueError(f"record name {kind!r} is taken by {_classes[kind].__qualname__}")
        _require_frozen(cls)
        _classes[kind] = cls
        _kinds[cls] = kind
        return cls

    return register


def kind_of(rec: Record) -> str:
    """The wire name of a record's class; TypeError for a class that was never registered."""
    try:
        return _kinds[type(rec)]
    except KeyError:
        raise TypeError(f"{type(rec).__qualname__} is not a registered record") from None


def class_of(kind: str) -> type | None:
    """The class registered under *kind*, or None when this version knows none."""
    found = _classes.get(kind)
    if found is None:
        from formats import records

        records.load_all()
        found = _classes.get(kind)
    return found


def registered() -> dict[str, type]:
    """Every record class of this version by wire name, in alphabetical order."""
    from formats import records

    records.load_all()
    return dict(sorted(_classes.items()))


def prepare() -> None:
    """Do now what the first record of each class would take a while for."""
    waiting: list[type] = list(registered().values())
    while waiting:
        for cls in waiting:
            _plan(cls)
        waiting = [cls for cls in _nested_classes if cls not in _plans]


# Packing and unpacking


def pack_record(rec: Record) -> dict[str, Any]:
    """Turn a record into the map that goes on the wire.

    Raises:
        TypeError: The record's class is not registered, or a value has the wrong type: a bug.
        ImageWriteError: A value is larger than an image can hold.
    """
    kind = kind_of(rec)
    try:
        return _pack_fields(rec, MAX_DEPTH)
    except _OutOfBoundsError as exc:
        raise ImageWriteError(
            f"record {kind!r} key {exc.path.lstrip('.')!r}: {exc.sentence}",
            reason="record-too-large",
        ) from None
    except _BadValueError as exc:
        raise TypeError(f"record {kind!r} key {exc.path.lstrip('.')!r}: {exc.sentence}") from None


def unpack_record(kind: str, wire: Mapping[str, Any]) -> Record:
    """Turn a map from the wire into the record registered under *kind*.

    Raises:
        ImageCorruptError: Unknown kind, missing key, wrong type or value out of bounds; the
            sentence names the record and the key.
    """
    cls = class_of(kind)
    if cls is None:
        raise ImageCorruptError(f"record {kind!r} is unknown to this version")
    try:
        rec: Record = _unpack_fields(cls, wire, MAX_DEPTH)
    except _BadValueError as exc:
        where = f" key {exc.path.lstrip('.')!r}" if exc.path else ""
        raise ImageCorruptError(f"record {kind!r}{where}: {exc.sentence}") from None
    return rec


def _pack_fields(rec: Any, depth: int) -> dict[str, Any]:
    if not depth:
        raise _too_deep()
    wire = {}
    name = ""
    below = depth - 1
    try:
        for name, pack, _, _ in _plan(type(rec)):
            wire[name] = pack(getattr(rec, name), below)
    except _BadValueError as exc:
        raise exc.below(f".{name}") from None
    return wire


def _unpack_fields(cls: type, wire: Any, depth: int) -> Any:
    if not isinstance(wire, dict):
        raise _mismatch("a map", wire)
    if not depth:
        raise _too_deep()
    values = []
    name = ""
    below = depth - 1
    try:
        for name, _, unpack, default in _plan(cls):
            if name in wire:
                values.append(unpack(wire[name], below))
            elif default is not None:
                values.append(default())
            else:
                raise _BadValueError("the key is missing")
    except _BadValueError as exc:
        raise exc.below(f".{name}") from None
    try:
        return cls(*values)
    except ValueError as exc:  # raised by a record's own __post_init__
        raise _BadValueError(str(exc)) from None


# Plans: the converters of one class


def _plan(cls: type) -> tuple[_Field, ...]:
    plan = _plans.get(cls)
    if plan is None:
        plan = _plans[cls] = _make_plan(cls)
    return plan


def _make_plan(cls: type) -> tuple[_Field, ...]:
    _require_frozen(cls)
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = []
    for field in dataclasses.fields(cls):
        try:
            pack, unpack = _converters(hints[field.name])
        except TypeError as exc:
            raise TypeError(f"{cls.__qualname__}.{field.name}: {exc}") from None
        fields.append(_Field(field.name, pack, unpack, _default_of(field)))
    return tuple(fields)


def _default_of(field: dataclasses.Field[Any]) -> Callable[[], Any] | None:
    if field.default is not dataclasses.MISSING:
        value = field.default
        return lambda: value
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory
    return None


def _require_frozen(cls: type) -> None:
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__qualname__} is not a dataclass")
    parameters = cls.__dataclass_params__  # type: ignore[attr-defined]  # typeshed hides it
    if not parameters.frozen or "__slots__" not in cls.__dict__:
        raise TypeError(f"{cls.__qualname__} must be a frozen, slotted dataclass")


def _converters(hint: Any) -> tuple[_Convert, _Convert]:
    """The pair (pack, unpack) for one annotation."""
    scalar = _SCALARS.get(hint) if isinstance(hint, type) else None
    if scalar is not None:
        return scalar
    if _JsonMark in getattr(hint, "__metadata__", ()):
        return _json, _json
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _optional(args)
    if origin is tuple:
        return _sequence(args)
    if origin is dict and args[0] is str:
        return _dictionary(args[1])
    if isinstance(hint, type) and issubclass(hint, enum.StrEnum):
        return _enumeration(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _nested(hint)
    raise TypeError(f"records cannot hold {hint!r}")


def _optional(args: tuple[Any, ...]) -> tuple[_Convert, _Convert]:
    inner = [arg for arg in args if arg is not types.NoneType]
    if len(inner) != 1 or len(args) != 2:
        raise TypeError("of unions, only X | None is supported")

    def or_none(convert: _Convert) -> _Convert:
        return lambda value, depth: None if value is None else convert(value, depth)

    pack, unpack = _converters(inner[0])
    return or_none(pack), or_none(unpack)


def _sequence(args: tuple[Any, ...]) -> tuple[_Convert, _Convert]:
    if len(args) == 2 and args[1] is Ellipsis:
        pack, unpack = _converters(args[0])
        return _many(pack, tuple, list), _many(unpack, list, tuple)
    pairs = [_converters(arg) for arg in args]
    return (
        _fixed([pack for pack, _ in pairs], tuple, list),
        _fixed([unpack for _, unpack in pairs], list, tuple),
    )


def _many(convert: _Convert, source: type[Any], target: Callable[[Any], Any]) -> _Convert:
    def convert_all(value: Any, depth: int) -> Any:
        if not isinstance(value, source):
            raise _mismatch(f"a {source.__name__}", value)
        _check_room(len(value), depth)
        below = depth - 1
        try:
            made = [convert(item, below) for item in value]
        except _BadValueError:
            for index, item in enumerate(value):  # which one was it?
                try:
                    convert(item, below)
                except _BadValueError as exc:
                    raise exc.below(f"[{index}]") from None
            raise
        return made if target is list else target(made)

    return convert_all


def _fixed(converts: list[_Convert], source: type[Any], target: Callable[[Any], Any]) -> _Convert:
    size = len(converts)

    def convert_each(value: Any, depth: int) -> Any:
        if not isinstance(value, source):
            raise _mismatch(f"a {source.__name__}", value)
        if len(value) != size:
            raise _BadValueError(f"expected {size} elements, found {len(value)}")
        _check_room(size, depth)
        return target(
            [convert(item, depth - 1) for convert, item in zip(converts, value, strict=True)]
        )

    return convert_each


def _dictionary(hint: Any) -> tuple[_Convert, _Convert]:
    def over_values(convert: _Convert) -> _Convert:
        def convert_all(value: Any, depth: int) -> dict[str, Any]:
            if not isinstance(value, dict):
                raise _mismatch("a map", value)
            _check_room(len(value), depth)
            made = {}
            for key, item in value.items():
                try:
                    made[_text(key, depth)] = convert(item, depth - 1)
                except _BadValueError as exc:
                    raise exc.below(f"[{str(key)[:40]}]") from None
            return made

        return convert_all

    pack, unpack = _converters(hint)
    return over_values(pack), over_values(unpack)


def _enumeration(cls: type[enum.StrEnum]) -> tuple[_Convert, _Convert]:
    members = {member.value: member for member in cls}

    def pack(value: Any, depth: int) -> str:
        if type(value) is not cls:
            raise _mismatch(cls.__name__, value)
        return value.value

    def unpack(value: Any, depth: int) -> enum.StrEnum:
        if type(value) is not str or value not in members:
            raise _BadValueError(f"expected one of {', '.join(members)}, found {_show(value)}")
        return members[value]

    return pack, unpack


def _nested(cls: type) -> tuple[_Convert, _Convert]:
    _nested_classes.add(cls)

    def pack(value: Any, depth: int) -> dict[str, Any]:
        if type(value) is not cls:
            raise _mismatch(cls.__name__, value)
        return _pack_fields(value, depth)

    def unpack(value: Any, depth: int) -> Any:
        return _unpack_fields(cls, value, depth)

    return pack, unpack


# Scalars


def _int(value: Any, depth: int) -> int:
    if type(value) is not int:
        raise _mismatch("an integer", value)
    if not INT_MIN <= value <= INT_MAX:
        raise _OutOfBoundsError(f"{value} does not fit 64 bits")
    return value


def _pack_int(value: Any, depth: int) -> int:
    if type(value) is int and INT_MIN <= value <= INT_MAX:
        return value
    # IntEnum and IntFlag (signal.Signals, socket.AddressFamily) are integers to a record.
    plain = int(value) if isinstance(value, enum.Enum) and isinstance(value, int) else value
    return _int(plain, depth)


def _bool(value: Any, depth: int) -> bool:
    if type(value) is not bool:
        raise _mismatch("a boolean", value)
    return value


def _float(value: Any, depth: int) -> float:
    if type(value) is not float:
        raise _mismatch("a float", value)
    return value


def _text(value: Any, depth: int) -> str:
    if type(value) is not str:
        raise _mismatch("text", value)
    if len(value) > MAX_TEXT_SIZE:
        raise _OutOfBoundsError(f"text of {len(value)} characters, at most {MAX_TEXT_SIZE} allowed")
    return value


def _blob(value: Any, depth: int) -> bytes:
    if type(value) is not bytes:
        raise _mismatch("bytes", value)
    if len(value) > MAX_BLOB_SIZE:
        raise _OutOfBoundsError(f"{len(value)} bytes, at most {MAX_BLOB_SIZE} allowed")
    return value


def _json(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind is str:
        return _text(value, depth)
    if kind is int:
        return _int(value, depth)
    if value is None or kind is bool or kind is float:
        return value
    if kind is list or kind is tuple:
        _check_room(len(value), depth)
        return [_json(item, depth - 1) for item in value]
    if kind is dict:
        _check_room(len(value), depth)
        return {_text(key, depth): _json(item, depth - 1) for key, item in value.items()}
    raise _mismatch("a JSON value", value)


_SCALARS: dict[type, tuple[_Convert, _Convert]] = {
    int: (_pack_int, _int),
    bool: (_bool, _bool),
    float: (_float, _float),
    str: (_text, _text),
    bytes: (_blob, _blob),
}


# Refusals


def _check_room(count: int, depth: int) -> None:
    if not depth:
        raise _too_deep()
    if count > MAX_ITEMS:
        raise _OutOfBoundsError(f"{count} elements, at most {MAX_ITEMS} allowed")


def _too_deep() -> _BadValueError:
    return _OutOfBoundsError(f"nested more than {MAX_DEPTH} levels deep")


def _mismatch(wanted: str, value: Any) -> _BadValueError:
    return _BadValueError(f"expected {wanted}, found {_show(value)}")


def _show(value: Any) -> str:
    text = repr(value) if type(value) in (int, bool, float) or value is None else ""
    name = type(value).__name__
    return f"{name} {text}" if text and len(text) < 40 else name
