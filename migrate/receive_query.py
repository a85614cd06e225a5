"""The destination, asked: what has become of a handover, and of the memory that was to come."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from formats.errors import WherryError
from migrate.errors import MigrateError, ProtocolError
from migrate.ledger import TOKEN, Entry, advance, entry_of, note_pages, open_ledger, phase_of
from migrate.messages import AllHere, Answer, Done, Pages, PageState, Phase, Query, Wish
from migrate.ownership import END_TIMEOUT_S, abort, commit, destroy, finish, forget
from migrate.page_source import PAGES, hand_over
from migrate.protocol import Peer
from runtime.errors import ContainerError, ContainerNotFoundError
from runtime.filling import KILLED, fillers
from runtime.metadata import read_metadata
from runtime.state_root import ids


def answer_query(peer: Peer, query: Query, root: Path) -> None:
    """Tell what has become of a handover, after doing what the source wishes.

    Raises:
        ProtocolError: The token is malformed.
    """
    if not TOKEN.fullmatch(query.token):
        raise ProtocolError("the token of the query is malformed")
    peer.send(answer_for(root, query))
    with contextlib.suppress(MigrateError):
        forget(root, peer.receive(Done).token)


def answer_for(root: Path, query: Query) -> Answer:
    """Do what the source wishes, as far as it can be, and tell what holds then."""
    token, wish = query.token, query.wish
    with open_ledger(root) as entries:
        entry = _find(root, entries, token)
        if entry is None and wish is not Wish.ASK:
            # From now on nothing can come of it, even if its ``receive`` is still on the way.
            entries[token] = Entry("", Phase.ABORTED, changed=time.time())
    if entry is None:
        return Answer(Phase.UNKNOWN)
    phase, sentence = entry.phase, ""
    if wish is Wish.FINISH:
        phase = commit(root, token)
    if wish is not Wish.ASK:
        phase = abort(root, token)
    if phase is Phase.COMMITTED and wish is not Wish.ASK:
        try:
            finish(root, token)
        except (WherryError, OSError) as exc:
            sentence = str(exc)
        phase = phase_of(root, token)
    pages = PageState.COMPLETE
    if phase is Phase.RUNNING:
        pages, sentence = _page_state(root, token)
    elif phase is Phase.COMMITTED and wish is not Wish.ASK:
        pages = PageState.LOST  # and all the rest of it
    if pages is PageState.LOST and wish is Wish.TAKE_BACK:
        phase = _bury(root, token)
        pages = PageState.COMPLETE if phase is Phase.ABORTED else PageState.LOST
    return Answer(phase, entry.container_id, sentence, pages)


def _find(root: Path, entries: dict[str, Entry], token: str) -> Entry | None:
    """What is noted of a handover; what was lost is noted anew if the container is here."""
    if token in entries:
        return entries[token]
    for cid in ids(root):
        try:
            metadata = read_metadata(root / cid)
        except ContainerError:
            continue
        if (metadata.restored_from or {}).get("handover") != token:
            continue
        phase = Phase.PREPARED if metadata.frozen_restore else Phase.RUNNING
        # Without a word of its guard, memory that nobody fills any more is complete.
        late = metadata.extra.get(PAGES) == token and (
            KILLED in metadata.extra or any(process.alive() for process in fillers(metadata))
        )
        pages = PageState.WANTED if late else PageState.COMPLETE
        entries[token] = Entry(cid, phase, changed=time.time(), pages=pages)
        return entries[token]
    return None


def serve_pager(peer: Peer, pages: Pages, root: Path, fds: tuple[int, int]) -> None:
    """Bring the pager of a container that runs here together with the source.

    Args:
        peer: The source.
        pages: Its word.
        root: State root of this host's containers.
        fds: What *peer* is read and written with.

    Raises:
        TransportError: The source has hung up.
        ProtocolError: It says more than it should.
    """
    if not TOKEN.fullmatch(pages.token):
        raise ProtocolError("the token is malformed")
    answer = _answer(root, pages.token)
    if answer.pages is PageState.WANTED:
        if not peer.idle():
            raise ProtocolError("the source does not wait for what it is asked for")
        if hand_over(root / answer.container_id, fds):
            # All that is to be said, the pager has said.
            answer = _answer(root, pages.token)
            if answer.pages is not PageState.COMPLETE:
                return
        else:
            answer = _settled_answer(root, pages.token)
            peer.send(AllHere() if answer.pages is PageState.COMPLETE else answer)
    else:
        settled = answer.phase is Phase.RUNNING and answer.pages is PageState.COMPLETE
        peer.send(AllHere() if settled else answer)
    with contextlib.suppress(MigrateError):
        forget(root, peer.receive(Done).token)


def _settled_answer(root: Path, token: str) -> Answer:
    """When there is no pager any more: what it, or its guard, is about to write down."""
    with contextlib.suppress(ContainerError, FileNotFoundError):
        for process in fillers(read_metadata(root / _answer(root, token).container_id)):
            process.wait_gone(END_TIMEOUT_S)
    return _answer(root, token)


def _answer(root: Path, token: str) -> Answer:
    """What holds of a handover."""
    with open_ledger(root) as entries:
        entry = _find(root, entries, token)
    if entry is None:
        return Answer(Phase.UNKNOWN)
    pages, sentence = PageState.COMPLETE, ""
    if entry.phase is Phase.RUNNING:
        pages, sentence = _page_state(root, token)
    return Answer(entry.phase, entry.container_id, sentence, pages)


def _page_state(root: Path, token: str) -> tuple[PageState, str]:
    """What has become of the memory that was to come later, and why."""
    entry = entry_of(root, token)
    if entry is not None and entry.pages is PageState.WANTED:
        why = _why_nobody_fills(root / entry.container_id, token)
        if why:
            # Whether it ended well was written down before it ended.
            note_pages(root, token, PageState.LOST, why)
            entry = entry_of(root, token)
    return (PageState.COMPLETE, "") if entry is None else (entry.pages, entry.sentence)


def _why_nobody_fills(directory: Path, token: str) -> str:
    """Why a container's memory will not be filled any more; empty while somebody does it."""
    try:
        metadata = read_metadata(directory)
    except ContainerError as exc:
        return f"it was removed there before all of its memory had come: {exc}"
    if metadata.extra.get(PAGES) != token:
        return "it was removed there, and another container has its id"
    if KILLED in metadata.extra:
        return str(metadata.extra[KILLED]["message"])
    if any(process.alive() for process in fillers(metadata)):
        return ""
    return "its pager has vanished"


def _bury(root: Path, token: str) -> Phase:
    """Remove what is left of a container whose memory was lost, so that the source may have it."""
    with open_ledger(root) as entries:
        cid = entries[token].container_id
    try:
        if read_metadata(root / cid).extra.get(PAGES) == token:
            destroy(root, cid)
            read_metadata(root / cid)
            return Phase.RUNNING  # it cannot be removed, and may be alive
    except ContainerNotFoundError:
        pass
    except ContainerError:
        return Phase.RUNNING  # who knows
    return advance(root, token, to=Phase.ABORTED, only_from=(Phase.RUNNING, Phase.COMMITTED))
