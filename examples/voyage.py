"""A job that notices when it is moved badly.

It does numbered steps in several places at once and writes each down. Were a step lost, done twice,
or done with memory, files or clocks that are not as they were, its log would show it. Read the
log with ``examples/voyage_check.py``.

* The *chain* thread appends to ``chain.log``; every line carries a digest of all steps before it,
  which exists only in memory, and the monotonic clock.
* The *hold* thread fills memory with blocks that it can recompute, and checks old ones.
* The *bilge* thread works in a file that was deleted after it was opened.
* A *pipeline* of shell processes counts through two pipes into ``pipe.log``.

Arguments: a directory for the logs, which is made, and how many MiB of memory to fill.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
import time

PIPELINE = (
    'n=0; while :; do n=$((n + 1)); echo "$n"; sleep 0.01; done'
    ' | while read -r n; do echo "$n $((n * n))"; done'
    ' | while read -r line; do echo "step $line" >> pipe.log; done'
)
MIB = 1 << 20


def log(name: str, text: str) -> None:
    """Append one line with one write."""
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(fd, f"{text}\n".encode())
    finally:
        os.close(fd)


def chain() -> None:
    """Numbered steps, each with a digest of all before it."""
    digest = b""
    with open("chain.log", "a", buffering=1) as out:
        step = 0
        while True:
            step += 1
            digest = hashlib.blake2b(digest + step.to_bytes(8, "little"), digest_size=16).digest()
            out.write(f"step {step} {digest.hex()} {time.monotonic_ns()}\n")
            time.sleep(0.004)


def block(number: int) -> bytes:
    """A mebibyte that only this number gives: half of it compresses, half does not."""
    return random.Random(number).randbytes(MIB // 2) + bytes([number % 251]) * (MIB // 2)


def hold(wanted: int) -> None:
    """Fill memory and keep checking it."""
    blocks: list[bytes] = []
    dice = random.Random(1)
    while True:
        if len(blocks) < wanted:
            blocks.append(block(len(blocks)))
        number = dice.randrange(len(blocks))
        if blocks[number] != block(number):
            log("trouble.log", f"block {number} is not as it was")
        log("hold.log", f"held {len(blocks)}")
        time.sleep(0.008 if len(blocks) < wanted else 0.05)


def bilge() -> None:
    """Write numbered records into a deleted file and read all of them back."""
    fd = os.open("bilge", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    os.unlink("bilge")
    count = 0
    while True:
        os.write(fd, count.to_bytes(8, "little"))
        count += 1
        data = os.pread(fd, 8 * count + 1, 0)
        if data != b"".join(n.to_bytes(8, "little") for n in range(count)):
            log("trouble.log", f"the deleted file is not as it was at record {count}")
        time.sleep(0.02)


def main() -> None:
    """Run until somebody stops us."""
    directory, mebibytes = sys.argv[1], int(sys.argv[2])
    os.makedirs(directory)
    os.chdir(directory)
    pipeline = subprocess.Popen(["bash", "-c", PIPELINE])
    for target, args in ((chain, ()), (hold, (mebibytes,)), (bilge, ())):
        threading.Thread(target=target, args=args, daemon=True, name=target.__name__).start()
    status = pipeline.wait()
    log("trouble.log", f"the pipeline ended with {status}")


main()
