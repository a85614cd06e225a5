"""Making the UNIX sockets of a container, all at once, because they come in pairs.

Stream and sequenced-packet sockets:

* A connection that was accepted has its name from the listening socket, and nothing but an accept
  gives it one that others have too. So whatever was connected through a name is connected through
  it again: by the socket that listens there, or by one that is closed afterwards.
* Other connections are made by socketpair(2) and take their names then.
* The client's idea of its peer is whoever called listen(2), the server's is whoever called
  connect(2). See `runtime.engine.files.unix_actors`.

Datagram sockets: those that know their peer's credentials come from a socketpair(2), the others are
single. Connections between named ones are made by `runtime.engine.files.unix_fill`, because nobody
else can send to a socket once it is connected.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from formats.records.unix import Link, UnixCredentials, UnixPending, UnixSocket
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.unix_actors import Actors
from runtime.engine.files.unix_names import Names, Node
from runtime.engine.sandbox.network_ids import namespace_path
from runtime.errors import RestoreError
from runtime.kernel.visit import visiting_path

KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)
_AT_ONCE = 100  # connections waiting at a listening socket of ours
_Place = tuple[int, bytes, str]  # kind, name, path: what sockets of one listening socket share


@dataclass(slots=True)
class Making:
    """What has been made so far.

    Attributes:
        files: The restore.
        home: The network namespace of the sockets, as a path of ours.
        records: The sockets.
        names: Binds.
        actors: Connect.
        made: Our descriptor for each socket, by file id.
        far: Our descriptor for the other end of a connection; of one that is gone, the only one.
        nodes: The files of bound sockets, by file id.
        waiting: Our descriptor for the client's end of each connection that is not accepted.
        partners: For datagram sockets from a socketpair(2): the file id of the other, 0 if gone.
    """

    files: RestoredFiles
    home: str
    records: list[UnixSocket]
    names: Names
    actors: Actors
    made: dict[int, int] = field(default_factory=dict)
    far: dict[int, int] = field(default_factory=dict)
    nodes: dict[int, Node | None] = field(default_factory=dict)
    waiting: list[tuple[int, UnixSocket, UnixPending]] = field(default_factory=list)
    partners: dict[int, int] = field(default_factory=dict)

    def plain(self, kind: int) -> int:
        """A socket of ours that is neither bound nor connected."""
        with visiting_path(self.home, "net"):
            return socket.socket(socket.AF_UNIX, kind).detach()

    def bind(self, record: UnixSocket) -> None:
        """Give a socket its name, if it has one and holds it."""
        if record.name and record.file_id not in self.nodes:
            fd = self.made[record.file_id]
            self.nodes[record.file_id] = self.names.bind(fd, record)


def make_all(files: RestoredFiles, ns_id: int) -> Making:
    """Make every UNIX socket of a network namespace, connected but empty."""
    records = [record for record in files.all_of(UnixSocket) if record.ns_id == ns_id]
    by_inode = {record.inode: record for record in records}
    _check(records, by_inode)
    actors = files.once("unix-actors", lambda: Actors(files))
    making = Making(files, namespace_path(files, ns_id), records, Names(files), actors)
    streams = [r for r in records if r.kind != socket.SOCK_DGRAM]
    _Streams(making, streams, by_inode).make()
    _make_datagrams(making, [r for r in records if r.kind == socket.SOCK_DGRAM], by_inode)
    for record in records:
        fd = making.made[record.file_id]
        if record.socket_uid or record.socket_gid:
            os.fchown(fd, record.socket_uid, record.socket_gid)
    return making


def _check(records: Iterable[UnixSocket], by_inode: dict[int, UnixSocket]) -> None:
    for record in records:
        peer = by_inode.get(record.peer)
        problem = ""
        if record.kind not in KINDS or len(record.name) > 108:
            problem = "is of no kind there is"
        elif record.link is Link.PEER and (peer is None or peer.kind != record.kind):
            problem = f"is connected to socket {record.peer}, which the image lacks"
        elif record.kind != socket.SOCK_DGRAM and peer is not None and peer.peer != record.inode:
            problem = f"is connected to socket {record.peer}, which is not connected to it"
        elif any(p.client and p.client not in by_inode for p in record.pending):
            problem = "has a connection of a client that the image lacks"
        if problem:
            raise RestoreError(f"UNIX socket {record.inode} {problem}", reason="image-inconsistent")


class _Streams:
    """Sockets of the kinds that listen and accept."""

    def __init__(
        self, making: Making, records: list[UnixSocket], by_inode: dict[int, UnixSocket]
    ) -> None:
        self.making = making
        self.records = records
        self.by_inode = by_inode
        self.listeners = {_place(r): r for r in records if r.listening}
        self.bound = {r.name for r in records if r.listening}

    def make(self) -> None:
        """Make all of them."""
        pairs: dict[tuple[int, UnixCredentials], list[UnixSocket]] = {}
        accepted: dict[_Place, list[UnixSocket]] = {}
        for record in self.records:
            if record.link is Link.PEER and self._is_second(record):
                continue
            if record.link not in (Link.PEER, Link.GONE):
                continue
            server = self._server(record)
            known = record.link is Link.GONE and record.peer_name in self.bound
            if server is None and record.credentials is not None and not known:
                pairs.setdefault((record.kind, record.credentials), []).append(record)
            else:
                place = _place(server) if server is not None else self._gone_place(record)
                accepted.setdefault(place, []).append(record)
        for (kind, who), members in pairs.items():
            made = self.making.actors.pairs(kind, who, len(members), self.making.home)
            for record, (first, second) in zip(members, made, strict=True):
                self._join(record, first, second)
        # First through names whose listening socket is gone: somebody else may have them now.
        for place, members in sorted(accepted.items(), key=lambda item: item[0] in self.listeners):
            self._connect_through(place, members)
        for record in self.listeners.values():
            if record.file_id not in self.making.made:
                self._connect_through(_place(record), [])
        self._make_single()

    def _is_second(self, record: UnixSocket) -> bool:
        return record.peer < record.inode

    def _ends(self, record: UnixSocket) -> list[UnixSocket]:
        peer = self.by_inode.get(record.peer) if record.link is Link.PEER else None
        return [record] if peer is None else [record, peer]

    def _server(self, record: UnixSocket) -> UnixSocket | None:
        """The end of a connection that was accepted; None if it was made in another way."""
        ends = [end for end in self._ends(record) if end.name]
        for end in ends:
            if _place(end) in self.listeners or end.name in self.bound:
                return end
        for end in ends:
            if not end.holds_name:
                return end
        if len(self._ends(record)) == 2:
            first, second = self._ends(record)
            if first.credentials == second.credentials:
                return None
        # A name in the file system is held by its file; take it for the server's.
        return ends[0] if ends else None

    def _gone_place(self, record: UnixSocket) -> _Place:
        """Where the client of a server that is gone was connected to."""
        for place in self.listeners:
            if place[:2] == (record.kind, record.peer_name):
                return place
        return record.kind, record.peer_name, ""

    def _join(self, record: UnixSocket, end: int, other: int) -> None:
        """Note a connection: *end* is the socket of *record*, *other* the far one."""
        making = self.making
        making.made[record.file_id] = end
        ends = self._ends(record)
        if len(ends) == 2:
            peer = ends[1]
            making.made[peer.file_id] = other
            making.far[record.file_id], making.far[peer.file_id] = other, end
        else:
            making.far[record.file_id] = other

    def _connect_through(self, place: _Place, members: list[UnixSocket]) -> None:
        """Make a listening socket, the connections it has accepted, and those it has not."""
        making, listener = self.making, self.listeners.get(place)
        kind, name, path = place
        fd = making.plain(kind)
        if not name and listener is None:
            # Nobody's name: a peer that is gone, whose own name is not known either.
            os.close(fd)
            self._make_gone(members)
            return
        owner = listener or next((m for m in members if _place(m) == place), None)
        node = making.names.bind_to(fd, name, path, owner) if name else None
        for alike in self._by_credentials(members):
            self._accept(fd, alike, node, name)
        if listener is None:
            os.close(fd)
            return
        self._leave_waiting(fd, listener, node)
        making.made[listener.file_id] = fd
        making.nodes[listener.file_id] = node

    def _client(self, record: UnixSocket) -> UnixSocket | None:
        """The end of a connection that has called connect(2), unless it is gone."""
        server = self._server(record)
        return next((end for end in self._ends(record) if end is not server), None)

    def _by_credentials(self, members: list[UnixSocket]) -> Iterator[list[UnixSocket]]:
        """Connections in groups that the same two tasks can make, no group too large to wait."""
        alike: dict[tuple[object, object], list[UnixSocket]] = {}
        for member in members:
            key = tuple(
                None if end is None else end.credentials
                for end in (self._client(member), self._server(member))
            )
            alike.setdefault((key[0], key[1]), []).append(member)
        for group in alike.values():
            for first in range(0, len(group), _AT_ONCE):
                yield group[first : first + _AT_ONCE]

    def _accept(self, fd: int, records: list[UnixSocket], node: Node | None, name: bytes) -> None:
        """Connect to *fd* and accept that: the two ends of each record's connection."""
        client, server = self._client(records[0]), self._server(records[0])
        actors = self.making.actors
        actors.listen(fd, _AT_ONCE, client.credentials if client else None)
        who = server.credentials if server else None
        home = self.making.home
        connections = actors.connect(records[0].kind, name, node, who, len(records), home)
        with socket.socket(fileno=os.dup(fd)) as listening:
            for record, connected in zip(records, connections, strict=True):
                accepted = listening.accept()[0].detach()
                server = self._server(record)
                if server is record:
                    self._join(record, accepted, connected)
                else:
                    self._join(record, connected, accepted)
                if server is not None:
                    self.making.nodes[server.file_id] = None  # it has its name

    def _leave_waiting(self, fd: int, listener: UnixSocket, node: Node | None) -> None:
        making, actors = self.making, self.making.actors
        waiting = max(listener.backlog, len(listener.pending))
        told: UnixCredentials | None = None
        for index, pending in enumerate(listener.pending):
            client = self.by_inode.get(pending.client)
            listens = client.credentials if client is not None else listener.credentials
            if not index or listens != told:
                told = listens
                actors.listen(fd, waiting, told)
            who = pending.credentials
            home = making.home
            (connected,) = actors.connect(listener.kind, listener.name, node, who, 1, home)
            if client is not None:
                making.made[client.file_id] = connected
            elif pending.name:
                making.names.bind_to(connected, pending.name, "", None)
            making.waiting.append((connected, listener, pending))
        actors.listen(fd, listener.backlog, listener.credentials)

    def _make_gone(self, members: list[UnixSocket]) -> None:
        with visiting_path(self.making.home, "net"):
            for record in members:
                first, second = socket.socketpair(socket.AF_UNIX, record.kind)
                self._join(record, first.detach(), second.detach())

    def _make_single(self) -> None:
        """Whatever is not connected; and names that are not there yet."""
        making = self.making
        for record in self.records:
            if record.file_id not in making.made:
                making.made[record.file_id] = making.plain(record.kind)
            making.bind(record)
            if record.link is Link.GONE and record.peer_name:
                self._name_gone(record)

    def _name_gone(self, record: UnixSocket) -> None:
        """The name of a peer that is gone shows in getpeername(2)."""
        far = self.making.far[record.file_id]
        if not name_of(far) and not self._is_taken(record.peer_name):
            self.making.names.bind_to(far, record.peer_name, "", None)

    def _is_taken(self, name: bytes) -> bool:
        return name.startswith(b"\0") and any(r.name == name for r in self.records)


def name_of(fd: int) -> bytes:
    """The name of a socket of ours; empty for none."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        name = sock.getsockname()
    return name if isinstance(name, bytes) else os.fsencode(name or "")


def _place(record: UnixSocket) -> _Place:
    return record.kind, record.name, record.path


# Datagrams


def _make_datagrams(
    making: Making, records: list[UnixSocket], by_inode: dict[int, UnixSocket]
) -> None:
    pairs: dict[UnixCredentials, list[tuple[UnixSocket, UnixSocket | None]]] = {}
    done: set[int] = set()
    partners = _partners(records, by_inode)
    for record in records:
        if record.credentials is None or record.inode in done:
            continue
        partner = partners.get(record.inode)
        done |= {record.inode, partner.inode if partner else 0}
        pairs.setdefault(record.credentials, []).append((record, partner))
    for who, members in pairs.items():
        made = making.actors.pairs(socket.SOCK_DGRAM, who, len(members), making.home)
        for (record, partner), (first, second) in zip(members, made, strict=True):
            making.made[record.file_id] = first
            making.far[record.file_id] = second
            making.partners[record.file_id] = partner.file_id if partner else 0
            if partner is not None:
                making.made[partner.file_id] = second
                making.far[partner.file_id] = first
                making.partners[partner.file_id] = record.file_id
    for record in records:
        if record.file_id not in making.made:
            making.made[record.file_id] = making.plain(record.kind)


def _partners(records: list[UnixSocket], by_inode: dict[int, UnixSocket]) -> dict[int, UnixSocket]:
    """For sockets made by one socketpair(2) the other one, as far as one still names the other."""
    found: dict[int, UnixSocket] = {}
    for record in records:
        peer = by_inode.get(record.peer)
        if peer is None or record.credentials is None or peer is record:
            continue
        mutual = peer.peer == record.inode
        free = record.inode not in found and peer.inode not in found
        if free and peer.credentials == record.credentials and (mutual or not peer.name):
            found[record.inode], found[peer.inode] = peer, record
    return found


__all__ = ["Making", "make_all"]
