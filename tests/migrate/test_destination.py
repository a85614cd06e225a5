"""``[user@]host[:path]``."""

from __future__ import annotations

import pytest

from migrate.destination import Destination
from migrate.errors import MigrateError


@pytest.mark.parametrize(
    ("text", "host", "user", "path"),
    [
        ("b", "b", None, None),
        ("b:", "b", None, ""),
        ("root@b", "b", "root", None),
        ("root@b:/srv/x.wherry", "b", "root", "/srv/x.wherry"),
        ("b:a:b", "b", None, "a:b"),
        ("[::1]:x", "::1", None, "x"),
        ("me@[fe80::1%eth0]", "fe80::1%eth0", "me", None),
        ("b:with space/é", "b", None, "with space/é"),
    ],
)
def test_parses(text: str, host: str, user: str | None, path: str | None) -> None:
    assert Destination.parse(text) == Destination(host, user, path)


@pytest.mark.parametrize(
    "text", ["", ":", "@b", "a@", "-oProxyCommand=x", "u@-oX", "[::1", "a/b", "x@y@z:p"]
)
def test_refuses(text: str) -> None:
    with pytest.raises(MigrateError) as caught:
        Destination.parse(text)
    assert caught.value.reason == "bad-destination"


def test_shows_itself_as_it_is_written() -> None:
    assert str(Destination("::1", "me", "x")) == "me@[::1]"
