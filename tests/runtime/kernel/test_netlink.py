"""Netlink messages, and what the kernel answers in a network namespace of our own."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from runtime.kernel import rtnetlink as rt
from runtime.kernel.namespaces import fresh_network_namespace, kind_of
from runtime.kernel.netlink import (
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Netlink,
    attributes,
    pack_attributes,
    text,
)


@pytest.fixture
def netlink() -> Iterator[Netlink]:
    with fresh_network_namespace() as fd:
        assert kind_of(fd) == "net"
        with Netlink(NETLINK_ROUTE, f"/proc/self/fd/{fd}") as opened:
            yield opened


def test_attributes_come_back() -> None:
    given = ((3, b"lo\0"), (4, b"\1\2\3\4"), (17, b""))
    assert attributes(pack_attributes(given)) == given


def test_flag_bits_are_taken_off_unless_wanted() -> None:
    packed = pack_attributes([(18 | 0x8000, b"abcd")])
    assert attributes(packed) == ((18, b"abcd"),)
    assert attributes(packed, mask=0xFFFF) == ((18 | 0x8000, b"abcd"),)


@pytest.mark.parametrize("data", [b"\xff\xff\1\0", b"\3\0\1\0", b"\0\0\0\0"])
def test_a_length_that_does_not_fit_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="netlink attribute"):
        attributes(data)


def test_a_fresh_namespace_has_a_loopback(netlink: Netlink) -> None:
    first = rt.links(netlink)[0]
    assert (first.index, first.name, first.kind) == (1, "lo", "")
    assert first.flags & rt.IFF_LOOPBACK
    assert not first.has_program


def test_a_refusal_carries_the_kernels_words(netlink: Netlink) -> None:
    info = pack_attributes([(rt.IFLA_INFO_KIND, text("no-such-kind"))])
    given = pack_attributes([(rt.IFLA_IFNAME, text("x")), (rt.IFLA_LINKINFO, info)])
    with pytest.raises(OSError, match="Unknown device type") as caught:
        body = rt.IFINFOMSG.pack(0, 0, 0, 0, 0) + given
        netlink.ask(rt.RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL)
    assert caught.value.errno == errno.EOPNOTSUPP
