"""Reading an image in order, from a pipe as well as from a file, as hostile input.

Every frame's head is checked before a size in it is used, every body before it is decompressed,
every record's types before it becomes an object. `ImageReader.finish` then compares the index and
the root digest with all frames that were seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any

from blake3 import blake3

from formats import wire
from formats.chunks import Chunk, unpack_meta
from formats.consume import Consumers
from formats.errors import ImageCorruptError, ImageError
from formats.frames import FIRST_SKIPPABLE, Frame, FrameReader, FrameType, Source, check_body
from formats.header import HEADER_SIZE, SIGNATURE, Header, unpack_header
from formats.limits import MAX_RECORDS, MAX_RECORDS_SIZE, VALUES_WEIGHT_PER_BYTE
from formats.manifest import ImageSummary, RootDigest, check_root, entry_of, unpack_end
from formats.records.codec import KIND_PATTERN, Record, class_of, unpack_record
from formats.signature import SIGNATURE_FRAME, Signed, unpack_signature


class ImageReader:
    """Reads one image in stream order: `records`, then `chunks`, then `finish`.

    Args:
        source: Anything with a blocking ``readinto``. Never read beyond the image's
            end, except for the one byte that shows that nothing follows.
        name: What messages call the image; the source's own name by default.
        more_follows: True when the source goes on after the image (another protocol's stream);
            then trailing bytes are not looked for.

    Attributes:
        header: What its first bytes say.
        signature: The image's signature, once the chunks were read; None for an image without.

    Raises:
        ImageCorruptError, ImageVersionError: The header is not one that can be read.

    Every error's sentence starts with the name.
    """

    _understood = 0  # incompatible feature flags

    def __init__(
        self, source: Source, *, name: str | None = None, more_follows: bool = False
    ) -> None:
        own_name = getattr(source, "name", None)
        self.name = name or (PurePath(own_name).name if isinstance(own_name, str) else "image")
        self._more_follows = more_follows
        self._frames = FrameReader(source)
        raw = bytearray(HEADER_SIZE)
        with self._named():
            size = self._frames.read_up_to(memoryview(raw))
            self.header: Header = unpack_header(bytes(raw[:size]), understood=self._understood)
        self._root = RootDigest(bytes(raw))
        self._records: list[Record] | None = None
        self._seen = _Seen()
        self._last_type = int(FrameType.RECORDS)
        self._ahead: Frame | None = None  # the first frame that is not of the kind looked for
        self.signature: Signed | None = None
        self._expected: Signed | None = None
        self._unread: Frame | None = None  # a chunk frame whose body is still in the source

    def expect(self, signed: Signed) -> None:
        """See that this is the image that somebody has judged: its records, and at the end all.

        Called before anything is read. What differs is an ImageCorruptError, reason
        ``image-changed``.
        """
        self._expected = signed

    # Records

    def for_each_raw_record(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The records one by one as (kind, map), those of unknown kinds among them. Once only."""
        while (frame := self._next_records()) is not None:
            with self._named():
                values = wire.unpack_all(self._frames.read_plain(frame), self._seen.budget)
            while True:
                with self._named():
                    pair = _next_record(values)
                    if pair is None:
                        break
                    self._seen.add_record()
                yield pair
        if self._expected is not None and self._expected.records != self._seen.heads.digest():
            with self._named():
                raise _changed()

    def records(self) -> list[Record]:
        """All records of kinds that this version knows.

        A kind that must not be ignored comes with an incompatible feature flag, which would have
        been refused already.
        """
        if self._records is None:
            found = []
            for kind, fields in self.for_each_raw_record():
                if class_of(kind) is not None:
                    with self._named():
                        found.append(unpack_record(kind, fields))
            self._records = found
        return self._records

    def _next_records(self) -> Frame | None:
        with self._named():
            frame = self._next_of(FrameType.RECORDS)
            if frame is not None:
                self._seen.add_records_frame(frame)
        return frame

    # Chunks

    def chunks(self) -> Iterator[Chunk]:
        """The chunks in stream order, each with its own copy of the stored bytes.

        Their digests are checked by `Chunk.unpack`, so that threads can share this work.
        """
        while (frame := self._next_chunk()) is not None:
            with self._named():
                body = self._read_body(frame)
                chunk = _chunk_of(frame, body)
            yield chunk

    def references(self) -> Iterator[Chunk]:
        """The chunks that are left, for those who want few of them, or want them later.

        A reader that can seek gives chunks whose bytes are read when they are unpacked, in any
        order, as long as the source is open. A stream cannot: there each has its bytes with it.
        """
        return self.chunks()

    def for_each_chunk(
        self,
        consume: Callable[[Chunk, memoryview], None],
        *,
        workers: int = 2,
        check_ids: bool = False,
    ) -> None:
        """Unpack all remaining chunks in threads and hand them to *consume*.

        Frames are read in order in the calling thread. *consume* gets a chunk and its plain bytes,
        which are valid only until it returns; it runs in several threads at once, in no fixed
        order. Memory stays bounded. The first error of any thread is raised here; no thread
        outlives this call.

        Args:
            consume: What to do with a chunk.
            workers: Threads, at least one.
            check_ids: Also compare the plain bytes with the chunk's name.
        """
        with Consumers(consume, workers=workers, check_ids=check_ids, wrap=self._named) as pool:
            while (frame := self._next_chunk()) is not None:
                buffer = pool.borrow()
                with self._named():
                    body = self._read_body(frame, buffer)
                    chunk = _chunk_of(frame, body)
                pool.submit(chunk, buffer)

    def _next_chunk(self) -> Frame | None:
        for _ in self.for_each_raw_record():
            pass  # nobody asked for the rest of them; they are checked all the same
        with self._named():
            self._skip_unread()
            frame = self._next_of(FrameType.CHUNK)
            if frame is not None:
                self._seen.add_chunk(frame)
                self._unread = frame
        return frame

    def _read_body(self, frame: Frame, buffer: bytearray | None = None) -> memoryview:
        self._unread = None
        size = frame.head.stored_size
        body = memoryview(bytearray(size) if buffer is None else buffer)[:size]
        self._frames.read_into(body)
        return body

    def _skip_unread(self) -> None:
        """Read a body that was left in the source when an iteration was given up."""
        if self._unread is not None:
            check_body(self._unread.head, self._read_body(self._unread))

    # The end

    def finish(self) -> ImageSummary:
        """Read what is left, the index and the end; compare them with all that was seen.

        Chunks that nobody took are checked against their digests on the way.

        Raises:
            ImageCorruptError: Something is missing, added, damaged or in the wrong place.
        """
        for chunk in self.chunks():
            with self._named():
                chunk.check()
        with self._named():
            return self._read_end()

    def _read_end(self) -> ImageSummary:
        index = blake3()
        index_position = self._ahead.position if self._ahead else 0
        index_frames = 0
        while (frame := self._next_of(FrameType.INDEX)) is not None:
            index.update(self._frames.read_plain(frame))
            index_frames += 1
        matches = index.digest() == self._seen.index.digest()
        return self._check_end(index_position, index_frames, matches)

    def _check_end(
        self, index_position: int, index_frames: int, index_matches: bool
    ) -> ImageSummary:
        """Compare the end frame, which comes next, with all that was seen."""
        end = self._ahead
        if end is None or end.head.type != FrameType.END:
            raise ImageCorruptError("the end frame is missing")
        summary = unpack_end(end.meta)
        check_root(end.meta, self._root)
        if self.signature is None and self.header.compatible & SIGNATURE:
            raise ImageCorruptError("its signature is missing")
        if self._expected is not None and self.signature != self._expected:
            raise _changed()
        if not index_matches:
            raise ImageCorruptError("the index does not match the chunks")
        seen = self._seen.summary(index_position, index_frames, self._frames.position, summary.root)
        if seen != summary:
            raise ImageCorruptError(f"the image has {seen}, its end frame says {summary}")
        if not self._more_follows and not self._frames.at_end():
            raise ImageCorruptError(
                f"bytes follow the end of the image at byte {summary.file_size}; "
                "this is not a wherry image alone",
                reason="image-trailing-bytes",
            )
        return summary

    # Frames

    def _next_of(self, wanted: FrameType) -> Frame | None:
        """The next frame if it is of the type *wanted*; else it is kept for later."""
        if self._ahead is None:
            self._ahead = self._next_known()
        frame = self._ahead
        if frame.head.type != wanted:
            return None
        self._ahead = None
        return frame

    def _next_known(self) -> Frame:
        while True:
            frame = self._frames.next_frame()
            kind = frame.head.type
            if kind == SIGNATURE_FRAME:
                self._read_signature(frame)
                continue
            if kind != FrameType.END:
                self._root.add(frame.raw)
            if kind < FIRST_SKIPPABLE:
                if kind < self._last_type:
                    raise ImageCorruptError(
                        f"frame {frame.head.sequence} ({FrameType(kind).name.lower()}) comes "
                        f"after one of type {FrameType(self._last_type).name.lower()}"
                    )
                self._last_type = kind
                return frame
            check_body(frame.head, self._frames.read_body(frame))

    def _read_signature(self, frame: Frame) -> None:
        if self.signature is not None or self._last_type > FrameType.CHUNK:
            raise ImageCorruptError(f"frame {frame.head.sequence}: a signature where none belongs")
        digest = self._root.so_far()
        key, signature = unpack_signature(frame, self._frames.read_body(frame))
        self.signature = Signed(digest, self._seen.heads.digest(), key, signature)
        self._root.add(frame.raw)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Put the image's name in front of an error's sentence."""
        try:
            yield
        except ImageError as exc:
            raise type(exc)(f"{self.name}: {exc}", reason=exc.reason) from exc.__cause__


class _Seen:
    """What has gone by, to be compared with the end frame."""

    def __init__(self) -> None:
        self.record_frames = self.records = self._records_size = 0
        self.chunks = self.plain_bytes = self.stored_bytes = 0
        self.index = blake3()
        self.budget = wire.Budget()
        self.heads = blake3()  # of the records frames

    def add_records_frame(self, frame: Frame) -> None:
        self.record_frames += 1
        self.heads.update(frame.raw)
        self._records_size += frame.head.plain_size
        self.budget.left += VALUES_WEIGHT_PER_BYTE * frame.head.stored_size
        if self._records_size > MAX_RECORDS_SIZE:
            raise ImageCorruptError(f"more than {MAX_RECORDS_SIZE} bytes of records")

    def add_record(self) -> None:
        self.records += 1
        if self.records > MAX_RECORDS:
            raise ImageCorruptError(f"more than {MAX_RECORDS} records")

    def add_chunk(self, frame: Frame) -> None:
        self.chunks += 1
        self.plain_bytes += frame.head.plain_size
        self.stored_bytes += frame.head.stored_size
        self.index.update(entry_of(frame))

    def summary(
        self, index_position: int, index_frames: int, file_size: int, root: bytes
    ) -> ImageSummary:
        return ImageSummary(
            index_position=index_position,
            index_frames=index_frames,
            record_frames=self.record_frames,
            records=self.records,
            chunks=self.chunks,
            plain_bytes=self.plain_bytes,
            stored_bytes=self.stored_bytes,
            file_size=file_size,
            root=root,
        )


def _changed() -> ImageCorruptError:
    return ImageCorruptError(
        "it was changed after its signature was looked at", reason="image-changed"
    )


def _next_record(values: Iterator[Any]) -> tuple[str, dict[str, Any]] | None:
    match next(values, values):
        case rest if rest is values:
            return None
        case [str(kind), dict(fields)] if KIND_PATTERN.fullmatch(kind):
            return kind, fields
    raise ImageCorruptError("a record is not a pair of kind and map")


def _chunk_of(frame: Frame, body: memoryview) -> Chunk:
    return Chunk(frame.head, unpack_meta(frame.meta, frame.head.plain_size), body)
