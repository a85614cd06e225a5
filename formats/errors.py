"""Failures that wherry can explain.

Every error carries a stable ``reason`` code beside its sentence, so that a program can act on the
code while a person reads the sentence. The command line prints the sentence without a traceback
and exits with the class's ``exit_code``. Exit codes are unique per class and never reused; 2 is
left to the command line's own usage errors, as everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class WherryError(Exception):
    """A failure we can explain."""

    exit_code: ClassVar[int] = 1
    default_reason: ClassVar[str] = "error"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason or self.default_reason


class ImageError(WherryError):
    """The bytes of an image are not as promised."""

    exit_code = 10
    default_reason = "image-error"


class ImageVersionError(ImageError):
    """A newer wherry wrote the image, or it uses a feature that this one does not know."""

    exit_code = 11
    default_reason = "image-version"


class ImageCorruptError(ImageError):
    """Magic, length, type or digest is wrong: fetch or copy the image again."""

    exit_code = 12
    default_reason = "image-corrupt"


class ImageWriteError(ImageError):
    """An image cannot be written where it was asked for: no space, no permission, no such place."""

    exit_code = 13
    default_reason = "image-write"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One thing that stands in the way, found before anything was touched.

    Attributes:
        reason: Stable code, for instance ``"fd-io-uring"``.
        subject: What it is about, for instance ``"pid 7 (nginx) fd 12"`` or ``"linux.seccomp"``.
        sentence: The explanation, with the next step where there is one.
    """

    reason: str
    subject: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.sentence} [{self.reason}]"
