"""Logging in at a registry with what ``docker login`` and ``podman login`` have left behind.

Read are ``$REGISTRY_AUTH_FILE``, podman's ``$XDG_RUNTIME_DIR/containers/auth.json`` and
``$DOCKER_CONFIG/config.json`` (``~/.docker/config.json``), the first that names the registry, with
the credential helpers that they name. Nothing is asked and nothing written.

Source: man 5 containers-auth.json; docker's documentation of credential helpers; distribution's
token authentication specification; RFC 9110 section 11.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from migrate.errors import StoreError

HELPER_TIMEOUT_S = 30
_HELPER_NAME = re.compile(r"[A-Za-z0-9._-]+")
_PARAMETER = re.compile(r'([a-zA-Z_]+)="([^"]*)"')
# Docker Hub's logins stand under the address of its first interface.
_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")

FetchToken = Callable[[str, str | None], bytes]
"""Gets a URL with an Authorization header or without: ``fetch(url, authorization)``."""


class Challenge(NamedTuple):
    """What a registry asks for.

    Attributes:
        scheme: ``"basic"`` or ``"bearer"``.
        parameters: ``realm``, ``service`` and so on.
    """

    scheme: str
    parameters: Mapping[str, str]


def challenge_of(headers: Sequence[str]) -> Challenge | None:
    """The first challenge of ``WWW-Authenticate`` headers that we can answer."""
    for header in headers:
        scheme = header.partition(" ")[0].lower()
        if scheme in ("basic", "bearer"):
            return Challenge(scheme, dict(_PARAMETER.findall(header)))
    return None


@dataclass(frozen=True, slots=True)
class Login:
    """A name and a password, or neither.

    Attributes:
        registry: Whose, for messages.
        basic: What follows ``Basic`` in a header, or None for a guest.
    """

    registry: str
    basic: str | None

    def answer(self, challenge: Challenge, scope: str, origin: str, fetch_token: FetchToken) -> str:
        """The Authorization header that the registry asks for.

        Args:
            challenge: What it said.
            scope: What we want to do, when it does not say itself.
            origin: The registry's own scheme and host.
            fetch_token: Gets a token from whoever gives them out.

        Raises:
            StoreError: ``store-denied`` without a login; ``store-protocol`` when the token comes
                over a weaker connection, or is none.
        """
        basic = None if self.basic is None else f"Basic {self.basic}"
        if challenge.scheme == "basic":
            if basic is None:
                raise StoreError(
                    f"{self.registry} wants a login and there is none; see docker login or podman"
                    " login",
                    reason="store-denied",
                )
            return basic
        realm = challenge.parameters.get("realm", "")
        parts = urlsplit(realm)
        allowed = ("https",) if origin.startswith("https:") else ("https", "http")
        if parts.scheme not in allowed or not parts.hostname:
            raise StoreError(
                f"{self.registry} sends us to {realm!r} for a token, where a login would go over"
                " the wire in the open",
                reason="store-protocol",
            )
        wanted = {"scope": challenge.parameters.get("scope") or scope}
        if "service" in challenge.parameters:
            wanted["service"] = challenge.parameters["service"]
        url = f"{realm}{'&' if parts.query else '?'}{urlencode(wanted)}"
        try:
            found = json.loads(fetch_token(url, basic))
            token = found.get("token") or found.get("access_token")
        except (ValueError, AttributeError, RecursionError):
            token = None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise StoreError(
                f"{self.registry}: {parts.hostname} gave no token", reason="store-protocol"
            )
        return f"Bearer {token}"


def login_for(registry: str) -> Login:
    """The login that somebody has left for a registry (``host[:port]``).

    Raises:
        StoreError: A file that exists makes no sense, or a helper fails; ``store-login``.
    """
    names = _names_of(registry)
    for path in _files():
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as exc:
            raise StoreError(f"{path}: {exc}", reason="store-login") from exc
        for name in names:
            basic = _basic_of(found if isinstance(found, dict) else {}, name, path)
            if basic is not None:
                return Login(registry, basic)
    return Login(registry, None)


def _names_of(registry: str) -> tuple[str, ...]:
    hub = ("https://index.docker.io/v1/",) if registry in _HUB else ()
    return (*hub, registry, f"https://{registry}", f"https://{registry}/v1/")


def _files() -> Iterator[Path]:
    if (given := os.environ.get("REGISTRY_AUTH_FILE")) is not None:
        yield Path(given)
    if (runtime := os.environ.get("XDG_RUNTIME_DIR")) is not None:
        yield Path(runtime) / "containers" / "auth.json"
    yield Path(os.environ.get("DOCKER_CONFIG") or "~/.docker").expanduser() / "config.json"


def _basic_of(config: Mapping[str, Any], name: str, path: Path) -> str | None:
    helpers, logins = config.get("credHelpers"), config.get("auths")
    if isinstance(helpers, dict) and name in helpers:
        return _ask_helper(str(helpers[name]), name)
    entry = logins.get(name) if isinstance(logins, dict) else None
    if not isinstance(entry, dict):
        return None
    if isinstance(config.get("credsStore"), str):
        return _ask_helper(config["credsStore"], name)
    auth = entry.get("auth")
    if not isinstance(auth, str) or not auth:
        return None
    try:
        decoded = base64.b64decode(auth, validate=True)
    except binascii.Error as exc:
        raise StoreError(f"{path}: the login for {name}: {exc}", reason="store-login") from exc
    if b":" not in decoded:
        raise StoreError(f"{path}: the login for {name} is not user:password", reason="store-login")
    return auth


def _ask_helper(helper: str, name: str) -> str | None:
    if _HELPER_NAME.fullmatch(helper) is None:
        raise StoreError(f"credential helper {helper!r} is no name", reason="store-login")
    try:
        done = subprocess.run(
            [f"docker-credential-{helper}", "get"],
            input=name.encode(),
            capture_output=True,
            timeout=HELPER_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:  # it has none
            return None
        found = json.loads(done.stdout)
        pair = f"{found['Username']}:{found['Secret']}"
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as exc:
        raise StoreError(
            f"docker-credential-{helper}: {type(exc).__name__}, no login", reason="store-login"
        ) from exc
    return base64.b64encode(pair.encode()).decode()
