"""Long jobs that are checkpointed, killed and restored again and again at random moments."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.command import Wherry
from tests.support.wait import wait_until


def seeded_random() -> random.Random:
    """Random moments that can be had again: ``WHERRY_SEED`` from a failure's output."""
    seed = int(os.environ.get("WHERRY_SEED") or time.time_ns() % 1_000_000)
    print(f"WHERRY_SEED={seed}")
    return random.Random(seed)


@dataclass
class Job:
    """A job that moves from container to container."""

    wherry: Wherry
    scratch: Path
    directory: Path
    generation: int = 0
    options: tuple[str, ...] = ()  # of `wherry do`

    @property
    def cid(self) -> str:
        """The id of the container that has it now."""
        return f"job-{self.generation}"

    def start(self, *command: str | Path) -> None:
        """Run the job in its first container."""
        self.wherry("do", "--detach", "--id", self.cid, *self.options, "--", *command)

    def move(self, *, kill: bool, timeout: float) -> None:
        """Checkpoint, end the old container, and go on in a new one.

        Args:
            kill: Leave the old one running and kill it, what it did since the checkpoint is lost;
                otherwise the checkpoint stops it.
            timeout: Seconds for each step.
        """
        image = self.scratch / f"image-{self.generation}"
        old = self.cid
        options = ["--leave-running"] if kill else []
        self.wherry("checkpoint", "--image-path", image, *options, old, timeout=timeout)
        if kill:
            self.wherry("kill", old, "KILL")
            wait_until(lambda: self.wherry.status(old) == "stopped", timeout, f"the end of {old}")
        self.wherry("delete", old, timeout=timeout)
        self.generation += 1
        self.wherry("restore", "--detach", "--image-path", image, self.cid, timeout=timeout)
        image.unlink()

    def file(self, name: str) -> Path:
        """A file of the job, as the current container's overlay has it."""
        upper = self.wherry.root / self.cid / "overlay" / "upper"
        return upper / self.directory.relative_to("/") / name

    def finish(self, timeout: float) -> None:
        """Wait for the job's end, which has to be a success."""
        wait_until(lambda: self.wherry.status(self.cid) == "stopped", timeout, "the job's end")
        status = self.wherry("wait", self.cid, check=False).returncode
        assert status == 0, f"the job ended with {status}"
        assert self.file("done").exists()


@contextmanager
def job(wherry: Wherry, scratch: Path) -> Iterator[Job]:
    """A job in no container yet; whatever has it at the end is deleted."""
    directory = scratch / "job"
    directory.mkdir()
    moving = Job(wherry, scratch, directory)
    try:
        yield moving
    finally:
        for cid in (moving.cid, f"job-{moving.generation - 1}"):
            wherry("delete", "--force", cid, check=False)


def move_often(
    moving: Job,
    times: int,
    *,
    longest_pause_s: float,
    timeout: float = 60.0,
    between: Callable[[int], None] | None = None,
) -> None:
    """Move a job *times* times, after a random time each."""
    dice = seeded_random()
    for number in range(times):
        time.sleep(dice.uniform(0, longest_pause_s))  # the random moment itself
        status = moving.wherry.status(moving.cid)
        assert status == "running", f"after {number} moves the job is {status}: too short a job?"
        moving.move(kill=dice.random() < 0.5, timeout=timeout)
        if between is not None:
            between(number)
