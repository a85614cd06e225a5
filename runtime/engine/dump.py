"""Dump: a running container into an image, in one frozen section.

The order is: freeze; look at everything and collect what cannot be saved; only then write. The
container stays frozen while the caller makes the image durable, and goes on afterwards unless
the caller has killed it. Any failure lets it go on as it was.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from formats.records.codec import prepare
from formats.statefile import ImageWriter
from runtime.engine.api import DumpReport, DumpTarget, Freezer, Progress, no_progress
from runtime.engine.dump_contents import Contents
from runtime.engine.files.kind import load_kinds
from runtime.engine.findings import Findings
from runtime.engine.freeze import frozen, has_sleepers
from runtime.engine.sandbox.kind import load_sandbox_kinds
from runtime.engine.task_settings import may_be_confined
from runtime.engine.urgency import urgent
from runtime.errors import CheckpointError, RefusedError
from runtime.kernel.landlock import landlock_domains
from runtime.kernel.restart_block import restart_blocks

if TYPE_CHECKING:
    from runtime.engine.incremental import Incremental
    from runtime.engine.precopy import PreCopy

REFUSED = ()

log = logging.getLogger(__name__)

PASSING = frozenset(
    {
        *("aio-in-flight", "fanotify-queue", "inotify-queue", "netlink-queue"),
        *("tcp-in-flight", "tcp-orphan", "unix-error", "unix-pending-data"),
    }
)
"""Refusals of what the program does away with itself, as a rule within moments."""


def warm_up() -> None:
    """Do all that can be done before a freeze: the container waits for every import later."""
    load_kinds()
    load_sandbox_kinds()
    prepare()


def load_probes(cgroups: Freezer) -> None:
    """Load what looks into the kernel, if this container needs it: that takes a while."""
    if has_sleepers(cgroups):
        restart_blocks()
    if may_be_confined(cgroups.pids()):
        landlock_domains()


@contextlib.contextmanager
def dumped(
    target: DumpTarget,
    writer: ImageWriter,
    progress: Progress = no_progress,
    *,
    goes_on: bool = False,
    precopy: PreCopy | None = None,
    postcopy: bool = False,
    incremental: Incremental | None = None,
) -> Iterator[DumpReport]:
    """Freeze a container and write it; the ``with`` block runs while it is still frozen.

    On entry the image is complete in the writer's sink. Inside the block the caller makes it
    durable and may kill the container. On the way out every task that is left goes on.

    Args:
        target: The container.
        writer: Where its image goes; this finishes it.
        progress: Told what is being done.
        goes_on: The container goes on in any case. Then it need not stand still for as long as
            its memory takes to be written (see `runtime.engine.twins`), and runs when the block
            does.
        precopy: The rounds that have come before; what they have staged is not written again.
        postcopy: Leave out what can be asked for later, from the container while it stays frozen.
        incremental: The same for a snapshot, whose rounds have gone into *writer*.

    Raises:
        RefusedError: Something cannot be saved; names everything that was found.
        CheckpointError: The kernel refused a step, or a task did not stop.
    """
    report = DumpReport()
    goes_on = goes_on and not target.cgroups.frozen  # a paused one does not care
    if incremental is not None and not goes_on:
        incremental.close()
        incremental = None
    warm_up()
    progress("freeze", 0, 0)
    with contextlib.ExitStack() as held:
        hurry = held.enter_context(contextlib.ExitStack())
        if goes_on:
            hurry.enter_context(urgent())
        found = _freeze_and_look(held, target, report, precopy, postcopy, incremental)
        with found.watched():
            written = time.monotonic_ns()
            contents = Contents(found, writer, progress)
            contents.write_still()
            if goes_on:
                held.callback(contents.end_twins)
                contents.keep_memory()
                found.thaw()
                hurry.close()
            contents.write_memory()
            writer.finish()
            report.write_ns = time.monotonic_ns() - written
        found.close()
        yield report
    report.frozen_ns = report.frozen_ns or time.monotonic_ns() - found.began
    log.info(
        "%s: froze in %.1f ms, looked for %.1f ms, wrote %d bytes of memory in %.1f ms",
        target.container_id,
        report.freeze_ns / 1e6,
        report.collect_ns / 1e6,
        report.memory_bytes,
        report.write_ns / 1e6,
    )


def _freeze_and_look(
    held: contextlib.ExitStack,
    target: DumpTarget,
    report: DumpReport,
    precopy: PreCopy | None,
    postcopy: bool,
    incremental: Incremental | None,
) -> Findings:
    """Freeze and collect, again if what stands in the way is gone as soon as the program goes on.

    Args:
        held: Takes the frozen section of the attempt that has succeeded.
        target: What to freeze.
        report: Gets the times of that attempt.
        precopy: The rounds before, or None.
        postcopy: Leave out what can be asked for later.
        incremental: Those of a snapshot, or None.
    """
    paused = target.cgroups.frozen  # then nothing goes on
    deadline = time.monotonic() + target.options.timeout_s
    for attempt in itertools.count(1):
        load_probes(target.cgroups)
        began = time.monotonic_ns()
        with contextlib.ExitStack() as section:
            state = section.enter_context(
                frozen(target.cgroups, target.container_id, timeout_s=target.options.timeout_s)
            )
            looked = time.monotonic_ns()
            try:
                found = Findings(target, state, report, began, precopy, postcopy, incremental)
            except (FileNotFoundError, ProcessLookupError) as exc:
                raise CheckpointError(f"{target.container_id}: it has ended: {exc}") from exc
            try:
                with found.watched():
                    found.collect()
            except RefusedError as exc:
                late = time.monotonic() > deadline
                if late or paused or not {r.reason for r in exc.refusals} <= PASSING:
                    raise
                log.debug("%s: attempt %d: %s", target.container_id, attempt, exc)
            else:
                report.freeze_ns = looked - began
                report.collect_ns = time.monotonic_ns() - looked
                found.frozen = section.pop_all()
                held.push(found.frozen)
                return found
        time.sleep(min(0.001 * attempt, 0.02))
    raise AssertionError("itertools.count has an end")
