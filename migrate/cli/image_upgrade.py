"""``wherry image upgrade``: old state files as this wherry writes them."""

from __future__ import annotations

from pathlib import Path

from formats.copying import copy_image
from formats.errors import ImageError
from formats.header import MAJOR, MINOR, SIGNATURE
from formats.statefile import ImageReader, ImageWriter, StateFile, open_image, verify_file
from migrate.store.signing import image_signer


def upgrade_file(path: Path, sign_key: Path | None, *, force: bool) -> str:
    """Rewrite one state file in place.

    Args:
        path: The file; the new one is read back whole before it takes its name.
        sign_key: Signs the new one.
        force: Also rewrite one of the newest version.

    Returns:
        What was done, for people.

    Raises:
        ImageError: It is damaged or cannot be written; or it is signed, and there is no key to sign
            it anew (``image-signed``). It is as it was.
    """
    with open_image(path) as source:
        reader = ImageReader(source, name=path.name)
        old = reader.header
        if (old.major, old.minor) >= (MAJOR, MINOR) and sign_key is None and not force:
            return f"is of format {old.major}.{old.minor} already"
        if old.compatible & SIGNATURE and sign_key is None:
            raise ImageError(
                f"{path.name}: it is signed, and a signature is of the bytes as they are; give "
                "--sign-key to sign what it becomes",
                reason="image-signed",
            )
        sign = None if sign_key is None else image_signer(sign_key)
        with StateFile(path) as target, ImageWriter(target, sign=sign) as writer:
            copy_image(reader, writer)
            verify_file(f"/proc/self/fd/{target.fileno()}")
            target.commit()
    signed = "" if sign is None else ", signed"
    return f"format {old.major}.{old.minor} is {MAJOR}.{MINOR} now{signed}"
