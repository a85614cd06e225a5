"""Changing the limits of a container that exists."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.metadata import Metadata
from runtime.spec import parse_spec
from runtime.spec.model import Resources


def merged_resources(
    metadata: Metadata, changes: Mapping[str, Any]
) -> tuple[dict[str, Any], Resources]:
    """The configuration with some of its limits replaced.

    Args:
        metadata: The container's record.
        changes: An OCI ``linux.resources``; what it does not mention stays.

    Returns:
        The whole new configuration, and its limits parsed.

    Raises:
        SpecError: A value is invalid; the message names its path.
    """
    raw = copy.deepcopy(metadata.spec)
    resources = raw.setdefault("linux", {}).setdefault("resources", {})
    _merge(resources, changes)
    return raw, parse_spec(raw, Path(metadata.bundle)).linux.resources


def _merge(old: dict[str, Any], new: Mapping[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(old.get(key), dict):
            _merge(old[key], value)
        else:
            old[key] = copy.deepcopy(value)
