"""Loop devices: a regular file as a block device."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

LOOP_MAJOR = 7  # include/uapi/linux/major.h

# include/uapi/linux/loop.h
LOOP_CONFIGURE, LOOP_CTL_GET_FREE = 0x4C0A, 0x4C82
LO_FLAGS_AUTOCLEAR, LO_FLAGS_DIRECT_IO = 4, 16
# struct loop_info64: device, inode, rdevice, offset, sizelimit; number, encrypt_type,
# encrypt_key_size, flags; file_name, crypt_name, encrypt_key; init
_INFO64 = struct.Struct("5Q4I64s64s32s2Q")
# struct loop_config: fd, block_size, info, reserved
_CONFIG = struct.Struct(f"2I{_INFO64.size}s8Q")

_BLOCK_SIZE = 4096
_ATTEMPTS = 256


def attach_loop(fd: int) -> tuple[str, int]:
    """Make a block device of a file. It is detached when nobody has it open or mounted any more.

    Reads and writes go past the page cache of the file's own file system where that can be, so that
    nothing is cached twice.

    Args:
        fd: The file, open for reading and writing.

    Returns:
        The device's path, and a descriptor of it, which holds it.

    Raises:
        OSError: ENOENT or EPERM where there are no loop devices for us.

    Source: man 4 loop; LOOP_CONFIGURE, Linux 5.8.
    """
    flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO
    info = _INFO64.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, b"", b"", b"", 0, 0)
    config = _CONFIG.pack(fd, _BLOCK_SIZE, info, *[0] * 8)
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            path = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
            device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, LOOP_CONFIGURE, config)
            except OSError as exc:
                os.close(device)
                if exc.errno != errno.EBUSY:  # somebody else was faster with this one
                    raise
            else:
                return path, device
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "no loop device stays free for long enough")


def backing_file(device: int) -> str | None:
    """The path of the file behind a loop device; None for other devices.

    Args:
        device: A device number, such as the st_dev of a file on it.

    Source: Documentation/ABI/testing/sysfs-block-loop.
    """
    if os.major(device) != LOOP_MAJOR:
        return None
    name = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/loop/backing_file"
    try:
        with open(name) as file:
            return file.read().rstrip("\n")
    except FileNotFoundError:
        return None
