"""binfmt_misc of a user namespace: the formats that a program has registered there.

Those of the initial user namespace are the host's, and no image changes them. Registering is left
to a task of the namespace, because a format's interpreter may be opened at that moment.

Source: Documentation/admin-guide/binfmt-misc.rst; instances of user namespaces since Linux 6.7.
"""

from __future__ import annotations

import os

from formats.records.mounts import BinaryFormat, MountPoint
from runtime.engine.new_task import NewTask
from runtime.engine.remote import Batch
from runtime.errors import RestoreError
from runtime.kernel import namespaces
from runtime.kernel.mount import AT_FDCWD
from runtime.kernel.mountinfo import Mount, read_mounts

_CONTROLS = ("register", "status")
_DELIMITERS = b":;|,!#%@^~"
_LONGEST = 1920  # MAX_REGISTER_LENGTH, fs/binfmt_misc.c


def formats_of(mount: Mount, top: int, namespace: str) -> tuple[BinaryFormat, ...]:
    """What is registered in an instance that is not the host's, the oldest first.

    Args:
        mount: Of binfmt_misc.
        top: A descriptor of ours for its top.
        namespace: A path of ours for the mount namespace that it is in.
    """
    fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        owner = namespaces.owner(fd)
    finally:
        os.close(fd)
    is_ours = os.path.samestat(os.fstat(owner), os.stat("/proc/self/ns/user"))
    os.close(owner)
    if is_ours or any(mount.device == other.device for other in read_mounts(os.getpid())):
        return ()
    found = []
    for name in reversed(os.listdir(f"/proc/self/fd/{top}")):
        if name in _CONTROLS:
            continue
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=top)
        with open(fd, "rb") as file:
            found.append(_parse(os.fsencode(name), file.read()))
    return tuple(found)


def _parse(name: bytes, text: bytes) -> BinaryFormat:
    """What the kernel shows of a format, as the line that registers it."""
    lines = text.splitlines()
    values = dict(line.partition(b" ")[::2] for line in lines[1:])
    flags = values.get(b"flags:", b"")
    if b"extension" in values:
        fields = [b"E", b"", values[b"extension"].removeprefix(b"."), b""]
    else:
        patterns = [_escaped(values.get(key, b"")) for key in (b"magic", b"mask")]
        fields = [b"M", values[b"offset"], *patterns]
    parts = [name, *fields, values[b"interpreter"], flags]
    used = b"".join(parts)
    mark = next(bytes([each]) for each in _DELIMITERS if each not in used)
    return BinaryFormat(
        name=os.fsdecode(name),
        line=mark + mark.join(parts),
        enabled=lines[0] == b"enabled",
    )


def _escaped(digits: bytes) -> bytes:
    return b"".join(b"\\x" + digits[at : at + 2] for at in range(0, len(digits), 2))


def register(task: NewTask, record: MountPoint) -> None:
    """Register the formats of an instance again, as a task does that sees it.

    Raises:
        RestoreError: The kernel refused.
    """
    for each in record.formats:
        if not 0 < len(each.line) <= _LONGEST or "/" in each.name:
            raise RestoreError("a malformed binary format", reason="image-inconsistent")
        try:
            _write(task, f"{record.point}/register", each.line)
            if not each.enabled:
                _write(task, f"{record.point}/{each.name}", b"0")
        except OSError as exc:
            raise RestoreError(
                f"the binary format {each.name} cannot be registered again: {exc.strerror}",
                reason="mount-failed",
            ) from exc


def _write(task: NewTask, path: str, text: bytes) -> None:
    batch = Batch()
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = batch.call("openat", AT_FDCWD, os.fsencode(path) + b"\0", flags, 0)
    batch.call("write", fd, text, len(text))
    batch.call("close", fd)
    task.do(batch)
