"""Address spaces into records: what each mapping is, and how it comes back."""

from __future__ import annotations

from functools import cache

from formats.records.memory import AddressSpace, Backing, Layout, Vma
from runtime.engine.aio import dump_ring, is_ring
from runtime.engine.arch import current as arch
from runtime.engine.context import DumpContext
from runtime.engine.files.memfd import SECRET
from runtime.engine.files.mounts import DELETED
from runtime.engine.files.table import FileTable
from runtime.engine.live_process import LiveProcess
from runtime.kernel import pagemap
from runtime.kernel.proc_maps import Mapping, is_segment
from runtime.kernel.procfs import read_bytes

SAVED = (
    (
        "memory",
        "private and shared, anonymous and file-backed, deleted and shortened files, copy-on-"
        "write after fork, guard pages, content below `PROT_NONE`, the heap, a stack that has "
        "grown and grows further, code made at run time, advice and locking flags of mappings, "
        "hugetlb memory (private, shared, memfd), droppable memory (its content is dropped), guard "
        "regions, sealed mappings, mlockall for the future, the vDSO",
    ),
)
REFUSED = (
    ("vma-userfaultfd", "memory that a userfaultfd serves or write-protects"),
    ("vma-device", "device memory"),
    ("vma-hugetlb", "named files of hugetlbfs"),
    ("vma-pkey", "memory with a protection key other than the default one"),
    ("vma-shadow-stack", "shadow stacks"),
    ("vma-kind", "mappings that no rule knows"),
)

# Flags, include/uapi/asm-generic/mman{,-common}.h
MAP_SHARED = 0x01
MAP_PRIVATE = 0x02
MAP_FIXED = 0x10
MAP_ANONYMOUS = 0x20
MAP_GROWSDOWN = 0x100
MAP_LOCKED = 0x2000
MAP_NORESERVE = 0x4000
MAP_HUGETLB = 0x40000
MAP_HUGE_SHIFT = 26  # include/uapi/asm-generic/hugetlb_encode.h
MAP_FIXED_NOREPLACE = 0x100000
MAP_DROPPABLE = 0x08  # a type of its own, in place of shared and private; include/uapi/linux/mman.h

# VmFlags (Documentation/filesystems/proc.rst) and the flag or advice that gives them
_FLAGS = {"gd": MAP_GROWSDOWN, "nr": MAP_NORESERVE, "lo": MAP_LOCKED}
_ADVICE = {"rr": 1, "sr": 2, "dc": 10, "mg": 12, "hg": 14, "nh": 15, "dd": 16, "wf": 18}

_REFUSED = {
    "um": ("vma-userfaultfd", "is served by a userfaultfd"),
    "uw": ("vma-userfaultfd", "is write-protected by a userfaultfd"),
    "ui": ("vma-userfaultfd", "is served by a userfaultfd"),
    "io": ("vma-device", "is device memory"),
    "pf": ("vma-device", "is device memory"),
    "ss": ("vma-shadow-stack", "is a shadow stack"),
}
KERNEL_NAMES = frozenset({"[vdso]", "[vvar]", "[vvar_vclock]"})
HUGE_PAGES = "/anon_hugepage (deleted)"
_ANONYMOUS_NAMES = ("[heap]", "[stack]", "[anon:")


def dump_address_space(
    context: DumpContext, files: FileTable, process: LiveProcess, mm_id: int
) -> AddressSpace:
    """Describe the address space of a process; its contents are written later."""
    vmas = []
    for mapping in process.mappings:
        if mapping.start >= arch.TASK_SIZE:  # [vsyscall], the same for everybody
            continue
        vma = _vma(context, files, process.view, mapping, mm_id)
        if vma is not None:
            vmas.append(vma)
    stat = process.stat
    return AddressSpace(
        mm_id=mm_id,
        layout=Layout(
            start_code=stat.start_code,
            end_code=stat.end_code,
            start_data=stat.start_data,
            end_data=stat.end_data,
            start_brk=stat.start_brk,
            brk=_brk(process),
            start_stack=stat.start_stack,
            arg_start=stat.arg_start,
            arg_end=stat.arg_end,
            env_start=stat.env_start,
            env_end=stat.env_end,
        ),
        auxv=read_bytes(f"/proc/{process.view}/auxv"),
        exe_file_id=files.add_executable(process.view),
        vmas=tuple(vmas),
        locked_future=0 if process.answers is None else process.answers.locked_future,
    )


def _brk(process: LiveProcess) -> int:
    if process.answers is not None and process.answers.brk:
        return process.answers.brk
    return process.stat.start_brk


def _vma(
    context: DumpContext, files: FileTable, pid: int, mapping: Mapping, mm_id: int
) -> Vma | None:
    flags, advice = _flags_and_advice(mapping.shared, mapping.vm_flags)
    segment = is_segment(mapping)
    backing, object_id, offset, name, huge = Backing.ANONYMOUS, 0, 0, "", 0
    if mapping.path in KERNEL_NAMES:
        backing, name = Backing.VDSO, mapping.path
        advice = ()
    elif (socket_id := files.mapped_socket(mapping)) is not None:
        backing, object_id, offset = Backing.SOCKET, socket_id, mapping.offset
    elif _refused(context, pid, mapping, mm_id):
        return None
    elif is_ring(mapping):
        backing = Backing.AIO
        object_id = dump_ring(context, files, pid, mapping)
    elif _is_anonymous(mapping):
        flags |= MAP_ANONYMOUS
        name = mapping.path[6:-1] if mapping.path.startswith("[anon:") else ""
        if "ht" in mapping.vm_flags:
            huge = mapping.page_size
            flags |= MAP_HUGETLB | (huge.bit_length() - 1) << MAP_HUGE_SHIFT
    elif segment:
        backing, offset = Backing.SEGMENT, mapping.offset
        object_id = files.segment(pid, mapping)
    elif files.is_shared_memory(mapping):
        backing, offset = Backing.SHARED, mapping.offset
        object_id = files.add_shared_memory(pid, mapping)
    else:
        backing, offset = Backing.FILE, mapping.offset
        object_id = files.add_mapped_file(pid, mapping)
    return Vma(
        start=mapping.start,
        end=mapping.end,
        protection=mapping.protection,
        flags=flags,
        backing=backing,
        object_id=object_id,
        offset=offset,
        advice=advice,
        name=name,
        accounted="ac" in mapping.vm_flags,
        lock_on_fault="lf" in mapping.vm_flags,
        read_only=backing in (Backing.SEGMENT, Backing.SHARED) and "mw" not in mapping.vm_flags,
        huge_page_size=huge,
        sealed="sl" in mapping.vm_flags,
        guards=_guards(pid, mapping),
    )


@cache  # few combinations are ever seen
def _flags_and_advice(shared: bool, codes: frozenset[str]) -> tuple[int, tuple[int, ...]]:
    flags = MAP_SHARED if shared else MAP_PRIVATE
    if "dp" in codes:
        flags = MAP_DROPPABLE
    for code, flag in _FLAGS.items():
        if code in codes:
            flags |= flag
    return flags, tuple(value for code, value in _ADVICE.items() if code in codes)


def _guards(pid: int, mapping: Mapping) -> tuple[tuple[int, int], ...]:
    if "gu" not in mapping.vm_flags:
        return ()
    runs = pagemap.guard_runs(pid, mapping.start, mapping.end)
    return tuple((start, end - start) for start, end in runs)


def _is_anonymous(mapping: Mapping) -> bool:
    if mapping.path == HUGE_PAGES and not mapping.shared:
        return True
    if mapping.inode or mapping.shared:
        return False
    return not mapping.path or mapping.path.startswith(_ANONYMOUS_NAMES)


def _refused(context: DumpContext, pid: int, mapping: Mapping, mm_id: int) -> bool:
    tracked = context.tracked.get(mm_id)
    ours = (
        "uw" in mapping.vm_flags
        and tracked is not None
        and tracked.owns(mapping.start, mapping.end)
    )
    problem = _problem(mapping, ours)
    if problem is not None:
        reason, sentence = problem
        what = f"mapping {mapping.map_file} {mapping.path}".rstrip()
        context.refuse(reason, context.subject(pid, what), sentence)
    return problem is not None


def _problem(mapping: Mapping, tracked: bool) -> tuple[str, str] | None:
    """Why a mapping cannot be saved, as reason and sentence; *tracked* says by ourselves."""
    for code in sorted(mapping.vm_flags & _REFUSED.keys()):
        if code != "uw" or not tracked:
            reason, sentence = _REFUSED[code]
            return reason, f"{sentence} and cannot be saved"
    if mapping.path == SECRET + DELETED:
        return "memfd-secret", "is secret memory, which nobody else can read"
    if mapping.protection_key:
        return "vma-pkey", "has a protection key, whose allocation no interface shows"
    if "ht" in mapping.vm_flags and not mapping.path.endswith(DELETED):
        return "vma-hugetlb", "is a named file of hugetlbfs"
    known = mapping.path.startswith(("/", "[anon_shmem:")) or _is_anonymous(mapping)
    return None if known else ("vma-kind", "is of a kind that wherry cannot save")
