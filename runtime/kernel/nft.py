"""nf_tables: hold the packets of single TCP connections off, without any other program.

One table of our own drops what comes in for the connections of a set, except what we deliver
ourselves (runtime.kernel.packets). What goes out is let through, for the kernel would otherwise not
count it as sent. An *owned* table goes away by itself when the process that made it ends, whatever
happens to it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

from runtime.kernel import nfnetlink as nf
from runtime.kernel.inet_diag import Endpoint
from runtime.kernel.packets import DELIVERY_MARK
from runtime.kernel.visit import visiting_path

Connection = tuple[Endpoint, Endpoint]
"""The local and the remote end of a connection."""

NETLINK_NETFILTER = 12  # include/uapi/linux/netlink.h
NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x1, 0x4, 0x200, 0x400, 0x800
NLMSG_ERROR = 2

# include/uapi/linux/netfilter/nfnetlink.h and nf_tables.h
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, NFNL_SUBSYS_NFTABLES = 16, 17, 10
NFT_MSG_NEWTABLE, NFT_MSG_GETTABLE, NFT_MSG_DELTABLE, NFT_MSG_NEWCHAIN = 0, 1, 2, 3
NFT_MSG_NEWRULE, NFT_MSG_NEWSET, NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM = 6, 9, 12, 14
NFT_TABLE_F_OWNER = 2
NFT_META_MARK, NFT_META_IIF, NFT_META_OIF, NFT_META_NFPROTO, NFT_META_L4PROTO = 3, 4, 5, 15, 16
NFT_CMP_EQ, NFT_CMP_NEQ = 0, 1
NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER = 1, 2
NFT_REG_VERDICT, NFT_REG_1, NFT_REG32_00 = 0, 1, 8
NFPROTO_INET, NF_INET_LOCAL_IN, NF_INET_LOCAL_OUT, NF_DROP = 1, 1, 3, 0
PREFIX = "wherry-"  # of the names of our tables
_LOOPBACK = 1  # LOOPBACK_IFINDEX, include/net/flow.h
_PRIORITY = -1000  # before every other table's

_ELEMENTS_PER_MESSAGE = 800  # an attribute is at most 64 KiB long
_SETS = {4: "four", 16: "six"}  # by the length of an address
_PROTOCOLS = {4: socket.AF_INET, 16: socket.AF_INET6}
_ADDRESSES = {4: (12, 16), 16: (8, 24)}  # offsets of source and destination in the IP header


class PacketLock:
    """A table that drops the packets of connections; a context manager that removes it.

    Args:
        path: The network namespace, as a path such as ``/proc/PID/ns/net``.
        name: Of the table; unique in the namespace.
        connections: Whose packets are dropped.
        owned: Whether the table vanishes with this object's process (Linux 5.12).
        everything: Drop whatever comes in from outside of the namespace, and whatever leaves it.

    Raises:
        OSError: This kernel has no nf_tables, or EEXIST.

    Source: include/uapi/linux/netfilter/nf_tables.h.
    """

    def __init__(
        self,
        path: str,
        name: str,
        connections: Sequence[Connection],
        *,
        owned: bool,
        everything: bool = False,
    ) -> None:
        self.name = name
        self._socket = _netfilter_socket(path)
        try:
            table = _table(name, connections, owned=owned, everything=everything)
            _transact(self._socket, list(table))
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Let the packets through."""
        if self._socket.fileno() >= 0:
            _delete(self._socket, self.name)
            self._socket.close()

    def keep(self) -> None:
        """Leave the table behind; not for an owned one, which would go all the same."""
        self._socket.close()


def remove_lock(path: str, name: str) -> bool:
    """Remove a table that was left behind; whether there was one."""
    with _netfilter_socket(path) as nft:
        return _delete(nft, name)


def let_through(path: str, connections: Sequence[Connection]) -> None:
    """Take connections out of every table of ours that was left behind in a namespace.

    Args:
        path: The network namespace, as a path such as ``/proc/PID/ns/net``.
        connections: They are here now.
    """
    found = nf.Netfilter(path, NFNL_SUBSYS_NFTABLES).list(NFT_MSG_GETTABLE)
    names = [nf.attributes_of(message.body) for message in found]
    with _netfilter_socket(path) as nft:
        for attributes in names:
            name = attributes.get(1, b"").rstrip(b"\0").decode(errors="replace")
            if name.startswith(PREFIX) and not _is_owned(attributes):
                _forget(nft, name, connections)


def _is_owned(attributes: Mapping[int, bytes]) -> bool:
    return bool(int.from_bytes(attributes.get(2, b""), "big") & NFT_TABLE_F_OWNER)


def _forget(nft: socket.socket, name: str, connections: Sequence[Connection]) -> None:
    for connection in connections:
        set_name = _SETS[len(connection[0][0])]
        element = _nested(1, _nested(1, _attribute(1, _key(connection))))
        body = _text(1, name) + _text(2, set_name) + _nested(3, element)
        # One by one: a single one that is not there would keep all of them.
        with contextlib.suppress(FileNotFoundError):
            _transact(nft, [_message(NFT_MSG_DELSETELEM, 0, body)])


def _delete(nft: socket.socket, name: str) -> bool:
    try:
        _transact(nft, [_message(NFT_MSG_DELTABLE, 0, _text(1, name))])
    except FileNotFoundError:
        return False
    return True


def _netfilter_socket(path: str) -> socket.socket:
    with visiting_path(path, "net"):
        nft = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
        )
    nft.bind((0, 0))
    return nft


def _table(
    name: str, connections: Sequence[Connection], *, owned: bool, everything: bool
) -> Iterator[bytes]:
    create = NLM_F_CREATE | NLM_F_EXCL
    flags = _number(2, NFT_TABLE_F_OWNER if owned else 0)
    yield _message(NFT_MSG_NEWTABLE, create, _text(1, name) + flags)
    for number, (size, set_name) in enumerate(_SETS.items(), 1):
        key = _text(1, name) + _text(2, set_name) + _number(3, 0) + _number(4, 0)
        key += _number(5, 2 * (size + 4)) + _number(10, number)
        yield _message(NFT_MSG_NEWSET, create, key)
        keys = [_key(c) for c in connections if len(c[0][0]) == size]
        for first in range(0, len(keys), _ELEMENTS_PER_MESSAGE):
            part = keys[first : first + _ELEMENTS_PER_MESSAGE]
            elements = b"".join(_nested(1, _nested(1, _attribute(1, key))) for key in part)
            yield _message(
                NFT_MSG_NEWSETELEM,
                NLM_F_CREATE,
                _text(1, name) + _text(2, set_name) + _nested(3, elements),
            )
    yield _chain(name, "in", NF_INET_LOCAL_IN)
    for size in _SETS:
        yield _in_chain(name, "in", _rule(size))
    if everything:
        yield _in_chain(name, "in", _unless_loopback(NFT_META_IIF))
        yield _chain(name, "out", NF_INET_LOCAL_OUT)
        yield _in_chain(name, "out", _unless_loopback(NFT_META_OIF))


def _chain(table: str, name: str, hook: int) -> bytes:
    where = _nested(4, _number(1, hook) + _number(2, _PRIORITY & 0xFFFFFFFF))
    chain = _text(1, table) + _text(3, name) + where + _text(7, "filter")
    return _message(NFT_MSG_NEWCHAIN, NLM_F_CREATE | NLM_F_EXCL, chain)


def _in_chain(table: str, name: str, expressions: Iterable[bytes]) -> bytes:
    rule = _text(1, table) + _text(2, name) + _nested(4, b"".join(expressions))
    return _message(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, rule)


def _key(connection: Connection) -> bytes:
    """Remote and local end, each field filled up to 4 bytes."""
    local, remote = connection
    return b"".join(host + struct.pack(">H2x", port) for host, port in (remote, local))


def _rule(size: int) -> Iterator[bytes]:
    protocol = bytes([_PROTOCOLS[size]]), bytes([socket.IPPROTO_TCP])
    mark = DELIVERY_MARK.to_bytes(4, sys.byteorder)
    yield from _compare(NFT_META_MARK, NFT_CMP_NEQ, mark)
    yield from _compare(NFT_META_NFPROTO, NFT_CMP_EQ, protocol[0])
    yield from _compare(NFT_META_L4PROTO, NFT_CMP_EQ, protocol[1])
    register = NFT_REG32_00
    for address, port in zip(_ADDRESSES[size], (0, 2), strict=True):
        yield _load(register, NFT_PAYLOAD_NETWORK_HEADER, address, size)
        yield _load(register + size // 4, NFT_PAYLOAD_TRANSPORT_HEADER, port, 2)
        register += size // 4 + 1
    yield _expression("lookup", _text(1, _SETS[size]) + _number(2, NFT_REG32_00))
    yield _drop()


def _unless_loopback(interface: int) -> Iterator[bytes]:
    yield from _compare(interface, NFT_CMP_NEQ, _LOOPBACK.to_bytes(4, sys.byteorder))
    yield _drop()


def _drop() -> bytes:
    verdict = _nested(2, _nested(2, _number(1, NF_DROP)))
    return _expression("immediate", _number(1, NFT_REG_VERDICT) + verdict)


def _compare(key: int, operation: int, value: bytes) -> Iterator[bytes]:
    yield _expression("meta", _number(1, NFT_REG_1) + _number(2, key))
    data = _nested(3, _attribute(1, value))
    yield _expression("cmp", _number(1, NFT_REG_1) + _number(2, operation) + data)


def _load(register: int, base: int, offset: int, size: int) -> bytes:
    fields = (register, base, offset, size)
    return _expression("payload", b"".join(_number(n, v) for n, v in enumerate(fields, 1)))


def _expression(name: str, data: bytes) -> bytes:
    return _nested(1, _text(1, name) + _nested(2, data))


# Netlink


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _nested(kind: int, value: bytes) -> bytes:
    return _attribute(kind | 0x8000, value)


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack(">I", value))


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _message(kind: int, flags: int, attributes: bytes) -> bytes:
    """A message without its header's length and sequence number, which `_transact` puts there."""
    head = struct.pack("=HH", NFNL_SUBSYS_NFTABLES << 8 | kind, NLM_F_REQUEST | flags)
    return head + struct.pack(">BBH", NFPROTO_INET, 0, 0) + attributes


def _transact(nft: socket.socket, messages: Sequence[bytes]) -> None:
    """Have the kernel take all of the messages, or none of them."""
    ends = [
        struct.pack("=HH", kind, NLM_F_REQUEST) + struct.pack(">BBH", 0, 0, NFNL_SUBSYS_NFTABLES)
        for kind in (NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END)
    ]
    last = len(messages)
    batch = b"".join(_numbered([ends[0], *messages, ends[1]], acknowledge=last))
    nft.setsockopt(socket.SOL_SOCKET, 32, 2 * len(batch) + (1 << 16))  # SO_SNDBUFFORCE
    nft.send(batch)
    while True:
        answer = nft.recv(1 << 16)
        while answer:
            length, kind, _, sequence, _ = struct.unpack_from("=IHHII", answer)
            if kind == NLMSG_ERROR:
                (error,) = struct.unpack_from("=i", answer, 16)
                if error:
                    raise OSError(-error, f"nf_tables: {os.strerror(-error)}")
                if sequence == last:
                    return
            answer = answer[length + -length % 4 :]


def _numbered(messages: Iterable[bytes], *, acknowledge: int) -> Iterator[bytes]:
    for sequence, message in enumerate(messages):
        kind, flags = struct.unpack_from("=HH", message)
        if sequence == acknowledge:
            flags |= NLM_F_ACK
        body = message[4:]
        body += bytes(-len(body) % 4)
        yield struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body


def is_missing(exc: OSError) -> bool:
    """Whether a failure says that this kernel has no (fitting) nf_tables."""
    return exc.errno in (errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT)
