"""What an image tells about the host it was made on, and what a restore compares with its own."""

from __future__ import annotations

import hashlib
import mmap
import os
import time
from pathlib import Path

from formats.errors import Refusal
from formats.records.image import Host
from runtime.engine.scopes import own_clock_offsets
from runtime.kernel.vdso import vdso_code

SAVED = (
    (
        "clocks",
        "`CLOCK_MONOTONIC` and `CLOCK_BOOTTIME` go on where they were; `CLOCK_REALTIME` is "
        "the host's",
    ),
)


def cpu_flags() -> tuple[str, ...]:
    """The processor features of the first CPU."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return tuple(sorted(value.split()))
    return ()


def vdso_digest() -> bytes:
    """SHA-256 of the vDSO's code."""
    return hashlib.sha256(vdso_code()).digest()


def describe_host(init_pid: int, xstate_size: int) -> Host:
    """The host record of a container that has just been frozen."""
    monotonic, boottime = own_clock_offsets(init_pid)
    uname = os.uname()
    return Host(
        architecture=uname.machine,
        kernel_release=uname.release,
        hostname=uname.nodename,
        page_size=mmap.PAGESIZE,
        cpu_flags=cpu_flags(),
        xstate_size=xstate_size,
        vdso_digest=vdso_digest(),
        monotonic_ns=time.clock_gettime_ns(time.CLOCK_MONOTONIC) + monotonic,
        boottime_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME) + boottime,
    )


def clock_shift(host: Host) -> tuple[int, int]:
    """Time-namespace offsets with which the image's clocks go on from where they were.

    Returns:
        (monotonic, boottime) in nanoseconds, to be added to this host's clocks.
    """
    return (
        host.monotonic_ns - time.clock_gettime_ns(time.CLOCK_MONOTONIC),
        host.boottime_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    )


def clock_since(host: Host, pid: int) -> int:
    """How far CLOCK_MONOTONIC of a restored init has come since the image was made, in ns."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + own_clock_offsets(pid)[0]
    return max(now - host.monotonic_ns, 0)


def compare_hosts(image: Host) -> list[Refusal]:
    """Every reason why this host cannot run what was saved on the image's."""
    refusals = []

    def refuse(reason: str, subject: str, sentence: str) -> None:
        refusals.append(Refusal(reason, subject, sentence))

    machine = os.uname().machine
    if image.architecture != machine:
        refuse("architecture", "host", f"is {machine}, the image was made on {image.architecture}")
    if image.page_size != mmap.PAGESIZE:
        refuse("page-size", "host", f"has {mmap.PAGESIZE}-byte pages, the image {image.page_size}")
    missing = sorted(set(image.cpu_flags) - set(cpu_flags()))
    if missing:
        refuse(
            "cpu-features", "host", f"lacks processor features of the image: {' '.join(missing)}"
        )
    if image.vdso_digest != vdso_digest():
        refuse(
            "vdso",
            "host",
            f"runs a kernel with another vDSO than {image.kernel_release}, where the image was "
            "made; restore on a host with that kernel",
        )
    return refusals
