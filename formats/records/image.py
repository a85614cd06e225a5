"""What an image is of, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

from formats.records.codec import Json, record


@record("image")
@dataclass(frozen=True, slots=True)
class Image:
    """The first record of every image.

    Attributes:
        container_id: Id of the container at the time of the checkpoint.
        created_ns: Wall-clock time of the freeze, nanoseconds since 1970 UTC.
        wherry_version: Product version that wrote the image.
        spec: The container's OCI configuration as it ran.
        metadata: What the runtime needs besides the configuration (bundle, overlay, stdio kinds).
    """

    container_id: str
    created_ns: int
    wherry_version: str
    spec: Json
    metadata: Json


@record("host")
@dataclass(frozen=True, slots=True)
class Host:
    """The host that the image was made on: what a restoring host compares itself with.

    Attributes:
        architecture: As ``uname -m`` says.
        kernel_release: As ``uname -r`` says; informative, never compared.
        hostname: Of the host, informative.
        page_size: Bytes.
        cpu_flags: The processor features of ``/proc/cpuinfo``.
        xstate_size: Bytes of the extended processor state of a thread.
        vdso_digest: SHA-256 of the vDSO's code, for it is part of every address space.
        monotonic_ns: CLOCK_MONOTONIC as the container's tasks saw it at the freeze.
        boottime_ns: CLOCK_BOOTTIME as the container's tasks saw it at the freeze.
    """

    architecture: str
    kernel_release: str
    hostname: str
    page_size: int
    cpu_flags: tuple[str, ...]
    xstate_size: int
    vdso_digest: bytes
    monotonic_ns: int
    boottime_ns: int
