"""Container ids: which are valid, and how an abbreviated one finds its container."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from runtime.errors import AmbiguousIdError, ContainerError, ContainerNotFoundError

# runc's and runsc's rule. "." and ".." fit the pattern but are no names for a directory.
_VALID_ID = re.compile(r"[\w+.-]+", re.ASCII)
BUNDLES = ".bundles"
"""What in a state root is no container: bundles that came from other hosts."""
_MAX_LENGTH = 255 - len(".lock")

# fmt: off
_ADJECTIVES = (
    "ample", "brisk", "calm", "clear", "eager", "early", "fair", "fleet", "fresh", "keen", "level",
    "light", "merry", "neat", "nimble", "proud", "quick", "quiet", "steady", "still", "swift",
    "tidy", "trim", "warm",
)
_BOATS = (
    "barge", "brig", "canoe", "coble", "cog", "cutter", "dinghy", "dory", "ferry", "galley", "gig",
    "hoy", "junk", "kayak", "ketch", "lugger", "packet", "pinnace", "punt", "raft", "scow", "skiff",
    "sloop", "smack", "tender", "yawl",
)
# fmt: on


def validate_id(cid: str) -> None:
    """Refuse an id that cannot name a container.

    Raises:
        ContainerError: With the reason ``invalid-id``.
    """
    if not valid_id(cid):
        raise ContainerError(
            f"container id {cid!r} is not valid, use letters, digits and any of _ + . -",
            reason="invalid-id",
        )


def valid_id(cid: str) -> bool:
    """Whether an id can name a container."""
    fits = _VALID_ID.fullmatch(cid) is not None and len(cid) <= _MAX_LENGTH
    return fits and cid not in (".", "..", BUNDLES)


def find_id(wanted: str, known: Iterable[str]) -> str:
    """The one id that *wanted* means: itself, or the only one that begins with it.

    Raises:
        ContainerNotFoundError: No id begins with *wanted*.
        AmbiguousIdError: Several do, and none is equal to it.
    """
    ids = sorted(known)
    if wanted in ids:
        return wanted
    matches = [cid for cid in ids if wanted and cid.startswith(wanted)]
    if not matches:
        raise ContainerNotFoundError(f"container {wanted!r} does not exist")
    if len(matches) > 1:
        raise AmbiguousIdError(f"id {wanted!r} is ambiguous, it fits {', '.join(matches)}")
    return matches[0]


def random_id() -> str:
    """A readable id for a container that nobody named, for instance ``brisk-cutter-4f2a``."""
    # Not through the module `secrets`, which takes 4 ms to import; ids are no secrets.
    number = int.from_bytes(os.urandom(8))
    number, adjective = divmod(number, len(_ADJECTIVES))
    number, boat = divmod(number, len(_BOATS))
    return f"{_ADJECTIVES[adjective]}-{_BOATS[boat]}-{number & 0xFFFF:04x}"
