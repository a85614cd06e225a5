"""/dev/net/tun: descriptors that hold a TUN or TAP interface, one of its queues, or none yet."""

from __future__ import annotations

import errno
import os
import stat

from formats.records.network import Link, TunFile
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.mounts import open_inside
from runtime.engine.files.restored import RestoredFiles, open_again
from runtime.engine.files.table import FileTable
from runtime.engine.sandbox import network_tun
from runtime.engine.sandbox.network_errors import explained
from runtime.engine.sandbox.network_ids import namespace_path, scope_of_socket
from runtime.errors import RestoreError
from runtime.kernel import tun
from runtime.kernel.visit import visiting_path

SAVED = (("/dev/net/tun", "descriptors of TUN and TAP interfaces, also of several queues"),)
REFUSED = (
    ("tun-filter", "a TAP interface with a socket filter, which the kernel does not give back"),
    ("tun-outside", "a TUN interface outside of the container"),
)


class TunFiles(Kind):
    """A descriptor of the device that makes TUN and TAP interfaces."""

    name = "/dev/net/tun"
    rank = 80
    record = TunFile

    def matches(self, table: FileTable, look: Look) -> bool:
        device = (os.major(look.stat.st_rdev), os.minor(look.stat.st_rdev))
        return (
            stat.S_ISCHR(look.stat.st_mode)
            and device == tun.TUN_MAJOR_MINOR
            and not look.flags & os.O_PATH
        )

    def dump(self, table: FileTable, look: Look, file_id: int) -> TunFile | None:
        fd = look.duplicate()
        try:
            return self._dump(table, look, file_id, fd)
        finally:
            os.close(fd)

    @staticmethod
    def _dump(table: FileTable, look: Look, file_id: int, fd: int) -> TunFile | None:
        home = scope_of_socket(table.context, fd)
        if home is None:
            table.refuse(look, "tun-outside", "was opened in a network namespace of others")
            return None
        owner = table.owner(look)
        found = tun.interface(fd)
        if found is None:
            return TunFile(file_id, look.link, look.flags, home.ns_id, owner=owner)
        name, flags = found
        if tun.has_filter(fd):
            table.refuse(look, "tun-filter", f"belongs to interface {name}, which has a filter")
            return None
        namespace = tun.device_namespace(fd)
        try:
            there = table.context.scopes.get(("net", os.fstat(namespace).st_ino))
        finally:
            os.close(namespace)
        if there is None or there.external:
            table.refuse(look, "tun-outside", f"belongs to interface {name} of another namespace")
            return None
        return TunFile(
            file_id=file_id,
            path=look.link,
            flags=look.flags,
            ns_id=home.ns_id,
            name=name,
            device_ns_id=there.ns_id,
            interface_flags=flags,
            detached=bool(flags & tun.IFF_DETACH_QUEUE),
            send_buffer=tun.get_number(fd, tun.TUNGETSNDBUF),
            header_size=tun.get_number(fd, tun.TUNGETVNETHDRSZ),
            little_endian=bool(tun.get_number(fd, tun.TUNGETVNETLE)),
            owner=owner,
        )

    def restore(self, files: RestoredFiles, record: TunFile) -> int:
        fd = self._open(files, record)
        try:
            if record.name:
                with explained(f"descriptor of interface {record.name}"):
                    self._attach(files, record, fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    @staticmethod
    def _open(files: RestoredFiles, record: TunFile) -> int:
        namespace = namespace_path(files, record.ns_id)
        try:
            node = open_inside(files.root, record.path, os.O_PATH)
        except OSError as exc:
            if exc.errno != errno.ENOENT:
                raise
            return tun.open_tun(network_tun.HOST_DEVICE, namespace, record.flags)
        try:
            status = os.fstat(node)
            device = (os.major(status.st_rdev), os.minor(status.st_rdev))
            if not stat.S_ISCHR(status.st_mode) or device != tun.TUN_MAJOR_MINOR:
                raise RestoreError(
                    f"{record.path} is not the device for TUN interfaces", reason="file-outside"
                )
            with visiting_path(namespace, "net"):
                return open_again(node, record.flags)
        finally:
            os.close(node)

    @staticmethod
    def _attach(files: RestoredFiles, record: TunFile, fd: int) -> None:
        link = next(
            (link for link in files.all_of(Link) if network_tun.is_holder(record, link)), None
        )
        if link is None or link.kind != "tun":
            raise RestoreError(
                f"the image lacks the TUN interface {record.name}", reason="image-inconsistent"
            )
        first = files.tun_queues.pop((link.ns_id, link.name), None)
        if first is not None:
            os.close(first)
        napi = record.interface_flags & (tun.IFF_NAPI | tun.IFF_NAPI_FRAGS)
        tun.attach(fd, record.name, network_tun.flags_of(link) | napi)
        if record.header_size > 0:
            tun.set_number(fd, tun.TUNSETVNETHDRSZ, record.header_size)
        if record.send_buffer > 0:
            tun.set_number(fd, tun.TUNSETSNDBUF, record.send_buffer)
        tun.set_number(fd, tun.TUNSETVNETLE, record.little_endian)
        if record.detached:
            tun.set_attached(fd, attached=False)
        if not network_tun.is_persistent(link):
            tun.set_value(fd, tun.TUNSETPERSIST, 0)
