"""``[user@]host[:path]``: where to ship or migrate to, as ``ssh`` and ``scp`` users write it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from migrate.errors import MigrateError

# A colon ends the host, except within the brackets around an IPv6 address.
_PATTERN = re.compile(
    r"(?:(?P<user>[^@/\[\]]+)@)?(?:\[(?P<v6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^:@/\[\]]+))"
    r"(?::(?P<path>.*))?",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Destination:
    """A far host, and a path there if one was given.

    Attributes:
        host: Name, address or alias of ``~/.ssh/config``.
        user: Login name, or None for the configured one.
        path: What followed the colon (may be empty), or None without a colon.
    """

    host: str
    user: str | None = None
    path: str | None = None

    @classmethod
    def parse(cls, text: str) -> Destination:
        """Read ``[user@]host[:path]``; IPv6 addresses stand in brackets.

        Raises:
            MigrateError: It is none; reason ``bad-destination``.
        """
        match = _PATTERN.fullmatch(text)
        if match is None or text.startswith("-"):
            raise MigrateError(
                f"destination {text!r} is not [user@]host or [user@]host:path",
                reason="bad-destination",
            )
        host = match["v6"] or match["host"]
        if host.startswith("-") or (match["user"] or "").startswith("-"):
            raise MigrateError(
                f"destination {text!r}: host and user may not begin with -",
                reason="bad-destination",
            )
        return cls(host, match["user"], match["path"])

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}" if self.user else host
