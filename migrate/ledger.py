"""The destination's book of handovers: who owns a container is written here, and nowhere else.

One small file in the state root, ``.handover.json``, maps the token of each handover to how far it
has come. Every change is made under one lock and is on the disk before anything depends on it. So
two processes that deal with one handover (the ``receive`` that was cut off, and the one that came
to ask) can never decide differently: whoever comes second reads what the first has written.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from migrate.errors import MigrateError
from migrate.messages import PageState, Phase
from runtime.metadata import sync_directory

FILE = ".handover.json"
LOCK = ".handover.lock"
TOKEN = re.compile(r"[0-9a-f]{32}")
KEPT_S = 7 * 86400  # how long a settled handover is remembered when the source never says done
KEPT_WANTED_S = 30 * 86400  # one whose memory has still to come
MAX_ENTRIES = 4096


@dataclass(slots=True)
class Entry:
    """One handover.

    Attributes:
        container_id: The container's id here.
        phase: How far it has come.
        pid: Of the ``receive`` that began it.
        start_ticks: When that process started; with the pid it names one process.
        source: Host and id that the container comes from, for telling a second attempt.
        changed: Wall-clock seconds of the last change.
        pages: Of the memory that was to come after the handover: whether all of it has.
        ran: Wall-clock seconds at which it was started here; 0 before.
        sentence: Why memory was lost.
    """

    container_id: str
    phase: Phase
    pid: int = 0
    start_ticks: int = 0
    source: str = ""
    changed: float = 0.0
    pages: PageState = PageState.COMPLETE
    ran: float = 0.0
    sentence: str = ""


@contextlib.contextmanager
def open_ledger(root: Path) -> Iterator[dict[str, Entry]]:
    """The book under its lock; what the body changes is durable when the context has ended.

    An exception in the body leaves the file as it was.

    Raises:
        MigrateError: The file is damaged; reason ``ledger-corrupt``.
    """
    root.mkdir(mode=0o711, parents=True, exist_ok=True)
    with _locked(root):
        entries = _read(root / FILE)
        before = _packed(entries)
        yield entries
        _forget_old(entries)
        after = _packed(entries)
        if after != before:
            _write(root / FILE, after)


def phase_of(root: Path, token: str) -> Phase:
    """How far a handover has come."""
    with open_ledger(root) as entries:
        entry = entries.get(token)
        return Phase.UNKNOWN if entry is None else entry.phase


def advance(root: Path, token: str, *, to: Phase, only_from: tuple[Phase, ...]) -> Phase:
    """Move a handover on, if it still is where the caller believes it to be.

    Returns:
        The phase that holds now: *to*, or what somebody else has decided meanwhile.
    """
    with open_ledger(root) as entries:
        entry = entries.get(token)
        if entry is None:
            return Phase.UNKNOWN
        if entry.phase in only_from:
            entry.phase, entry.changed = to, time.time()
            if to is Phase.RUNNING:
                entry.ran = entry.changed
        return entry.phase


def entry_of(root: Path, token: str) -> Entry | None:
    """What is written of a handover."""
    with open_ledger(root) as entries:
        return entries.get(token)


def note_pages(root: Path, token: str, state: PageState, sentence: str = "") -> PageState | None:
    """Write down what has become of memory that was wanted.

    Returns:
        What holds now: *state*, or what was written before; None for a handover nobody knows.
    """
    with open_ledger(root) as entries:
        entry = entries.get(token)
        if entry is None:
            return None
        if entry.pages is PageState.WANTED:
            entry.pages, entry.sentence, entry.changed = state, sentence, time.time()
        return entry.pages


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    fd = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _read(path: Path) -> dict[str, Entry]:
    try:
        document = json.loads(path.read_text())
        return {
            token: Entry(
                **{
                    **fields,
                    "phase": Phase(fields["phase"]),
                    "pages": PageState(fields.get("pages", PageState.COMPLETE)),
                }
            )
            for token, fields in document.items()
        }
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise MigrateError(
            f"{path}: cannot be read ({exc}); when no migration is under way, remove it",
            reason="ledger-corrupt",
        ) from exc


def _packed(entries: dict[str, Entry]) -> bytes:
    return json.dumps({token: asdict(entry) for token, entry in entries.items()}).encode()


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def _forget_old(entries: dict[str, Entry]) -> None:
    """Settled handovers go in time; those that await a decision stay.

    A source that comes later is told that nothing is known, and decides nothing by itself then.
    """
    settled = (Phase.RUNNING, Phase.ABORTED)
    for token, entry in list(entries.items()):
        kept_s = KEPT_WANTED_S if entry.pages is PageState.WANTED else KEPT_S
        if entry.phase in settled and entry.changed < time.time() - kept_s:
            del entries[token]
    if len(entries) > MAX_ENTRIES:
        raise MigrateError(f"more than {MAX_ENTRIES} handovers are open", reason="ledger-full")
