"""Limits on the rate of a transfer."""

from __future__ import annotations

import time

import pytest

from migrate.errors import MigrateError
from migrate.rate_limit import RateLimit, parse_rate


@pytest.mark.parametrize(
    ("text", "rate"),
    [("1000", 1000), ("500k", 512_000), ("1.5M", 1.5 * (1 << 20)), ("2GiB/s", 2 << 30)],
)
def test_parses(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "0", "-1", "fast", "1x", "k"])
def test_refuses(text: str) -> None:
    with pytest.raises(MigrateError):
        parse_rate(text)


def test_keeps_the_rate_and_every_byte() -> None:
    out = bytearray()
    limit = RateLimit(out.extend, 1 << 20)
    data = bytes(range(256)) * 1024
    started = time.monotonic()
    limit.write(data)
    limit.write(data)
    elapsed = time.monotonic() - started
    assert bytes(out) == data * 2
    assert 0.25 < elapsed < 2
