"""``known_hosts``: which key a host is expected to show.

Reads the files that ``ssh`` reads, with everything that may stand in them: hashed names, patterns,
negations, ``[host]:port`` and the markers. Lines with ``@cert-authority`` are passed over, because
host certificates are not supported here; ``@revoked`` keys are refused.

Source: man 8 sshd, SSH_KNOWN_HOSTS FILE FORMAT.
"""

from __future__ import annotations

import base64
import binascii
import enum
import fnmatch
import hashlib
import hmac
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SSH_PORT = 22
MAX_FILE_SIZE = 64 << 20


class Verdict(enum.Enum):
    """What the files say about a key that a host has shown."""

    KNOWN = enum.auto()
    """The key stands there under the host's name."""
    UNKNOWN = enum.auto()
    """The host's name does not stand there with any key of this type."""
    CHANGED = enum.auto()
    """The host's name stands there with another key of this type."""
    REVOKED = enum.auto()
    """The key stands there as revoked."""


@dataclass(frozen=True, slots=True)
class KnownKey:
    """One line that fits the host.

    Attributes:
        key_type: For instance ``"ssh-ed25519"``.
        blob: The public key in SSH's wire encoding.
        revoked: Whether the line carries ``@revoked``.
        where: ``"path:line"``, for sentences.
    """

    key_type: str
    blob: bytes
    revoked: bool
    where: str


def lookup_name(host: str, port: int, alias: str | None = None) -> str:
    """The name under which a host stands in the files: as ``ssh`` spells it.

    Args:
        host: Name or address that was connected to.
        port: TCP port; any but 22 becomes part of the name.
        alias: ``HostKeyAlias``, which replaces the name and the port.
    """
    if alias is not None:
        return alias
    host = host.lower()
    return host if port == SSH_PORT else f"[{host}]:{port}"


def keys_of(name: str, paths: Iterable[Path]) -> tuple[KnownKey, ...]:
    """Every key that the files give for a name, as `lookup_name` spelled it.

    Files that do not exist are passed over, as are lines that cannot be parsed.

    Raises:
        OSError: A file exists and cannot be read.
    """
    return tuple(key for path in paths for key in _keys_in(path, name))


def judge(keys: Sequence[KnownKey], key_type: str, blob: bytes) -> tuple[Verdict, str]:
    """Compare a key that a host has shown with what is known of the host.

    Returns:
        The verdict, and the place of the line that decided it (empty for UNKNOWN).
    """
    for key in keys:
        if key.revoked and key.blob == blob:
            return Verdict.REVOKED, key.where
    expected = [key for key in keys if not key.revoked]
    for key in expected:
        if key.blob == blob:
            return Verdict.KNOWN, key.where
    for key in expected:
        if key.key_type == key_type:
            return Verdict.CHANGED, key.where
    return Verdict.UNKNOWN, ""


def remember(path: Path, name: str, key_type: str, blob: bytes) -> None:
    """Append a key to a file, making the file and its directory as ``ssh`` would."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    line = f"{name} {key_type} {base64.b64encode(blob).decode()}\n"
    with path.open("a+b") as file:
        path.chmod(0o600)
        if file.tell() and not _ends_with_newline(path):
            line = "\n" + line
        file.write(line.encode())


def fingerprint(blob: bytes) -> str:
    """``SHA256:…``, as ``ssh`` and ``ssh-keygen -l`` print it."""
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def _keys_in(path: Path, name: str) -> Iterator[KnownKey]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_SIZE).decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return
    for number, line in enumerate(text.splitlines(), 1):
        key = _key_of_line(line, name, f"{path}:{number}")
        if key is not None:
            yield key


def _key_of_line(line: str, name: str, where: str) -> KnownKey | None:
    words = line.split()
    if not words or words[0].startswith("#"):
        return None
    marker = words.pop(0) if words[0].startswith("@") else ""
    if marker not in ("", "@revoked") or len(words) < 3 or not _fits(words[0], name):
        return None
    try:
        blob = base64.b64decode(words[2], validate=True)
    except binascii.Error:
        return None
    return KnownKey(words[1], blob, marker == "@revoked", where)


def _fits(names: str, wanted: str) -> bool:
    """Whether the first field of a line covers a name; a negation wins over everything."""
    if names.startswith("|1|"):
        return _fits_hashed(names, wanted)
    found = False
    for pattern in names.split(","):
        negated = pattern.startswith("!")
        # Brackets are no character class here: they stand around a host that has a port.
        plain = pattern.lstrip("!").lower().replace("[", "[[]")
        if fnmatch.fnmatchcase(wanted.lower(), plain):
            if negated:
                return False
            found = True
    return found


def _fits_hashed(field: str, wanted: str) -> bool:
    try:
        _, _, salt, digest = field.split("|")
        made = hmac.new(base64.b64decode(salt), wanted.encode(), hashlib.sha1).digest()
        return hmac.compare_digest(made, base64.b64decode(digest))
    except ValueError:
        return False
