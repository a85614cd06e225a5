"""Parse ``linux.resources`` (config-linux.md, "Control groups")."""

from __future__ import annotations

import re

from runtime.spec.model import (
    BlockIoLimits,
    CpuLimits,
    DeviceNumber,
    DeviceRule,
    MemoryLimits,
    Resources,
)
from runtime.spec.reader import Node, invalid

_UNIFIED_FILE = re.compile(r"[a-zA-Z0-9_][\w-]*\.[\w.-]+\Z")
_INT64 = (-(1 << 63), (1 << 63) - 1)


def parse_resources(node: Node | None) -> Resources:
    """Parse the limits; none at all when *node* is None."""
    if node is None:
        return Resources()
    pids = node.get("pids")
    network = node.get("network")
    parsed = Resources(
        devices=tuple(_parse_device_rule(rule) for rule in node.list_of("devices")),
        memory=_parse_memory(node.get("memory")),
        cpu=_parse_cpu(node.get("cpu")),
        pids=None if pids is None else pids.int_of("limit", *_INT64),
        block_io=_parse_block_io(node.get("blockIO")),
        hugepage_limits=tuple(_parse_hugepages(limit) for limit in node.list_of("hugepageLimits")),
        class_id=None if network is None else network.int_of("classID", 0, (1 << 32) - 1),
        net_priorities=() if network is None else _parse_priorities(network),
        unified=_parse_unified(node),
    )
    node.refuse("rdma", "the rdma controller is not supported; remove it")
    for child in (pids, network, node):
        if child is not None:
            child.done()
    return parsed


def _parse_device_rule(node: Node) -> DeviceRule:
    def number(key: str) -> int | None:
        value = node.int_of(key, -1, (1 << 32) - 1)
        return None if value == -1 else value

    access = node.str_of("access", "rwm") or "rwm"
    if set(access) - set("rwm"):
        raise invalid(f"{node.path}.access", f"{access!r} has more than r, w and m")
    kind = node.get("type")
    rule = DeviceRule(
        allow=node.need("allow").boolean(),
        kind=(kind.choice(("a", "b", "c", "")) or "a") if kind else "a",
        major=number("major"),
        minor=number("minor"),
        access=access,
    )
    node.done()
    return rule


def _parse_memory(node: Node | None) -> MemoryLimits:
    if node is None:
        return MemoryLimits()
    hierarchy = node.get("useHierarchy")
    parsed = MemoryLimits(
        limit=node.int_of("limit", *_INT64),
        reservation=node.int_of("reservation", *_INT64),
        swap=node.int_of("swap", *_INT64),
        kernel=node.int_of("kernel", *_INT64),
        kernel_tcp=node.int_of("kernelTCP", *_INT64),
        swappiness=node.int_of("swappiness", 0, 200),
        disable_oom_killer=node.bool_of("disableOOMKiller"),
        use_hierarchy=None if hierarchy is None else hierarchy.boolean(),
        check_before_update=node.bool_of("checkBeforeUpdate"),
    )
    node.done()
    both = parsed.limit is not None and parsed.swap is not None and parsed.swap > 0
    if both and (parsed.limit == -1 or (parsed.limit or 0) > (parsed.swap or 0)):
        why = f"{parsed.swap} (memory and swap together) is below the memory limit {parsed.limit}"
        raise invalid(f"{node.path}.swap", why)
    return parsed


def _parse_cpu(node: Node | None) -> CpuLimits:
    if node is None:
        return CpuLimits()
    parsed = CpuLimits(
        shares=node.int_of("shares", 0),
        quota=node.int_of("quota", *_INT64),
        burst=node.int_of("burst", 0),
        period=node.int_of("period", 0),
        realtime_runtime=node.int_of("realtimeRuntime", *_INT64),
        realtime_period=node.int_of("realtimePeriod", 0),
        cpus=node.str_of("cpus"),
        mems=node.str_of("mems"),
        idle=node.int_of("idle", 0, 1),
    )
    node.done()
    return parsed


def _parse_block_io(node: Node | None) -> BlockIoLimits:
    if node is None:
        return BlockIoLimits()
    weights: list[DeviceNumber] = []
    leaf_weights: list[DeviceNumber] = []
    for entry in node.list_of("weightDevice"):
        major = entry.need("major").integer(0, 4095)
        minor = entry.need("minor").integer(0, (1 << 20) - 1)
        for key, found in (("weight", weights), ("leafWeight", leaf_weights)):
            value = entry.int_of(key, 10, 1000)
            if value is not None:
                found.append(DeviceNumber(major, minor, value))
        entry.done()

    def rates(key: str) -> tuple[DeviceNumber, ...]:
        found = []
        for entry in node.list_of(key):
            major = entry.need("major").integer(0, 4095)
            minor = entry.need("minor").integer(0, (1 << 20) - 1)
            found.append(DeviceNumber(major, minor, entry.need("rate").integer(0)))
            entry.done()
        return tuple(found)

    parsed = BlockIoLimits(
        weight=node.int_of("weight", 0, 1000) or None,  # Docker writes 0 for "not set"
        leaf_weight=node.int_of("leafWeight", 0, 1000) or None,
        weight_device=tuple(weights),
        leaf_weight_device=tuple(leaf_weights),
        throttle_read_bps=rates("throttleReadBpsDevice"),
        throttle_write_bps=rates("throttleWriteBpsDevice"),
        throttle_read_iops=rates("throttleReadIOPSDevice"),
        throttle_write_iops=rates("throttleWriteIOPSDevice"),
    )
    node.done()
    return parsed


def _parse_hugepages(node: Node) -> tuple[str, int]:
    size = node.need("pageSize").text()
    if not re.fullmatch(r"[1-9][0-9]*[KMG]B", size):
        raise invalid(f"{node.path}.pageSize", f"{size!r} is not a size such as 2MB")
    limit = node.need("limit").integer(0)
    node.done()
    return size, limit


def _parse_priorities(network: Node) -> tuple[tuple[str, int], ...]:
    found = []
    for entry in network.list_of("priorities"):
        name = entry.need("name").text()
        found.append((name, entry.need("priority").integer(0, (1 << 32) - 1)))
        entry.done()
    return tuple(found)


def _parse_unified(node: Node) -> dict[str, str]:
    files = node.string_map("unified")
    for name in files:
        if not _UNIFIED_FILE.match(name):
            raise invalid(f"{node.path}.unified[{name!r}]", "is not a cgroup file name")
    return files
