"""Valid, abbreviated and random ids."""

from __future__ import annotations

import pytest

from runtime.errors import AmbiguousIdError, ContainerError, ContainerNotFoundError
from runtime.ids import find_id, random_id, validate_id


@pytest.mark.parametrize("cid", ["a", "web-1", "a+b", "A_b.c", "0" * 200])
def test_ids_that_may_be(cid: str) -> None:
    validate_id(cid)


@pytest.mark.parametrize(
    "cid", ["", ".", "..", "a/b", "a b", "ä", "a\n", "a:b", "x" * 300, "../etc"]
)
def test_ids_that_may_not_be(cid: str) -> None:
    with pytest.raises(ContainerError) as caught:
        validate_id(cid)
    assert caught.value.reason == "invalid-id"


def test_an_abbreviated_id_finds_the_only_one_that_begins_with_it() -> None:
    assert find_id("we", ["db", "web"]) == "web"


def test_a_whole_id_wins_over_longer_ones() -> None:
    assert find_id("web", ["web", "web-2"]) == "web"


def test_unknown_and_ambiguous_are_different_failures() -> None:
    with pytest.raises(ContainerNotFoundError):
        find_id("x", ["db", "web"])
    with pytest.raises(ContainerNotFoundError):
        find_id("", ["web"])
    with pytest.raises(AmbiguousIdError, match="web-1, web-2"):
        find_id("web", ["web-1", "web-2"])


def test_random_ids_are_valid_and_differ() -> None:
    ids = {random_id() for _ in range(50)}
    assert len(ids) > 45
    for cid in ids:
        validate_id(cid)
