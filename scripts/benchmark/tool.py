"""The ``wherry`` command under the stopwatch, and the memory that it and its helpers take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WHERRY = Path(sys.executable).parent / "wherry"
_SAMPLE_EVERY_S = 0.005


class ToolFailedError(Exception):
    """The measured command failed."""


class Tool:
    """Calls the command with a state root of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {**os.environ, "WHERRY_ROOT": str(root)}
        self.peak_rss_bytes = 0

    def timed(self, *args: str | Path) -> float:
        """Run one call; returns its seconds from start to end, as a user waits for it."""
        start = time.perf_counter()
        self.run(*args)
        return time.perf_counter() - start

    def run(self, *args: str | Path) -> str:
        """Run one call and return what it printed.

        Raises:
            ToolFailedError: It exited with another status than 0.
        """
        # Files and not pipes: a detached container keeps the descriptors.
        out, err = self.root.parent / "out", self.root.parent / "err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [str(WHERRY), *map(str, args)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        self.peak_rss_bytes = max(self.peak_rss_bytes, usage.ru_maxrss << 10)
        if process.returncode:
            raise ToolFailedError(f"wherry {' '.join(map(str, args))}: {err.read_text().strip()}")
        return out.read_text()

    def json(self, *args: str | Path) -> Any:
        """Run one call and parse what it printed."""
        return json.loads(self.run(*args))

    def pid(self, cid: str) -> int:
        """The container's init in our pid namespace."""
        return int(self.json("state", cid)["pid"])

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Include the tool's other processes (worker, monitor) in the peak, while this lasts.

        Looking at all processes takes time of its own: nothing is timed meanwhile.
        """
        stop = threading.Event()
        sampler = threading.Thread(target=self._sample, args=(stop,))
        sampler.start()
        try:
            yield
        finally:
            stop.set()
            sampler.join()

    def _sample(self, stop: threading.Event) -> None:
        namespace = Path("/proc/self/ns/pid").readlink()
        needle = os.fsencode(self.root)
        while not stop.wait(_SAMPLE_EVERY_S):
            for entry in os.listdir("/proc"):
                if entry.isdigit() and int(entry) != os.getpid():
                    self._sample_process(Path("/proc", entry), namespace, needle)

    def _sample_process(self, entry: Path, namespace: Path, needle: bytes) -> None:
        try:
            if needle not in (entry / "environ").read_bytes():
                return
            if (entry / "ns/pid").readlink() != namespace:
                return  # the workload, which inherited our environment
            for line in (entry / "status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    peak = int(line.split()[1]) << 10
                    self.peak_rss_bytes = max(self.peak_rss_bytes, peak)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return  # it has ended, or is the machine's own
