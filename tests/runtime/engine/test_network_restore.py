"""Network records of an image that contradict themselves end the restore with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import pytest

from formats.records.network import Link, NetConnection, NetFilter, NetObject, NetSysctl
from runtime.engine.api import RestoreOptions
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.new_task import NewTask
from runtime.engine.sandbox.kind import Place, SandboxKind, load_sandbox_kinds
from runtime.engine.sandbox.network_tables import TABLES
from runtime.errors import RestoreError
from runtime.kernel.namespaces import fresh_network_namespace
from runtime.kernel.netlink import NETLINK_ROUTE, Netlink

T = TypeVar("T")


@dataclass
class _Files:
    """What the kinds of network state ask of a restore."""

    records: list[Any]
    places: dict[int, Place]
    options: RestoreOptions = field(default_factory=RestoreOptions)
    tun_queues: dict[tuple[int, str], int] = field(default_factory=dict)
    last_steps: list[Any] = field(default_factory=list)
    made: dict[object, Any] = field(default_factory=dict)

    def all_of(self, kind: type[T]) -> list[T]:
        return [record for record in self.records if isinstance(record, kind)]

    def once(self, key: object, make: Any) -> Any:
        return self.made.setdefault(key, make()) if key not in self.made else self.made[key]


@pytest.fixture
def place() -> Iterator[Place]:
    with fresh_network_namespace() as fd:
        yield Place(7, "net", False, cast(NewTask, None), held=f"/proc/self/fd/{fd}")


def _restore(place: Place, *records: Any) -> None:
    files = _Files(list(records), {place.ns_id: place})
    for kind in load_sandbox_kinds():
        held = [record for record in records if isinstance(record, kind.records)]
        if held and kind.namespace == "net":
            _put_back(kind, cast(RestoredFiles, files), place, held)


def _put_back(kind: SandboxKind, files: RestoredFiles, place: Place, held: list[Any]) -> None:
    kind.restore(files, place, held)
    kind.finish(files, place, held)


def _link(**changes: Any) -> Link:
    given: dict[str, Any] = {"ns_id": 7, "index": 9, "name": "b0", "kind": "bridge", "flags": 0}
    return Link(**(given | changes))


@pytest.mark.parametrize(
    "record",
    [
        _link(kind="no-such-kind"),
        _link(kind="macvlan", lower=77),
        _link(kind="veth", lower=77),
        _link(data=b"\xff\xff\1\0"),
        _link(index=1 << 40),
        _link(tx_queues=0),
        NetObject(7, "no-such-table", b""),
        NetObject(7, "route", b"short"),
        NetObject(7, "address", bytes(8) + b"\xff\xff\1\0"),
        NetFilter(7, "no-such-part", bytes(4)),
        NetFilter(7, "rule", b"\0"),
        NetConnection(7, b""),
        NetSysctl(7, (("../kernel/core_pattern", "|/bin/sh"),)),
        NetSysctl(7, (("ipv4/../../kernel/core_pattern", "|/bin/sh"),)),
        NetSysctl(7, (("/etc/passwd", "x"),)),
    ],
    ids=repr,
)
def test_a_malformed_record_is_refused(place: Place, record: Any) -> None:
    with pytest.raises(RestoreError) as caught:
        _restore(place, record)
    assert caught.value.reason == "image-inconsistent"


def test_a_setting_that_the_kernel_refuses_is_named(place: Place) -> None:
    with pytest.raises(RestoreError, match="ipv4/ip_forward") as caught:
        _restore(place, NetSysctl(7, (("ipv4/ip_forward", "much"),)))
    assert caught.value.reason == "net-sysctl"


def test_what_this_host_lacks_is_passed_over(place: Place) -> None:
    _restore(place, NetSysctl(7, (("ipv4/no_such_setting", "1"),)))


def test_the_normal_form_of_an_entry_stays_as_it_is(place: Place) -> None:
    with Netlink(NETLINK_ROUTE, place.path) as netlink:
        for table in TABLES:
            for request in () if table.per_link else table.requests:
                for entry in table.entries(netlink.dump(table.get, request)):
                    assert table.normal(entry) == entry, table.name
