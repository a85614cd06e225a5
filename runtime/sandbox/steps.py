"""Say what was being done when the kernel refused."""

from __future__ import annotations

import os
from types import TracebackType

from runtime.errors import ContainerError


class step:
    """Turn an OSError of the block into a ContainerError whose sentence names the step.

    Args:
        what: The step as the end of "cannot …", with the configuration path where there is one,
            for instance ``"mount proc on /proc (mounts[0])"``.
        reason: Stable reason code.
    """

    __slots__ = ("_reason", "_what")

    def __init__(self, what: str, *, reason: str = "sandbox-setup") -> None:
        self._what = what
        self._reason = reason

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(exc, OSError):
            why = os.strerror(exc.errno).lower() if exc.errno else str(exc)
            raise ContainerError(f"cannot {self._what}: {why}", reason=self._reason) from exc
