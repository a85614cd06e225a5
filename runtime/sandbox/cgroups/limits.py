"""Turn ``linux.resources`` into writes to cgroup files, for cgroup v1 and v2.

Which version a controller gets follows from where it is mounted, controller by controller, so the
hybrid layout needs no case of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from runtime.spec.model import BlockIoLimits, CpuLimits, DeviceNumber, MemoryLimits, Resources
from runtime.spec.reader import unsupported

_R = "linux.resources"


class Write(NamedTuple):
    """One value for one file.

    Attributes:
        controller: Whose file it is.
        file: Name in the cgroup's directory.
        value: What is written.
        path: Where the configuration asks for it.
    """

    controller: str
    file: str
    value: str
    path: str


def plan_writes(resources: Resources, v1: frozenset[str], v2: frozenset[str]) -> list[Write]:
    """All writes that *resources* needs.

    Args:
        resources: The limits.
        v1: Controllers mounted as cgroup v1.
        v2: Controllers of the cgroup v2 tree.

    Raises:
        SpecError: A limit has no controller here, or the controller's version cannot express it.
    """
    writes: list[Write] = []
    tables = (
        ("memory", _memory_v1(resources.memory), _memory_v2(resources.memory)),
        ("cpu", _cpu_v1(resources.cpu), _cpu_v2(resources.cpu)),
        ("cpuset", _cpuset(resources.cpu), _cpuset(resources.cpu)),
        ("pids", _pids(resources), _pids(resources)),
        ("blkio", _blkio_v1(resources.block_io), iter(())),
        ("io", iter(()), _io_v2(resources.block_io)),
        ("hugetlb", _hugetlb(resources, "limit_in_bytes"), _hugetlb(resources, "max")),
        ("net_cls", _net_cls(resources), iter(())),
        ("net_prio", _net_prio(resources), iter(())),
    )
    for controller, for_v1, for_v2 in tables:
        if controller in v1:
            writes += for_v1
        elif controller in v2:
            writes += for_v2
        elif (controller == "io" and "blkio" in v1) or (controller == "blkio" and "io" in v2):
            continue  # the other version's table has it
        else:
            for write in (*for_v1, *for_v2):
                raise unsupported(write.path, f"no {controller} controller is mounted on this host")
    for name, value in resources.unified.items():
        controller = name.split(".", 1)[0]
        path = f"{_R}.unified[{name!r}]"
        if controller not in v2 and controller != "cgroup":
            raise unsupported(
                path, f"the cgroup v2 tree of this host has no {controller} controller"
            )
        writes.append(Write(controller, name, value, path))
    return writes


def _memory_v1(memory: MemoryLimits) -> Iterator[Write]:
    # 0 means "not given", as container managers write it
    def write(file: str, value: object, key: str) -> Write:
        return Write("memory", f"memory.{file}", str(value), f"{_R}.memory.{key}")

    if memory.limit:
        yield write("limit_in_bytes", memory.limit, "limit")
    if memory.swap:
        yield write("memsw.limit_in_bytes", memory.swap, "swap")
    if memory.reservation:
        yield write("soft_limit_in_bytes", memory.reservation, "reservation")
    if memory.kernel:
        # The file is still there and takes any value
        raise unsupported(f"{_R}.memory.kernel", "has had no effect since Linux 5.16; remove it")
    if memory.kernel_tcp:
        yield write("kmem.tcp.limit_in_bytes", memory.kernel_tcp, "kernelTCP")
    if memory.swappiness is not None:
        yield write("swappiness", memory.swappiness, "swappiness")
    if memory.disable_oom_killer:
        yield write("oom_control", 1, "disableOOMKiller")
    if memory.use_hierarchy is not None:
        yield write("use_hierarchy", int(memory.use_hierarchy), "useHierarchy")


def _memory_v2(memory: MemoryLimits) -> Iterator[Write]:
    path = f"{_R}.memory"
    if memory.limit:
        yield Write("memory", "memory.max", _or_max(memory.limit), f"{path}.limit")
    if memory.swap:
        # OCI counts memory and swap together, cgroup v2 swap alone
        alone = memory.swap if memory.swap < 0 else memory.swap - max(memory.limit or 0, 0)
        yield Write("memory", "memory.swap.max", _or_max(alone), f"{path}.swap")
    if memory.reservation:
        yield Write("memory", "memory.low", _or_max(memory.reservation), f"{path}.reservation")
    refused = {
        "kernel": memory.kernel,
        "kernelTCP": memory.kernel_tcp,
        "swappiness": memory.swappiness,
        "disableOOMKiller": memory.disable_oom_killer or None,
        "useHierarchy": True if memory.use_hierarchy is False else None,
    }
    for key, value in refused.items():
        if value is not None and value != 0:
            raise unsupported(f"{path}.{key}", "cgroup v2 has no such limit")


def _cpu_v1(cpu: CpuLimits) -> Iterator[Write]:
    # The period first: a quota is checked against it
    values = (
        ("shares", cpu.shares, "shares"),
        ("cfs_period_us", cpu.period, "period"),
        ("cfs_quota_us", cpu.quota, "quota"),
        ("cfs_burst_us", cpu.burst, "burst"),
        ("rt_period_us", cpu.realtime_period, "realtimePeriod"),
        ("rt_runtime_us", cpu.realtime_runtime, "realtimeRuntime"),
    )
    for file, value, key in values:
        if value:
            yield Write("cpu", f"cpu.{file}", str(value), f"{_R}.cpu.{key}")
    if cpu.idle is not None:
        yield Write("cpu", "cpu.idle", str(cpu.idle), f"{_R}.cpu.idle")


def _cpu_v2(cpu: CpuLimits) -> Iterator[Write]:
    path = f"{_R}.cpu"
    if cpu.shares:
        # [2, 262144] to [1, 10000], as every runtime does it
        weight = 1 + (max(cpu.shares, 2) - 2) * 9999 // 262142
        yield Write("cpu", "cpu.weight", str(min(weight, 10000)), f"{path}.shares")
    if cpu.quota or cpu.period:
        quota = "max" if not cpu.quota or cpu.quota < 0 else str(cpu.quota)
        yield Write("cpu", "cpu.max", f"{quota} {cpu.period or 100_000}", f"{path}.quota")
    if cpu.burst:
        yield Write("cpu", "cpu.max.burst", str(cpu.burst), f"{path}.burst")
    if cpu.idle is not None:
        yield Write("cpu", "cpu.idle", str(cpu.idle), f"{path}.idle")
    if cpu.realtime_period or cpu.realtime_runtime:
        key = "realtimePeriod" if cpu.realtime_period else "realtimeRuntime"
        raise unsupported(f"{path}.{key}", "cgroup v2 has no such limit")


def _cpuset(cpu: CpuLimits) -> Iterator[Write]:
    for key, value in (("cpus", cpu.cpus), ("mems", cpu.mems)):
        if value:
            yield Write("cpuset", f"cpuset.{key}", value, f"{_R}.cpu.{key}")


def _pids(resources: Resources) -> Iterator[Write]:
    if resources.pids is not None and resources.pids != 0:
        value = "max" if resources.pids < 0 else str(resources.pids)
        yield Write("pids", "pids.max", value, f"{_R}.pids.limit")


def _device_lines(
    controller: str, file: str, numbers: tuple[DeviceNumber, ...], key: str, prefix: str = ""
) -> Iterator[Write]:
    for index, device in enumerate(numbers):
        value = f"{device.major}:{device.minor} {prefix}{device.value}"
        yield Write(controller, file, value, f"{_R}.blockIO.{key}[{index}]")


def _blkio_v1(block_io: BlockIoLimits) -> Iterator[Write]:
    path = f"{_R}.blockIO"
    if block_io.weight:
        yield Write("blkio", "blkio.bfq.weight", str(block_io.weight), f"{path}.weight")
    if block_io.leaf_weight or block_io.leaf_weight_device:
        raise unsupported(f"{path}.leafWeight", "went away with the CFQ scheduler in Linux 5.0")
    yield from _device_lines(
        "blkio", "blkio.bfq.weight_device", block_io.weight_device, "weightDevice"
    )
    rates = (
        ("read_bps", block_io.throttle_read_bps, "throttleReadBpsDevice"),
        ("write_bps", block_io.throttle_write_bps, "throttleWriteBpsDevice"),
        ("read_iops", block_io.throttle_read_iops, "throttleReadIOPSDevice"),
        ("write_iops", block_io.throttle_write_iops, "throttleWriteIOPSDevice"),
    )
    for file, numbers, key in rates:
        yield from _device_lines("blkio", f"blkio.throttle.{file}_device", numbers, key)


def _io_v2(block_io: BlockIoLimits) -> Iterator[Write]:
    path = f"{_R}.blockIO"
    if block_io.leaf_weight or block_io.leaf_weight_device:
        raise unsupported(f"{path}.leafWeight", "cgroup v2 has no such limit")
    if block_io.weight:
        yield Write("io", "io.weight", str(_io_weight(block_io.weight)), f"{path}.weight")
    weights = tuple(
        DeviceNumber(device.major, device.minor, _io_weight(device.value))
        for device in block_io.weight_device
    )
    yield from _device_lines("io", "io.weight", weights, "weightDevice")
    rates = (
        ("rbps=", block_io.throttle_read_bps, "throttleReadBpsDevice"),
        ("wbps=", block_io.throttle_write_bps, "throttleWriteBpsDevice"),
        ("riops=", block_io.throttle_read_iops, "throttleReadIOPSDevice"),
        ("wiops=", block_io.throttle_write_iops, "throttleWriteIOPSDevice"),
    )
    for prefix, numbers, key in rates:
        yield from _device_lines("io", "io.max", numbers, key, prefix)


def _io_weight(weight: int) -> int:
    """OCI's [10, 1000] to cgroup v2's [1, 10000]."""
    return 1 + (max(weight, 10) - 10) * 9999 // 990


def _hugetlb(resources: Resources, file: str) -> Iterator[Write]:
    for index, (size, limit) in enumerate(resources.hugepage_limits):
        path = f"{_R}.hugepageLimits[{index}]"
        yield Write("hugetlb", f"hugetlb.{size}.{file}", str(limit), path)


def _net_cls(resources: Resources) -> Iterator[Write]:
    if resources.class_id:
        value = str(resources.class_id)
        yield Write("net_cls", "net_cls.classid", value, f"{_R}.network.classID")


def _net_prio(resources: Resources) -> Iterator[Write]:
    for index, (name, priority) in enumerate(resources.net_priorities):
        path = f"{_R}.network.priorities[{index}]"
        yield Write("net_prio", "net_prio.ifpriomap", f"{name} {priority}", path)


def _or_max(value: int) -> str:
    return "max" if value < 0 else str(value)
