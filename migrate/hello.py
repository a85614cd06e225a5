"""The first exchange of a conversation: who we are, and what both of us speak."""

from __future__ import annotations

import os
import re
from functools import cache
from importlib.metadata import version
from pathlib import Path

from migrate.errors import ProtocolError
from migrate.messages import FEATURES, PROTOCOL_VERSIONS, Hello
from migrate.protocol import Peer
from runtime.engine.host_facts import vdso_digest
from runtime.kernel.auxv import AT_MINSIGSTKSZ, auxiliary_value

HELLO_TIMEOUT_S = 30.0
MAX_VERSIONS = 64
# Instructions and state that a program can use by itself; the other flags of /proc/cpuinfo are
# about the kernel's own business and differ between kernels on the same processor.
_USABLE = re.compile(
    r"(mmx|sse|ssse3|pni|avx|fma|f16c|aes|vaes|pclmul|vpclmul|sha|bmi|adx|popcnt|abm|movbe|rdrand"
    r"|rdseed|fsgsbase|xsave|lahf|cx16|clflush|clwb|erms|fsrm|gfni|amx|lzcnt|tbm|xop|3dnow|prefetch"
    r"|cldemote|movdir|waitpkg|serialize|rtm|hle|pku|ospke|rdpid|rdtscp|asimd|fp|crc32|atomics|sve"
    r"|sme|paca|pacg|bti|mte|neon)\w*"
)


@cache
def own_hello() -> Hello:
    """What this host says of itself."""
    host = os.uname()
    return Hello(
        versions=PROTOCOL_VERSIONS,
        features=FEATURES,
        wherry=version("wherry"),
        hostname=host.nodename,
        architecture=host.machine,
        kernel=host.release,
        page_size=os.sysconf("SC_PAGE_SIZE"),
        cpu_flags=tuple(sorted(_cpu_flags())),
        vdso=vdso_digest(),
        signal_frame=auxiliary_value(AT_MINSIGSTKSZ),
    )


def exchange(peer: Peer) -> Hello:
    """Greet, tell who we are and learn who the far side is.

    Raises:
        ProtocolError: The far side is no wherry, or none that we have a version in common with.
        TransportError: It says nothing.
    """
    peer.greet(timeout_s=HELLO_TIMEOUT_S)
    peer.send(own_hello())
    theirs = peer.receive(Hello, timeout_s=HELLO_TIMEOUT_S)
    common_version(theirs)
    return theirs


def common_version(theirs: Hello) -> int:
    """The highest version that both sides speak.

    Raises:
        ProtocolError: There is none; reason ``protocol-version``.
    """
    common = set(PROTOCOL_VERSIONS) & set(theirs.versions[:MAX_VERSIONS])
    if not common:
        raise ProtocolError(
            f"wherry {theirs.wherry} on {theirs.hostname} speaks protocol"
            f" {_listed(theirs.versions[:MAX_VERSIONS])}, this one {_listed(PROTOCOL_VERSIONS)};"
            " upgrade the older one",
            reason="protocol-version",
        )
    return max(common)


def _listed(versions: tuple[int, ...]) -> str:
    return ", ".join(map(str, versions)) or "none"


def _cpu_flags() -> set[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return {flag for flag in value.split() if _USABLE.fullmatch(flag)}
    return set()
