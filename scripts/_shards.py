"""The whole test suite as two pytest processes side by side, which share the tests.

Most tests wait for one command after the other, so a second process uses what the first one leaves
idle. One begins with the first file, the other with the last one, and each takes what the other has
not taken yet. The first one's output appears as it comes, the other's at the end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

_MOST = 2  # parts; more of them starve each other's clocks and time-outs


def main() -> int:
    """Run all parts; the worst exit status of them."""
    count = min(len(os.sched_getaffinity(0)), _MOST)
    processes = []
    with tempfile.TemporaryDirectory(prefix="wherry-tests-") as directory:
        outputs = [open(f"{directory}/{number}", "w+b") for number in range(1, count)]  # noqa: SIM115
        (taken := Path(directory) / "taken").mkdir()
        for number in range(count):
            command = [sys.executable, "-m", "pytest", f"--share={taken}"]
            if number:
                command.append("--backwards")
            sink = outputs[number - 1] if number else None
            processes.append(subprocess.Popen(command, stdout=sink, stderr=sink))
        # A Ctrl-C reaches them too; we stay until they have tidied up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        statuses = [process.wait() for process in processes]
        for number, output in enumerate(outputs, 2):
            with output:
                output.seek(0)
                print(f"part {number} of {count}:", flush=True)
                sys.stdout.buffer.write(output.read())
                sys.stdout.flush()
    return max(abs(status) for status in statuses)


if __name__ == "__main__":
    sys.exit(main())
