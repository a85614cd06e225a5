"""nf_tables: tables, chains, sets with their elements, objects and rules, as netlink lists them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from formats.records.network import NetFilter
from runtime.engine.context import DumpContext
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.engine.sandbox.kind import Place, SandboxKind, Scope
from runtime.errors import RestoreError
from runtime.kernel import nfnetlink as nf
from runtime.kernel.netlink import NLM_F_APPEND, NLM_F_CREATE, pack_attributes

SAVED = (
    (
        "packet filters",
        "nf_tables: tables, chains, rules with their counters, sets, maps, named objects",
    ),
)
REFUSED = (("nft-owner", "a table of nf_tables that belongs to a netlink socket"),)

OURS = "wherry-"  # tables that hold packets off while somebody looks
# include/uapi/linux/netfilter/nf_tables.h
NFTA_TABLE_NAME, NFTA_TABLE_OWNER = 1, 7
NFTA_SET_TABLE, NFTA_SET_NAME, NFTA_SET_ID = 1, 2, 10
NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_LIST_SET = 1, 2


@dataclass(frozen=True, slots=True)
class _Part:
    """A kind of object: how it is listed and made, and which attributes say what it is.

    The first attribute of each is the name of its table.
    """

    name: str
    get: int
    new: int
    kept: frozenset[int]
    flags: int = NLM_F_CREATE


# In the order in which one needs the other
_PARTS = (
    _Part("table", nf.NFT_MSG_GETTABLE, nf.NFT_MSG_NEWTABLE, frozenset({1, 2, 6})),
    _Part("chain", nf.NFT_MSG_GETCHAIN, nf.NFT_MSG_NEWCHAIN, frozenset({1, 3, 4, 5, 7, 8, 10, 12})),
    _Part("object", nf.NFT_MSG_GETOBJ, nf.NFT_MSG_NEWOBJ, frozenset({1, 2, 3, 4, 8})),
    _Part("flowtable", nf.NFT_MSG_GETFLOWTABLE, nf.NFT_MSG_NEWFLOWTABLE, frozenset({1, 2, 3, 7})),
    _Part(
        "set",
        nf.NFT_MSG_GETSET,
        nf.NFT_MSG_NEWSET,
        frozenset({*range(1, 10), 11, 12, 13, 15, 17, 18}),
    ),
    _Part("element", nf.NFT_MSG_GETSETELEM, nf.NFT_MSG_NEWSETELEM, frozenset({1, 2, 3})),
    _Part(
        "rule",
        nf.NFT_MSG_GETRULE,
        nf.NFT_MSG_NEWRULE,
        frozenset({1, 2, 4, 5, 7}),
        flags=NLM_F_CREATE | NLM_F_APPEND,
    ),
)


class NetworkFilter(SandboxKind):
    """The rule set of nf_tables."""

    name = "packet filters"
    namespace = "net"
    records = (NetFilter,)
    rank = 50

    def restore(self, files: RestoredFiles, place: Place, records: Sequence[NetFilter]) -> None:
        """Nothing yet: after the sockets, whose connections it might stand in the way of."""

    def dump(self, context: DumpContext, files: FileTable, scope: Scope) -> Iterable[NetFilter]:
        filters = nf.Netfilter(scope.path, nf.NFNL_SUBSYS_NFTABLES)
        tables = filters.list(nf.NFT_MSG_GETTABLE)
        for message in tables:
            name = _text(nf.attributes_of(message.body).get(NFTA_TABLE_NAME, b""))
            owned = NFTA_TABLE_OWNER in nf.attributes_of(message.body)
            if owned and not name.startswith(OURS):
                context.refuse("nft-owner", f"nf_tables table {name}", "belongs to a socket")
        if tables:
            for part in _PARTS:
                for body in _bodies(filters, part):
                    if not _is_ours(body):
                        yield NetFilter(scope.ns_id, part.name, nf.keep(body, part.kept))

    def finish(self, files: RestoredFiles, place: Place, records: Sequence[NetFilter]) -> None:
        filters = nf.Netfilter(place.path, nf.NFNL_SUBSYS_NFTABLES)
        parts = {part.name: part for part in _PARTS}
        messages = [
            (nf.NFT_MSG_DELTABLE, 0, nf.keep(message.body, frozenset({NFTA_TABLE_NAME})))
            for message in filters.list(nf.NFT_MSG_GETTABLE)
            if not _is_ours(message.body)
        ]
        try:
            for number, record in enumerate(records, 1):
                part = parts[record.kind]
                body = nf.keep(record.body, part.kept)
                if part.name == "set":  # its number within the transaction
                    body += pack_attributes([(NFTA_SET_ID, struct.pack(">I", number))])
                messages.append((part.new, part.flags, body))
        except (KeyError, ValueError, struct.error) as exc:
            raise RestoreError(f"packet filters: {exc}", reason="image-inconsistent") from exc
        try:
            filters.apply(messages)
        except OSError as exc:
            raise RestoreError(f"packet filters: {exc}") from exc


def _bodies(filters: nf.Netfilter, part: _Part) -> Iterator[bytes]:
    if part.name != "element":
        yield from (message.body for message in filters.list(part.get))
        return
    for message in filters.list(nf.NFT_MSG_GETSET):
        found = nf.attributes_of(message.body)
        given = (
            (NFTA_SET_ELEM_LIST_TABLE, found[NFTA_SET_TABLE]),
            (NFTA_SET_ELEM_LIST_SET, found[NFTA_SET_NAME]),
        )
        family = nf.family_of(message.body)
        yield from (element.body for element in filters.list(part.get, family, given))


def _is_ours(body: bytes) -> bool:
    return _text(nf.attributes_of(body).get(NFTA_TABLE_NAME, b"")).startswith(OURS)


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")
