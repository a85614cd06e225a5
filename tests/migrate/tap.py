"""A bad line: stands between the source and ``wherry receive``, and fails at a chosen message.

Called as the remote command: ``python tap.py DIRECTORY -- wherry receive``. The file ``plan`` in
the directory says what to do: a JSON object with ``message`` (its kind), ``when`` (``before`` or
``after`` it is passed on) and ``what``:

* ``cut``: both ends find the line closed.
* ``kill``: the receiver dies by SIGKILL, and the line closes.
* ``hold``: make the file ``held`` and wait until it is gone.

A file ``down`` makes every call fail at once: the other host cannot be reached.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO, cast

GREETING = 17
HEAD = struct.Struct("<B3xI")


def exactly(source: BinaryIO, size: int) -> bytes:
    """Read so many bytes; fewer only at the end."""
    data = b""
    while len(data) < size and (more := source.read(size - len(data))):
        data += more
    return data


class Tap:
    """One conversation passed on in both directions."""

    def __init__(self, directory: Path, command: list[str]) -> None:
        self.directory = directory
        plan = directory / "plan"
        self.plan = json.loads(plan.read_text()) if plan.exists() else {"message": "none"}
        self.receiver = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.inward = cast(BinaryIO, self.receiver.stdin)
        self.outward = cast(BinaryIO, self.receiver.stdout)

    def run(self) -> int:
        """Until either end closes."""
        back = threading.Thread(
            target=self.pass_on, args=(self.outward, os.fdopen(1, "wb")), daemon=True
        )
        back.start()
        self.pass_on(os.fdopen(0, "rb"), self.inward)
        self.inward.close()
        code = self.receiver.wait()
        back.join()
        return code

    def pass_on(self, source: BinaryIO, sink: BinaryIO) -> None:
        """Pass frames on, and fail where the plan says."""
        try:
            sink.write(exactly(source, GREETING))
            sink.flush()
            while head := exactly(source, HEAD.size):
                body = exactly(source, HEAD.unpack(head)[1])
                mine = head[0] == 1 and self.plan["message"].encode() in body[:80]
                if mine and self.plan["when"] == "before":
                    self.fail()
                sink.write(head + body)
                sink.flush()
                if mine and self.plan["when"] == "after":
                    self.fail()
        except (OSError, struct.error, ValueError):
            pass  # one end has closed: so does the other
        finally:
            sink.close()

    def fail(self) -> None:
        """Do what the plan says, once."""
        what = self.plan["what"]
        (self.directory / "plan").unlink(missing_ok=True)
        if what == "hold":
            self.plan = {**self.plan, "message": "migrate-none"}  # the next one of its kind passes
            held = self.directory / "held"
            held.touch()
            while held.exists():
                time.sleep(0.01)
            return
        if what == "kill":
            self.receiver.send_signal(signal.SIGKILL)
        # The receiver is left behind with its end closed, as when a network cable is cut.
        os._exit(1)


def main() -> int:
    """Pass one conversation on."""
    directory = Path(sys.argv[1])
    if (directory / "down").exists():
        return 1
    return Tap(directory, sys.argv[3:]).run()


if __name__ == "__main__":
    sys.exit(main())
