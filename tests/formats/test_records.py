"""Every record class that exists goes out and comes back, found by reflection."""

from __future__ import annotations

import dataclasses

import pytest

from formats import wire
from formats.errors import ImageCorruptError
from formats.records.codec import pack_record, registered, unpack_record
from tests.formats.samples import samples_of


@pytest.mark.parametrize("kind", registered())
def test_round_trip(kind: str) -> None:
    for sample in samples_of(registered()[kind]):
        packed = wire.pack([kind, pack_record(sample)])
        read_kind, fields = wire.unpack(packed)
        assert unpack_record(read_kind, fields) == sample


@pytest.mark.parametrize("kind", registered())
def test_every_key_refuses_a_wrong_type(kind: str) -> None:
    cls = registered()[kind]
    fields = pack_record(samples_of(cls)[0])
    for field in dataclasses.fields(cls):
        with pytest.raises(ImageCorruptError, match=f"record '{kind}'.*'{field.name}"):
            unpack_record(kind, fields | {field.name: object()})


@pytest.mark.parametrize("kind", registered())
def test_every_record_is_documented(kind: str) -> None:
    cls = registered()[kind]
    assert cls.__doc__
    assert not cls.__doc__.startswith(f"{cls.__name__}("), "that is the dataclass's own docstring"
