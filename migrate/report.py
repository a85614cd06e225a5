"""What is told of a migration when it is over."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from migrate.precopy import Mode, RoundReport
from migrate.rootfs.sending import RootfsReport


@dataclass(slots=True)
class MigrateReport:
    """How a migration went; times in nanoseconds of this host's clock.

    Attributes:
        container_id: At the destination.
        destination: Where it runs now.
        downtime_ns: From the beginning of the freeze here to the word that it runs there.
        freeze_ns: Until every task had stopped.
        dump_ns: Looking at the tasks and writing the image, which leaves while it is written.
        transfer_ns: From the last task stopped to the image's last byte sent; contains dump_ns.
        restore_ns: From the last byte sent to the word that the container stands there, frozen.
        thaw_ns: From that to the word that it runs: both sides' durable decisions, and the thaw.
        memory_bytes: Memory of the tasks that went along.
        sent_bytes: Bytes that travelled, those of rounds included.
        processes: Processes, zombies included.
        tasks: Threads.
        warnings: What was not preserved.
        mode: How its memory travelled.
        total_ns: From the offer to the word that it runs there.
        rounds: The rounds of pre-copy, in the order in which they were sent.
        rounds_ended: Why there was no further one; empty without any.
        expected_ns: How long what the rounds have left was expected to travel.
        staged_bytes: The part of memory_bytes that had come in rounds and was still right.
        last_bytes: The other part, which travelled in the downtime.
        last_sent_bytes: Bytes that travelled in the downtime.
        level: zstd level that most bytes were compressed at, see `formats.adaptive`.
        link_bytes_per_s: What the line took at the last measurement; 0 when too little was sent.
        compress_bytes_per_s: Memory that could be compressed at that level, the same.
        rootfs: How its root file system went along.
        later_bytes: With post-copy: the part of memory_bytes that travelled when it ran there.
        later_sent_bytes: Bytes that travelled then.
        faults: How often the program had to wait for memory then.
        complete_ns: From the word that it runs there until all of its memory was there.
    """

    container_id: str
    destination: str
    downtime_ns: int = 0
    freeze_ns: int = 0
    dump_ns: int = 0
    transfer_ns: int = 0
    restore_ns: int = 0
    thaw_ns: int = 0
    memory_bytes: int = 0
    sent_bytes: int = 0
    processes: int = 0
    tasks: int = 0
    warnings: tuple[str, ...] = ()
    mode: Mode = Mode.STOP
    total_ns: int = 0
    rounds: list[RoundReport] = field(default_factory=list)
    rounds_ended: str = ""
    expected_ns: int = 0
    staged_bytes: int = 0
    last_bytes: int = 0
    last_sent_bytes: int = 0
    level: int = 1
    link_bytes_per_s: float = 0.0
    compress_bytes_per_s: float = 0.0
    rootfs: RootfsReport = field(default_factory=RootfsReport)
    later_bytes: int = 0
    later_sent_bytes: int = 0
    faults: int = 0
    complete_ns: int = 0

    @property
    def compression(self) -> float:
        """Bytes of memory for each byte that travelled."""
        in_rounds = sum(report.memory_bytes for report in self.rounds)
        return (in_rounds + self.last_bytes + self.later_bytes) / max(self.sent_bytes, 1)

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "compression": self.compression}
