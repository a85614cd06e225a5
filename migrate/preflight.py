"""What stands in the way of a container at its destination, found before anything is touched."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Set
from pathlib import Path
from typing import Any

from formats.errors import Refusal
from migrate.hello import own_hello
from migrate.messages import Hello, OfferContainer
from runtime.errors import ContainerError, SpecError
from runtime.ids import validate_id

MEMORY_RESERVE = 32 << 20  # bytes that wherry itself may need during the restore
CLOCK_TOLERANCE_S = 2.0
_CONTROLLERS = {
    "memory": ("memory",),
    "cpu": ("cpu",),
    "pids": ("pids",),
    "blockIO": ("blkio", "io"),
    "hugepageLimits": ("hugetlb",),
}

ACCEPTABLE = ("cgroup-controllers", "clock", "cpu-features", "disk", "memory")
"""Reasons that a user may overrule, because wherry cannot know whether they matter."""


def obstacles(root: Path, offer: OfferContainer, source: Hello, *, asked_ns: int) -> list[Refusal]:
    """Every reason why this host cannot take the offered container; all of them at once.

    Args:
        root: State root of this host's containers.
        offer: What is to come.
        source: What its host says of itself.
        asked_ns: CLOCK_REALTIME here when the conversation began.
    """
    accepted = set(offer.accepted) & set(ACCEPTABLE)
    found = _all_obstacles(root, offer, source, asked_ns)
    return [each for each in found if each.reason not in accepted]


def _all_obstacles(
    root: Path, offer: OfferContainer, source: Hello, asked_ns: int
) -> list[Refusal]:
    return [
        *_host_differences(source),
        *_id_problems(root, offer.container_id),
        *_file_problems(offer),
        *_network_problems(offer),
        *_kernel_problems(),
        *_memory_problems(_needed(offer)),
        *_disk_problems(root, offer.disk_bytes),
        *_cgroup_problems(offer.spec),
        *_device_problems(offer),
        *_clock_problems(offer.time_ns, asked_ns),
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
    if source.signal_frame > here.signal_frame > 0:
        found.append(
            Refusal(
                "xstate",
                here.hostname,
                f"the registers take {source.signal_frame} bytes at the source,"
                f" {here.signal_frame} here",
            )
        )
    if source.vdso and source.vdso != here.vdso:
        found.append(
            Refusal(
                "vdso",
                here.hostname,
                f"its kernel ({here.kernel}) has another vDSO than the source's ({source.kernel});"
                " boot the same kernel on both",
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
    if offer.rootfs != "all" and not spec.rootfs.is_dir():
        found.append(
            Refusal(
                "no-rootfs",
                "root.path",
                f"there is no directory {spec.rootfs} here; send it along with --rootfs all",
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


def _network_problems(offer: OfferContainer) -> list[Refusal]:
    """What the interfaces are to be connected with, unless the container's own hooks do that."""
    hooks = offer.spec.get("hooks") or {}
    if hooks.get("prestart") or hooks.get("createRuntime"):
        return []
    here = {name for _, name in socket.if_nameindex()}
    return [
        Refusal(
            "no-network",
            outlet.key,
            f"there is no network interface {outlet.name} here; make one, or name another with"
            " --network",
        )
        for outlet in offer.outlets
        if outlet.name not in here
    ]


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


def _disk_problems(root: Path, wanted: int) -> list[Refusal]:
    place = next(path for path in (root, *root.parents) if path.exists())
    status = os.statvfs(place)
    free = status.f_bavail * status.f_frsize
    if wanted <= free:
        return []
    sentence = f"the container's files take {wanted >> 20} MiB, {free >> 20} MiB are free here"
    return [Refusal("disk", str(place), sentence)]


def _cgroup_problems(spec: Any) -> list[Refusal]:
    """Limits that this host has no controller for."""
    from runtime.sandbox.cgroups.hierarchy import find_hierarchies

    here = {name for hierarchy in find_hierarchies() for name in hierarchy.controllers}
    return [
        Refusal(
            "cgroup-controllers",
            f"linux.resources.{key}",
            f"this host has no cgroup controller {_CONTROLLERS[key][0]}, which sets the limit",
        )
        for key in unlimited(spec, here)
    ]


def unlimited(spec: Any, controllers: Set[str]) -> list[str]:
    """Which of the configuration's limits no controller of a host can set."""
    limited = (spec.get("linux") or {}).get("resources") or {}
    return [
        key
        for key, names in _CONTROLLERS.items()
        if limited.get(key) and not controllers & set(names)
    ]


def _device_problems(offer: OfferContainer) -> list[Refusal]:
    """Devices of the configuration must be the same thing here: the same number, that is."""
    found = []
    for device in (offer.spec.get("linux") or {}).get("devices") or []:
        kind, number = device.get("type"), (device.get("major"), device.get("minor"))
        if kind not in ("b", "c", "u"):
            continue
        path = Path(f"/sys/dev/{'block' if kind == 'b' else 'char'}/{number[0]}:{number[1]}")
        if not path.exists():
            subject = str(device.get("path"))
            found.append(Refusal("device", subject, f"there is no device {number} here"))
    return found


def _clock_problems(there_ns: int, asked_ns: int) -> list[Refusal]:
    """Differences that do not come from the time that the offer was on its way.

    It was written after our first word had gone out, at *asked_ns* of our clock.
    """
    least, most = asked_ns - there_ns, time.time_ns() - there_ns
    apart = 0.0 if least <= 0 <= most else min(abs(least), abs(most)) / 1e9
    if not there_ns or apart <= CLOCK_TOLERANCE_S:
        return []
    sentence = f"the clocks of the hosts are {apart:.1f} s apart; programs would see time jump"
    return [Refusal("clock", os.uname().nodename, sentence)]
