"""An index of many millions of chunks: what it takes to load it, to ask it, and to hold it.

``python -m scripts.benchmark.index CHUNKS MANY`` measures in this process, whose memory is its own.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from migrate.store import index
from scripts.benchmark.measure import note

CHUNKS = 10_000_000
_OF_PACK = 4096  # chunks of 8 KiB that compress to a half, in a pack of 16 MiB
_OF_OBJECT = 80  # packs that an index object tells of
_SECTION, _REST = struct.Struct("<16sIIQ"), struct.Struct("<IIII")


def _object(packs: int) -> bytes:
    """An index object's payload, with random names."""
    out = bytearray()
    for _ in range(packs):
        out += _SECTION.pack(os.urandom(16), _OF_PACK, 48 * _OF_PACK + 64, 4096 * _OF_PACK)
        names = os.urandom(32 * _OF_PACK)
        for at in range(_OF_PACK):
            out += names[32 * at : 32 * at + 32] + _REST.pack(4096 * at, 4096, 8192, 1)
    return bytes(out)


def _anonymous_mib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) >> 10
    return 0


def _measure(chunks: int) -> dict[str, Any]:
    held = index.ChunkMap()
    before, most = _anonymous_mib(), 0
    spent, names = 0.0, []
    left = chunks // _OF_PACK
    while left:
        payload = _object(min(left, _OF_OBJECT))
        left -= min(left, _OF_OBJECT)
        names.append(payload[32:64])
        began = time.perf_counter()
        held.add(os.urandom(16), index.for_each_section(payload, name="made up"))
        spent += time.perf_counter() - began
        most = max(most, _anonymous_mib())
    began = time.perf_counter()
    count = len(held)
    spent += time.perf_counter() - began
    most = max(most, _anonymous_mib())
    strange = [os.urandom(32) for _ in range(50_000)]
    began = time.perf_counter()
    assert not any(map(held.has, strange))
    asked = time.perf_counter() - began
    assert all(map(held.has, names))
    return {
        "chunks": count,
        "load_s": spent,
        "ask_us": asked / len(strange) * 1e6,
        "memory_mib": most - before,
    }


def measure_index() -> dict[str, Any]:
    """Figures of the table on disk, and of a dictionary in memory."""
    found = {}
    for name, many in (("table", index.MANY), ("dictionary", 1 << 62)):
        note(f"an index of {CHUNKS} chunks as a {name}")
        command = [sys.executable, "-m", "scripts.benchmark.index", str(CHUNKS), str(many)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        found[name] = json.loads(done.stdout)
    return found


def index_table(found: dict[str, Any]) -> list[list[str]]:
    """Rows of text for people."""
    rows = [["index", "chunks", "to load", "to ask", "memory"]]
    for name, one in found.items():
        figures = f"{one['load_s']:.1f} s", f"{one['ask_us']:.1f} us", f"{one['memory_mib']} MiB"
        rows.append([f"as a {name}", str(one["chunks"]), *figures])
    return rows


if __name__ == "__main__":
    index.MANY = int(sys.argv[2])
    print(json.dumps(_measure(int(sys.argv[1]))))
