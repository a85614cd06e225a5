"""BPF maps: hashes, arrays and tries, with their entries. Programs are not saved."""

from __future__ import annotations

import os

from formats.records.bpf import BpfMap, BpfMapFile
from runtime.engine.files.kind import Kind, Look
from runtime.engine.files.restored import RestoredFiles
from runtime.engine.files.table import FileTable
from runtime.errors import RestoreError
from runtime.kernel import bpf_map
from runtime.kernel.bpf_map import MapInfo

SAVED = (("BPF maps", "arrays, hashes and longest-prefix tries with their entries; frozen ones"),)
REFUSED = (("bpf-map", "BPF maps of other kinds"),)

ACCESS_MODE = 3
_KINDS = (
    bpf_map.BPF_MAP_TYPE_HASH,
    bpf_map.BPF_MAP_TYPE_ARRAY,
    bpf_map.BPF_MAP_TYPE_LRU_HASH,
    bpf_map.BPF_MAP_TYPE_LPM_TRIE,
)
_ACCESS = {os.O_RDONLY: bpf_map.BPF_F_RDONLY, os.O_WRONLY: bpf_map.BPF_F_WRONLY, os.O_RDWR: 0}
_MOST_BYTES = 64 << 20  # what one map may add to an image's records


class BpfMaps(Kind):
    """A descriptor of a map."""

    name = "BPF maps"
    record = BpfMapFile

    def matches(self, table: FileTable, look: Look) -> bool:
        return look.link == "anon_inode:bpf-map"

    def dump(self, table: FileTable, look: Look, file_id: int) -> BpfMapFile | None:
        kind, number = int(look.info.one("map_type")), int(look.info.one("map_id"))
        size = int(look.info.one("key_size")) + int(look.info.one("value_size"))
        if kind not in _KINDS:
            table.refuse(look, "bpf-map", f"is a BPF map of type {kind}, which wherry cannot save")
            return None
        if size * int(look.info.one("max_entries")) > _MOST_BYTES:
            table.refuse(look, "bpf-map", "is a BPF map larger than wherry saves")
            return None
        map_id = table.once(("bpf-map", number), lambda: self._dump_map(table, look, number))
        return BpfMapFile(file_id=file_id, map_id=map_id, flags=look.flags, owner=table.owner(look))

    @staticmethod
    def _dump_map(table: FileTable, look: Look, number: int) -> int:
        # A descriptor of our own: the program's may be for writing only.
        fd = bpf_map.open_map(number)
        try:
            info = bpf_map.map_info(fd)
            entries = tuple(bpf_map.read_map(fd, info))
        finally:
            os.close(fd)
        if info.has_types:
            subject = table.context.subject(look.pid, f"fd {look.fd}")
            table.context.warnings.append(f"{subject} is a BPF map that loses its BTF types")
        record = BpfMap(
            object_id=table.context.new_id(),
            kind=info.kind,
            key_size=info.key_size,
            value_size=info.value_size,
            max_entries=info.max_entries,
            flags=info.flags,
            name=info.name,
            extra=info.extra,
            frozen=look.info.get("frozen", ["0"])[0] == "1",
            entries=entries,
        )
        table.records.append(record)
        return record.object_id

    # Restore

    def restore(self, files: RestoredFiles, record: BpfMapFile) -> int:
        access = _ACCESS.get(record.flags & ACCESS_MODE)
        if access is None:
            raise RestoreError("a BPF map with a strange mode", reason="image-inconsistent")
        number = files.once(("bpf-map", record.map_id), lambda: self._restore_map(files, record))
        return bpf_map.open_map(number, access)

    @staticmethod
    def _restore_map(files: RestoredFiles, record: BpfMapFile) -> int:
        saved = files.record_of(BpfMap, record.map_id)
        if saved.kind not in _KINDS or min(saved.key_size, saved.value_size) < 1:
            raise RestoreError("a BPF map of a strange kind", reason="image-inconsistent")
        made = bpf_map.create_map(
            MapInfo(
                saved.kind,
                0,
                saved.key_size,
                saved.value_size,
                saved.max_entries,
                saved.flags,
                saved.name,
                saved.extra,
                False,
            )
        )
        files.close_later(made)
        info = bpf_map.map_info(made)
        for keys, values in saved.entries:
            if len(keys) * saved.value_size != len(values) * saved.key_size:
                raise RestoreError("a BPF map with half an entry", reason="image-inconsistent")
            bpf_map.fill_map(made, info, keys, values)
        if saved.frozen:
            bpf_map.freeze_map(made)
        return info.number
