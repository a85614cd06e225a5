"""What stands in the way of a container at its destination, found before anything is touched."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from formats.errors import Refusal
from migrate.hello import own_hello
from migrate.messages import Hello, OfferContainer
from runtime.errors import ContainerError, SpecError
from runtime.ids import validate_id

MEMORY_RESERVE = 32 << 20  # bytes that wherry itself may need during the restore


def obstacles(root: Path, offer: OfferContainer, source: Hello) -> list[Refusal]:
    """Every reason why this host cannot take the offered container; all of them at once."""
    return [
        *_host_differences(source),
        *_id_problems(root, offer.container_id),
        *_file_problems(offer),
        *_kernel_problems(),
        *_memory_problems(_needed(offer)),
    ]


def _host_differences(source: Hello) -> list[Refusal]:
    here = own_hello()
    found = []
    if source.architecture != here.architecture:
        found.append(
            Refusal(
                "architecture",
                here.hostname,
                f"the container is for {source.architecture}, this host is {here.architecture}",
            )
        )
        return found  # the rest is not comparable
    if source.page_size != here.page_size:
        found.append(
            Refusal(
                "page-size",
                here.hostname,
                f"pages have {source.page_size} bytes at the source, {here.page_size} here",
            )
        )
    missing = sorted(set(source.cpu_flags) - set(here.cpu_flags))
    if missing:
        found.append(
            Refusal(
                "cpu-features",
                here.hostname,
                f"the processor lacks {', '.join(missing[:12])}, which the programs may be using",
            )
        )
    return found


def _id_problems(root: Path, cid: str) -> list[Refusal]:
    try:
        validate_id(cid)
    except ContainerError as exc:
        return [Refusal(exc.reason, repr(cid[:64]), str(exc))]
    if (root / cid).exists():
        return [
            Refusal(
                "container-exists",
                cid,
                "a container of this id is here already; delete it, or migrate with --rename",
            )
        ]
    return []


def _file_problems(offer: OfferContainer) -> list[Refusal]:
    """The root file system and bind mounts must lie where the configuration has them."""
    from runtime.spec import parse_spec

    try:
        spec = parse_spec(offer.spec, Path(offer.bundle or "/"))
    except SpecError as exc:
        return [Refusal(exc.reason, "config.json", str(exc))]
    found = []
    if not spec.rootfs.is_dir():
        found.append(
            Refusal(
                "no-rootfs",
                "root.path",
                f"there is no directory {spec.rootfs} here; copy the bundle to this host first",
            )
        )
    for mount in _bind_mounts(offer.spec):
        if not Path(mount["source"]).exists():
            found.append(
                Refusal(
                    "no-mount-source",
                    f"mounts[{mount.get('destination')}]",
                    f"its source {mount['source']} is not here",
                )
            )
    return found


def _bind_mounts(spec: Any) -> list[dict[str, Any]]:
    return [
        mount
        for mount in spec.get("mounts") or []
        if {"bind", "rbind"} & set(mount.get("options") or ())
        and str(mount.get("source", "")).startswith("/")
    ]


def _kernel_problems() -> list[Refusal]:
    from runtime.kernel.features import all_features

    return [
        Refusal(
            "kernel-feature",
            feature.name,
            f"this host lacks it ({feature.why_not}), needed for {feature.used_for}",
        )
        for feature in all_features()
        if feature.blocks
    ]


def _needed(offer: OfferContainer) -> int:
    """Bytes; what came in rounds is there twice until the container has all of it."""
    return offer.memory_bytes * (2 if offer.rounds else 1)


def _memory_problems(wanted: int) -> list[Refusal]:
    available = available_memory()
    if wanted + MEMORY_RESERVE <= available:
        return []
    return [
        Refusal(
            "memory",
            os.uname().nodename,
            f"the container needs {wanted >> 20} MiB, {available >> 20} MiB are available here",
        )
    ]


def available_memory() -> int:
    """Bytes that this host can give out without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 1 << 62  # Linux before 3.14: not told
