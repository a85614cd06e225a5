"""The messages of the migration protocol, as docs/protocol.md describes them.

Each is a record (formats.records.codec): exact types, bounded sizes, unknown keys ignored, so a
newer side may add keys. Their order is the business of the modules that hold the conversations.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from formats.errors import Refusal
from formats.records.codec import Json, Record, record

PROTOCOL_VERSIONS = (1,)
"""Every version that this wherry speaks; both sides use the highest that both have."""

FEATURES = (
    *("container-stream", "dry-run", "file", "frames", "handover-query", "outside-links"),
    *("postcopy", "precopy", "resume", "rootfs"),
)
"""Abilities beyond the version, by name; a side uses only what both have named."""


class Phase(enum.StrEnum):
    """How far a handover has come, as the destination sees it.

    Each value says what is true once it has been written down.
    """

    UNKNOWN = "unknown"
    """There is no record of this handover here, and there will be none."""
    RECEIVING = "receiving"
    """An image is arriving or being restored; nothing may run here yet."""
    PREPARED = "prepared"
    """The container stands here frozen; the source still owns it."""
    COMMITTED = "committed"
    """The destination owns the container; the source must never thaw its own again."""
    RUNNING = "running"
    """The destination has started it; the source may destroy its own."""
    ABORTED = "aborted"
    """Nothing of it is here and nothing will be; the source may thaw its own."""


class Wish(enum.StrEnum):
    """What a source that asks about a handover wants to become of it."""

    ASK = "ask"
    """Only the answer; nothing changes."""
    FINISH = "finish"
    """Start what is prepared; if that cannot be, abort."""
    ABORT = "abort"
    """Abort what has not been committed."""
    TAKE_BACK = "take-back"
    """As ABORT, and remove what has run and is dead for lack of memory: somebody has chosen to lose
    what it had done. Only with the feature ``postcopy``."""


class PageState(enum.StrEnum):
    """What has become of the memory that stayed at the source."""

    COMPLETE = "complete"
    """All of it has come, or nothing was to come."""
    WANTED = "wanted"
    """The container needs the source, which must keep its own frozen and serve pages."""
    LOST = "lost"
    """It could not be had, and what there was of the container is dead, or not there any more."""


@record("migrate-hello")
@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of both sides.

    Attributes:
        versions: Protocol versions that the sender speaks.
        features: Further abilities, see `FEATURES`.
        wherry: Product version, informative.
        hostname: Of the sender, informative.
        architecture: As ``uname -m`` says.
        kernel: As ``uname -r`` says, informative.
        page_size: Bytes.
        cpu_flags: Features of the processor that programs can use.
        vdso: SHA-256 of the vDSO's code; empty when unknown.
        signal_frame: Bytes of a signal's frame with all registers; 0 when unknown.
    """

    versions: tuple[int, ...]
    features: tuple[str, ...]
    wherry: str
    hostname: str
    architecture: str
    kernel: str
    page_size: int
    cpu_flags: tuple[str, ...]
    vdso: bytes = b""
    signal_frame: int = 0


@record("migrate-offer-file")
@dataclass(frozen=True, slots=True)
class OfferFile:
    """A state file is to be stored.

    Attributes:
        path: As the user wrote it; relative to the login's directory, may be a directory.
        name: The file's name, used when *path* is a directory.
        size_bytes: Of the file.
        overwrite: Whether an existing file may be replaced.
        root: The image's root digest, so that what has come of it can be gone on with; empty for
            none. Only with the feature ``resume``.
        again: It was offered before, and the connection broke: it may be there already.
    """

    path: str
    name: str
    size_bytes: int
    overwrite: bool
    root: bytes = b""
    again: bool = False


@dataclass(frozen=True, slots=True)
class Outlet:
    """An interface of the container that leads outside.

    Attributes:
        key: Its kind and name, such as ``veth[eth0]``.
        name: What it is to be connected with over there: a bridge for a veth, an interface else.
    """

    key: str
    name: str


@record("migrate-offer-container")
@dataclass(frozen=True, slots=True)
class OfferContainer:
    """A container is to be moved.

    Attributes:
        token: Names this handover: 32 hexadecimal digits.
        container_id: Id that it is to have at the destination.
        source_id: Id that it has at the source.
        bundle: Its bundle's path at the source, empty for none.
        spec: Its OCI configuration.
        memory_bytes: What its tasks occupy, about.
        outlets: Its connections with networks outside, as far as they can be made anew.
        disk_bytes: What its files occupy that travel with it.
        time_ns: CLOCK_REALTIME at the source; 0 when unknown.
        accepted: Reason codes of what the user has looked at and accepts.
        dry_run: Only the answer is wanted.
        rounds: Whether memory comes in rounds before the image; only with the feature ``precopy``.
        overlay: With rounds: whether it has an overlay.
        hash_seed: With rounds: of the overlay's own file system; empty for none.
        pages_within_s: More than 0: memory that can wait is asked for when the container runs, only
            with the feature ``postcopy``; when nobody gives it for so many seconds, the container
            is killed.
        rootfs: How its root file system goes along, see `migrate.rootfs.modes`; other values than
            ``shared`` only with the feature ``rootfs``, and then a list of files follows as data.
        rootfs_bases: Where else files of it may be at the destination.
    """

    token: str
    container_id: str
    source_id: str
    bundle: str
    spec: Json
    memory_bytes: int
    outlets: tuple[Outlet, ...] = ()
    disk_bytes: int = 0
    time_ns: int = 0
    accepted: tuple[str, ...] = ()
    dry_run: bool = False
    rounds: bool = False
    overlay: bool = False
    hash_seed: str = ""
    pages_within_s: int = 0
    rootfs: str = "shared"
    rootfs_bases: tuple[str, ...] = ()


@record("migrate-files-wanted")
@dataclass(frozen=True, slots=True)
class FilesWanted:
    """The content of these files is not at the destination: send it, as data.

    Attributes:
        numbers: Of their entries, u32 each, little-endian.
        more: Whether another such message follows.
    """

    numbers: bytes
    more: bool


@record("migrate-files-stored")
@dataclass(frozen=True, slots=True)
class FilesStored:
    """The tree is there.

    Attributes:
        taken: Files whose content came.
        files: All of them, of any type.
    """

    taken: int
    files: int


@record("migrate-files-changed")
@dataclass(frozen=True, slots=True)
class FilesChanged:
    """The tree has changed: the entries that are new or different follow, then their content.

    Attributes:
        removed: Numbers of the entries that are gone, u32 each; what is in a directory before it.
    """

    removed: bytes


@record("migrate-files-end")
@dataclass(frozen=True, slots=True)
class FilesEnd:
    """The tree will not change any more."""


@record("migrate-ready")
@dataclass(frozen=True, slots=True)
class Ready:
    """Nothing stands in the way: send the data.

    Attributes:
        path: Where a file will be stored, absolute; empty for a container.
        offset: So much of a file is there: send what follows.
    """

    path: str = ""
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Reason:
    """One `Refusal` on the wire."""

    reason: str
    subject: str
    sentence: str


@record("migrate-refuse")
@dataclass(frozen=True, slots=True)
class Refuse:
    """Everything that stands in the way; the conversation ends."""

    reasons: tuple[Reason, ...]

    @classmethod
    def of(cls, refusals: list[Refusal]) -> Refuse:
        """The message for these refusals."""
        return cls(tuple(Reason(item.reason, item.subject, item.sentence) for item in refusals))

    @property
    def refusals(self) -> list[Refusal]:
        """The reverse of `of`."""
        return [Refusal(item.reason, item.subject, item.sentence) for item in self.reasons]


@record("migrate-data-end")
@dataclass(frozen=True, slots=True)
class DataEnd:
    """No more data frames; *total_bytes* came in them."""

    total_bytes: int


@record("migrate-round")
@dataclass(frozen=True, slots=True)
class Round:
    """A round of pre-copy follows, as data.

    Attributes:
        number: From 1 on, one after the other.
    """

    number: int


@record("migrate-round-staged")
@dataclass(frozen=True, slots=True)
class RoundStaged:
    """A round has come, whole, and is kept.

    Attributes:
        number: Which one.
        root: Root digest of its image.
        staged_bytes: What all rounds so far occupy.
    """

    number: int
    root: bytes
    staged_bytes: int


@record("migrate-rounds-end")
@dataclass(frozen=True, slots=True)
class RoundsEnd:
    """No further round: the container is frozen, and its image follows, as data.

    Attributes:
        rounds: How many there were.
    """

    rounds: int


@record("migrate-stored")
@dataclass(frozen=True, slots=True)
class Stored:
    """The file has been verified and stands under its name, synced."""

    path: str
    size_bytes: int
    root: str


@record("migrate-prepared")
@dataclass(frozen=True, slots=True)
class Prepared:
    """The container has been rebuilt from a complete, verified image and is frozen.

    Attributes:
        restore_ns: From the first byte of the image to now, nanoseconds.
        warnings: What was not preserved.
    """

    restore_ns: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HeldFrame:
    """An Ethernet frame that came for the container while it was frozen.

    Attributes:
        interface: Index of the interface in the container.
        frame: As ``PACKET_VNET_HDR`` of packet(7) gives it.
    """

    interface: int
    frame: bytes


@record("migrate-commit")
@dataclass(frozen=True, slots=True)
class Commit:
    """The source has written down that it gives the container away: start it.

    Attributes:
        token: Of the handover.
        frames: What the source's network has held back for it.
    """

    token: str
    frames: tuple[HeldFrame, ...] = ()


@record("migrate-running")
@dataclass(frozen=True, slots=True)
class Running:
    """The container runs at the destination.

    Attributes:
        thaw_ns: From the arrival of the commit to now, nanoseconds.
        pid: Its init at the destination.
    """

    thaw_ns: int
    pid: int


@record("migrate-frames")
@dataclass(frozen=True, slots=True)
class Frames:
    """What came to the source for the container since the commit."""

    frames: tuple[HeldFrame, ...]


@record("migrate-failed")
@dataclass(frozen=True, slots=True)
class Failed:
    """The sender failed; nothing of the transfer is left with it."""

    reason: str
    sentence: str


@record("migrate-abort")
@dataclass(frozen=True, slots=True)
class Abort:
    """The source gives up; the receiver removes what it has made."""

    sentence: str


@record("migrate-ping")
@dataclass(frozen=True, slots=True)
class Ping:
    """The sender is alive and working."""


@record("migrate-query")
@dataclass(frozen=True, slots=True)
class Query:
    """What has become of a handover?"""

    token: str
    wish: Wish


@record("migrate-answer")
@dataclass(frozen=True, slots=True)
class Answer:
    """What has become of a handover, as written down at the destination.

    Attributes:
        phase: How far it has come.
        container_id: The id there, empty when unknown.
        sentence: More about it, possibly empty.
        pages: Of a container that runs, or ran, after a post-copy migration: a `PageState`.
    """

    phase: Phase
    container_id: str = ""
    sentence: str = ""
    pages: PageState = PageState.COMPLETE


@record("migrate-done")
@dataclass(frozen=True, slots=True)
class Done:
    """The source has settled its side of a handover; the record may be forgotten."""

    token: str


@record("migrate-pages")
@dataclass(frozen=True, slots=True)
class Pages:
    """The source is ready to give pages of a container that runs at the destination.

    Attributes:
        token: Of the handover.
    """

    token: str


@record("migrate-page-request")
@dataclass(frozen=True, slots=True)
class PageRequest:
    """The destination wants memory.

    Attributes:
        mm_id: The address space, as in the image.
        ranges: (start, end) byte addresses as in the image's records; 1 MiB at most in all.
    """

    mm_id: int
    ranges: bytes


@record("migrate-page-content")
@dataclass(frozen=True, slots=True)
class PageContent:
    """What was asked for; it follows as data frames. Requests are answered in their order.

    Attributes:
        plain_bytes: Its size.
        stored_bytes: What follows; less than *plain_bytes* if it is a zstd frame.
    """

    plain_bytes: int
    stored_bytes: int


@record("migrate-all-here")
@dataclass(frozen=True, slots=True)
class AllHere:
    """The destination needs the source no more.

    Attributes:
        faults: How often the program had to wait for a page.
        filled_bytes: What it was given, copies in children included.
    """

    faults: int = 0
    filled_bytes: int = 0


MESSAGES: tuple[type[Record], ...] = (
    *(Hello, OfferFile, OfferContainer, Ready, Refuse, DataEnd, Stored, Prepared, Commit),
    *(Running, Frames, Failed, Abort, Ping, Query, Answer, Done, Round, RoundStaged, RoundsEnd),
    *(Pages, PageRequest, PageContent, AllHere),
    *(FilesWanted, FilesStored, FilesChanged, FilesEnd),
)
