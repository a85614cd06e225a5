"""TUN and TAP interfaces, which only an open descriptor makes; see `runtime.engine.files.tun`."""

from __future__ import annotations

import os
import struct

from formats.records.network import Link, TunFile
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.sandbox.network_ids import place_of
from runtime.kernel import rtnetlink as rt
from runtime.kernel import tun
from runtime.kernel.netlink import NETLINK_ROUTE, Netlink, attributes, u32

# include/uapi/linux/if_link.h
IFLA_TUN_OWNER, IFLA_TUN_GROUP, IFLA_TUN_TYPE, IFLA_TUN_PI, IFLA_TUN_VNET_HDR = 1, 2, 3, 4, 5
IFLA_TUN_PERSIST, IFLA_TUN_MULTI_QUEUE = 6, 7
HOST_DEVICE = "/dev/net/tun"


def flags_of(record: Link) -> int:
    """The flags for TUNSETIFF."""
    data = dict(attributes(record.data))

    def is_set(attribute: int) -> bool:
        return any(data.get(attribute, b""))

    flags = data.get(IFLA_TUN_TYPE, b"\1")[0] & (tun.IFF_TUN | tun.IFF_TAP)
    flags |= 0 if is_set(IFLA_TUN_PI) else tun.IFF_NO_PI
    flags |= tun.IFF_VNET_HDR if is_set(IFLA_TUN_VNET_HDR) else 0
    flags |= tun.IFF_MULTI_QUEUE if is_set(IFLA_TUN_MULTI_QUEUE) else 0
    return flags


def is_persistent(record: Link) -> bool:
    """Whether the interface stays when nobody has it open."""
    return any(dict(attributes(record.data)).get(IFLA_TUN_PERSIST, b""))


def make(files: RestoredFiles, record: Link) -> None:
    """Make the interface, persistent for now.

    The descriptor that makes it is kept, so that the interface has a carrier already when its
    addresses and routes come; the first one of the container's takes its place.
    """
    data = dict(attributes(record.data))
    holders = [f for f in files.all_of(TunFile) if is_holder(f, record) and not f.detached]
    home = holders[0].ns_id if holders else record.ns_id
    fd = tun.open_tun(HOST_DEVICE, place_of(files, home).path)
    try:
        napi = holders[0].interface_flags & (tun.IFF_NAPI | tun.IFF_NAPI_FRAGS) if holders else 0
        tun.attach(fd, record.name, flags_of(record) | napi, record.index)
        for attribute, request in (
            (IFLA_TUN_OWNER, tun.TUNSETOWNER),
            (IFLA_TUN_GROUP, tun.TUNSETGROUP),
        ):
            if attribute in data:
                tun.set_value(fd, request, struct.unpack("=I", data[attribute])[0])
        tun.set_value(fd, tun.TUNSETPERSIST, 1)
        if home != record.ns_id:
            _move(files, record, home)
    except BaseException:
        os.close(fd)
        raise
    if holders:
        files.tun_queues[record.ns_id, record.name] = fd
    else:
        os.close(fd)


def is_holder(file: TunFile, record: Link) -> bool:
    """Whether a descriptor belongs to an interface."""
    return (file.device_ns_id, file.name) == (record.ns_id, record.name)


def _move(files: RestoredFiles, record: Link, home: int) -> None:
    """Move an interface from the namespace of its descriptor to where it was."""
    there = os.open(place_of(files, record.ns_id).path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with Netlink(NETLINK_ROUTE, place_of(files, home).path) as netlink:
            given = ((rt.IFLA_NET_NS_FD, u32(there)), (rt.IFLA_NEW_IFINDEX, u32(record.index)))
            rt.set_link(netlink, record.index, given)
    finally:
        os.close(there)
