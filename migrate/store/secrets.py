"""Where the secret for an encrypted store comes from: files, a command, the environment."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

from migrate.errors import StoreError
from migrate.store.crypto import Secret

PASSWORD_VARIABLE = "WHERRY_STORE_PASSWORD"
_MAX_SIZE = 1 << 20
_MIN_KEY_SIZE = 32


def password_secret(password: str | bytes) -> Secret:
    """A password; StoreError when it is empty."""
    value = password.encode(errors="surrogateescape") if isinstance(password, str) else password
    if not value:
        raise StoreError("the password is empty", reason="store-key")
    return Secret("password", value)


def password_from_file(path: Path) -> Secret:
    """A file's content without the line break at its end."""
    return password_secret(_content(path).rstrip(b"\r\n"))


def password_from_command(command: str) -> Secret:
    """What a command prints; no shell is involved.

    Raises:
        StoreError: It cannot be run or fails.
    """
    try:
        result = subprocess.run(shlex.split(command), stdout=subprocess.PIPE, check=False)
    except (OSError, ValueError) as exc:
        raise StoreError(f"password command {command!r}: {exc}", reason="store-key") from exc
    if result.returncode != 0:
        raise StoreError(
            f"password command {command!r} exited with {result.returncode}", reason="store-key"
        )
    return password_secret(result.stdout.rstrip(b"\r\n"))


def password_from_environment() -> Secret | None:
    """The password of WHERRY_STORE_PASSWORD, if that is set."""
    value = os.environb.get(PASSWORD_VARIABLE.encode())
    return None if value is None else password_secret(value)


def key_file(path: Path) -> Secret:
    """The whole content of a file, at least 32 bytes."""
    content = _content(path)
    if len(content) < _MIN_KEY_SIZE:
        raise StoreError(
            f"{path} has {len(content)} bytes, a key file needs {_MIN_KEY_SIZE}; make one with: "
            f"head -c 32 /dev/urandom >{path}",
            reason="store-key",
        )
    return Secret("key-file", content)


def identity(path: Path) -> Secret:
    """A recipient's private key: X25519 in PEM, as ``openssl genpkey -algorithm x25519`` makes."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_content(path), password=None)
    except (ValueError, TypeError) as exc:
        raise StoreError(f"{path}: no private key: {exc}", reason="store-key") from None
    if not isinstance(key, X25519PrivateKey):
        raise StoreError(f"{path}: not an X25519 key", reason="store-key")
    return Secret("recipient", private=key, public=key.public_key().public_bytes_raw())


def recipient(path: Path) -> Secret:
    """A recipient's public key in PEM, as ``openssl pkey -pubout`` prints."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_content(path))
    except ValueError as exc:
        raise StoreError(f"{path}: no public key: {exc}", reason="store-key") from None
    if not isinstance(key, X25519PublicKey):
        raise StoreError(f"{path}: not an X25519 key", reason="store-key")
    return Secret("recipient", public=key.public_bytes_raw())


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_SIZE + 1)
    except OSError as exc:
        raise StoreError(f"{path}: {exc.strerror}", reason="store-key") from exc
    if len(content) > _MAX_SIZE:
        raise StoreError(f"{path} has more than {_MAX_SIZE} bytes", reason="store-key")
    return content
