"""What this kernel and this host offer, found by trying and never by asking for a version.

A *feature* is one interface that wherry uses. Its probe tries it in the smallest harmless way
(where the try would change the caller, in a child that ends at once) and keeps the reason when it
is absent, so that ``wherry check`` and every refusal can say why. Probes live in
``runtime.kernel.probes``, one module per part of the kernel, and register themselves here.

Probing everything takes a few hundredths of a second; one feature is probed at most once per
process.
"""

from __future__ import annotations

import enum
import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_PROBE_MODULES: Final = (
    "runtime.kernel.probes.tasks",
    "runtime.kernel.probes.memory",
    "runtime.kernel.probes.namespaces",
    "runtime.kernel.probes.cgroups",
    "runtime.kernel.probes.mounts",
    "runtime.kernel.probes.sockets",
    "runtime.kernel.probes.host",
)


class Need(enum.StrEnum):
    """How much wherry depends on a feature."""

    REQUIRED = "required"  # without it no container can be run, dumped or restored
    OPTIONAL = "optional"  # without it wherry does the same more slowly, or refuses one thing
    UNUSED = "unused"  # reported for what is planned on it; this version does not use it


class UnavailableError(Exception):
    """Raised by a probe: the feature is absent; the text says why."""


@dataclass(frozen=True, slots=True)
class Feature:
    """The outcome of one probe.

    Attributes:
        name: Stable, for programs: ``"pagemap-scan"``.
        group: The part of the kernel it belongs to, for people: ``"memory"``.
        need: Whether wherry can work without it.
        available: Whether the try succeeded.
        detail: When available, what was found (a size, a kind), possibly empty.
        why_not: When not available, the reason; else empty.
        used_for: What wherry does with it.
        without_it: What wherry does when it is absent.
    """

    name: str
    group: str
    need: Need
    available: bool
    detail: str
    why_not: str
    used_for: str
    without_it: str

    @property
    def blocks(self) -> bool:
        """Whether its absence keeps wherry from working at all."""
        return self.need is Need.REQUIRED and not self.available


@dataclass(frozen=True, slots=True)
class _Probe:
    name: str
    group: str
    need: Need
    used_for: str
    without_it: str
    attempt: Callable[[], str]


_registry: dict[str, _Probe] = {}


def probe(
    name: str,
    *,
    group: str,
    used_for: str,
    without_it: str,
    need: Need = Need.OPTIONAL,
) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """Register a probe.

    The decorated function returns what it found (possibly an empty string) when the feature is
    there, and raises ``UnavailableError`` or ``OSError`` when it is not.

    Args:
        name: The feature's stable name.
        group: The part of the kernel, as a heading.
        used_for: What wherry does with it, as half a sentence.
        without_it: What happens when it is absent, as half a sentence.
        need: Whether wherry can work without it.

    Raises:
        ValueError: The name is taken.
    """

    def register(attempt: Callable[[], str]) -> Callable[[], str]:
        if name in _registry:
            raise ValueError(f"feature {name!r} is registered twice")
        _registry[name] = _Probe(name, group, need, used_for, without_it, attempt)
        return attempt

    return register


def _load_probes() -> None:
    for module in _PROBE_MODULES:
        importlib.import_module(module)


@functools.cache
def feature(name: str) -> Feature:
    """Probe one feature, once per process.

    Args:
        name: The feature's stable name, as ``wherry check --json`` prints it.

    Raises:
        KeyError: There is no such feature.
    """
    _load_probes()
    entry = _registry[name]
    detail = why_not = ""
    try:
        detail = entry.attempt()
    except UnavailableError as exc:
        why_not = str(exc)
    except OSError as exc:
        why_not = exc.strerror or str(exc)
    return Feature(
        name=entry.name,
        group=entry.group,
        need=entry.need,
        available=not why_not,
        detail=detail,
        why_not=why_not,
        used_for=entry.used_for,
        without_it=entry.without_it,
    )


def feature_names() -> tuple[str, ...]:
    """The names of all features, in the order in which they are reported."""
    _load_probes()
    return tuple(_registry)


def all_features() -> tuple[Feature, ...]:
    """Probe every feature."""
    return tuple(feature(name) for name in feature_names())


def has(name: str) -> bool:
    """Whether this host has the feature *name*."""
    return feature(name).available
