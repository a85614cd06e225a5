"""What becomes of a container's root file system when the container moves."""

from __future__ import annotations

import enum


class RootfsMode(enum.StrEnum):
    """How it goes along."""

    SHARED = "shared"
    """It is there under the same path, as on a shared file system; that it exists is all that is
    looked at."""
    PRESENT = "present"
    """It is there under the same path, a copy: every file is compared."""
    CHANGED = "changed"
    """A copy is there under the same path and not in use: it is made equal."""
    ALL = "all"
    """Nothing is there: the whole bundle is made below the destination's state root."""
