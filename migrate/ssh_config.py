"""What ``ssh`` would do for a host: command line, ``~/.ssh/config``, ``/etc/ssh/ssh_config``.

The first value found for an option counts, in that order, as man 5 ssh_config has it; options that
may be given several times (``IdentityFile``) add up. Parsing the files, ``Match`` and the tokens
is left to the SSH library (`Lookup`); ``Include``, which it does not know, is expanded here.
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from migrate.destination import Destination
from migrate.errors import MigrateError

SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
SYSTEM_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
USER_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
DEFAULT_IDENTITIES = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
MAX_INCLUDE_DEPTH = 16  # as OpenSSH
STRICT = ("yes", "ask", "accept-new", "no", "off")
_OPTION = re.compile(r"\s*([A-Za-z0-9]+)\s*(?:=|\s)\s*(.*?)\s*", re.DOTALL)

# What -o takes. Anything else would be silently without effect, so it is refused.
KNOWN_OPTIONS = frozenset(
    (
        *("connecttimeout", "globalknownhostsfile", "hostkeyalias", "hostname", "identitiesonly"),
        *("identityagent", "identityfile", "port", "proxycommand", "proxyjump"),
        *("stricthostkeychecking", "user", "userknownhostsfile"),
    )
)

Found = dict[str, str | list[str]]
"""Options by lower-case name; those that may be given several times as lists."""

Lookup = Callable[[str, str], Found]
"""Finds the options of a host in a configuration file: ``lookup(text, host)``.

Raises ValueError when the text makes no sense.
"""


@dataclass(frozen=True, slots=True)
class SshOptions:
    """What the command line says about connections.

    Attributes:
        port: TCP port, or None for the configured one.
        identities: Private keys to try first.
        known_hosts: Files to check host keys against, instead of the configured ones.
        options: ``-o`` options by lower-case name.
        config: Configuration file instead of the user's and the system's.
    """

    port: int | None = None
    identities: tuple[Path, ...] = ()
    known_hosts: tuple[Path, ...] = ()
    options: Mapping[str, str] | None = None
    config: Path | None = None

    def to_json(self) -> dict[str, object]:
        """For a record that lets a later command reach the same host again."""
        return {
            "port": self.port,
            "identities": [str(path) for path in self.identities],
            "known_hosts": [str(path) for path in self.known_hosts],
            "options": dict(self.options or {}),
            "config": None if self.config is None else str(self.config),
        }

    @classmethod
    def from_json(cls, obj: Mapping[str, object]) -> SshOptions:
        """The reverse of to_json."""
        port, config, options = obj.get("port"), obj.get("config"), obj.get("options")
        return cls(
            port=port if isinstance(port, int) else None,
            identities=_paths(obj.get("identities")),
            known_hosts=_paths(obj.get("known_hosts")),
            options={str(k): str(v) for k, v in options.items()}
            if isinstance(options, dict)
            else {},
            config=Path(config) if isinstance(config, str) else None,
        )


@dataclass(frozen=True, slots=True)
class HostSettings:
    """How to reach one host: everything decided.

    Attributes:
        host: Name or address to connect to.
        port: TCP port.
        user: Login name.
        identities: Private key files to try, in order.
        only_identities: Try no other key that the agent may have.
        agent: ``IdentityAgent``: a socket's path, ``"none"``, or None for ``SSH_AUTH_SOCK``.
        user_known_hosts: Files of the user; new keys go to the first.
        system_known_hosts: Files of the system.
        host_key_alias: Name to look the host key up under.
        strict: One of `STRICT`.
        connect_timeout_s: For the TCP connection and each step of the login.
        proxy_command: Program whose standard streams are the connection.
        proxy_jump: Host to connect through.
    """

    host: str
    port: int
    user: str
    identities: tuple[Path, ...]
    only_identities: bool
    agent: str | None
    user_known_hosts: tuple[Path, ...]
    system_known_hosts: tuple[Path, ...]
    host_key_alias: str | None
    strict: str
    connect_timeout_s: float
    proxy_command: str | None
    proxy_jump: str | None


def parse_options(texts: Sequence[str]) -> dict[str, str]:
    """Read ``-o Option=value`` words.

    Raises:
        MigrateError: One is malformed or not supported; reason ``bad-ssh-option``.
    """
    options: dict[str, str] = {}
    for text in texts:
        match = _OPTION.fullmatch(text)
        if match is None or not match[2]:
            raise MigrateError(f"-o {text!r} is not Option=value", reason="bad-ssh-option")
        name = match[1].lower()
        if name not in KNOWN_OPTIONS:
            known = ", ".join(sorted(KNOWN_OPTIONS))
            raise MigrateError(
                f"-o {match[1]} is not supported; supported are {known}", reason="bad-ssh-option"
            )
        options.setdefault(name, match[2])
    return options


def settle(destination: Destination, given: SshOptions, lookup: Lookup) -> HostSettings:
    """Decide how to reach *destination*.

    Args:
        destination: Where to.
        given: What the command line says.
        lookup: Reads the configuration files.

    Raises:
        MigrateError: A configuration file or an option makes no sense.
    """
    options = dict(given.options or {})
    if given.port is not None:
        options["port"] = str(given.port)
    found = _configured(destination, given.config, options, lookup)
    strict = _text(found, "stricthostkeychecking", "ask").lower()
    if strict not in STRICT:
        raise MigrateError(
            f"StrictHostKeyChecking {strict!r} is none of {', '.join(STRICT)}",
            reason="bad-ssh-option",
        )
    usual = () if given.identities else DEFAULT_IDENTITIES
    identities = [*given.identities, *_files(found.get("identityfile"), usual)]
    known = given.known_hosts or _files(_words(found, "userknownhostsfile"), USER_KNOWN_HOSTS)
    return HostSettings(
        host=_text(found, "hostname", destination.host),
        port=_number(found, "port", 22),
        user=destination.user or _text(found, "user", "") or getpass.getuser(),
        identities=tuple(dict.fromkeys(path.expanduser() for path in identities)),
        only_identities=_text(found, "identitiesonly", "no").lower() == "yes",
        agent=_maybe(found, "identityagent"),
        user_known_hosts=known,
        system_known_hosts=_files(_words(found, "globalknownhostsfile"), SYSTEM_KNOWN_HOSTS),
        host_key_alias=_maybe(found, "hostkeyalias"),
        strict=strict,
        connect_timeout_s=float(_number(found, "connecttimeout", 20)),
        proxy_command=_maybe(found, "proxycommand"),
        proxy_jump=_maybe(found, "proxyjump"),
    )


def _configured(
    destination: Destination, config: Path | None, options: Mapping[str, str], lookup: Lookup
) -> Found:
    """All options of a host: the given ones, then those of the files."""
    found: Found = {
        name: [value] if name == "identityfile" else value for name, value in options.items()
    }
    paths = [Path("~/.ssh/config").expanduser(), SYSTEM_CONFIG] if config is None else [config]
    if config is not None and not config.is_file():
        raise MigrateError(f"{config}: no such ssh configuration file", reason="bad-ssh-config")
    for path in filter(Path.is_file, paths):
        try:
            answers = lookup("\n".join(_expanded(path, 0)), destination.host)
        except ValueError as exc:
            raise MigrateError(f"{path}: {exc}", reason="bad-ssh-config") from exc
        for name, value in answers.items():
            mine = found.get(name)
            if isinstance(mine, list) and isinstance(value, list):
                found[name] = [*mine, *value]
            else:
                found.setdefault(name, value)
    return found


def _expanded(path: Path, depth: int) -> Iterator[str]:
    """The lines of a file with what it includes; names are relative to the file's home."""
    if depth > MAX_INCLUDE_DEPTH:
        raise MigrateError(
            f"{path}: included more than {MAX_INCLUDE_DEPTH} deep", reason="bad-ssh-config"
        )
    base = path.parent if depth == 0 else None
    for line in path.read_text(errors="replace").splitlines():
        words = line.split()
        if not words or words[0].lower() != "include":
            yield line
            continue
        for pattern in words[1:]:
            wanted = Path(pattern.strip('"')).expanduser()
            anchor = base or path.parent
            full = (anchor / wanted).absolute()
            for included in sorted(Path("/").glob(str(full.relative_to("/")))):
                yield from _expanded(included, depth + 1)


def _text(found: Found, name: str, default: str) -> str:
    value = found.get(name, default)
    return value[0] if isinstance(value, list) else value


def _maybe(found: Found, name: str) -> str | None:
    value = _text(found, name, "")
    return None if not value or (value.lower() == "none" and name != "identityagent") else value


def _number(found: Found, name: str, default: int) -> int:
    text = _text(found, name, str(default))
    if not text.isdigit() or (name == "port" and not 0 < int(text) < 65536):
        raise MigrateError(f"ssh option {name} is {text!r}, not a number", reason="bad-ssh-config")
    return int(text)


def _words(found: Found, name: str) -> list[str] | None:
    text = _text(found, name, "")
    return text.split() if text else None


def _files(given: str | list[str] | None, default: Sequence[str]) -> tuple[Path, ...]:
    names = default if given is None else [given] if isinstance(given, str) else given
    return tuple(Path(name).expanduser() for name in names if name.lower() != "none")


def _paths(value: object) -> tuple[Path, ...]:
    return tuple(Path(str(item)) for item in value) if isinstance(value, list) else ()
