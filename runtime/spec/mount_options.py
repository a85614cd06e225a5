"""Mount options, as mount(8) and the OCI specification spell them, into kernel flags."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from runtime.kernel.mount import (
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
    MS_DIRSYNC,
    MS_I_VERSION,
    MS_LAZYTIME,
    MS_MANDLOCK,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_RELATIME,
    MS_SHARED,
    MS_SILENT,
    MS_SLAVE,
    MS_STRICTATIME,
    MS_SYNCHRONOUS,
    MS_UNBINDABLE,
)
from runtime.spec.model import Mount
from runtime.spec.reader import invalid, unsupported

PROPAGATION: Final = {
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "slave": MS_SLAVE,
    "rslave": MS_SLAVE | MS_REC,
    "shared": MS_SHARED,
    "rshared": MS_SHARED | MS_REC,
    "unbindable": MS_UNBINDABLE,
    "runbindable": MS_UNBINDABLE | MS_REC,
}

# option: (attributes to set, attributes to clear). Every access-time mode clears the whole mask
# first; MOUNT_ATTR_RELATIME is 0. The same words with an r in front act on the whole tree.
_ATTRIBUTES: Final = {
    "ro": (MOUNT_ATTR_RDONLY, 0),
    "rw": (0, MOUNT_ATTR_RDONLY),
    "nosuid": (MOUNT_ATTR_NOSUID, 0),
    "suid": (0, MOUNT_ATTR_NOSUID),
    "nodev": (MOUNT_ATTR_NODEV, 0),
    "dev": (0, MOUNT_ATTR_NODEV),
    "noexec": (MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, MOUNT_ATTR_NOEXEC),
    "noatime": (MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME),
    "atime": (0, MOUNT_ATTR__ATIME),
    "strictatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME),
    "nostrictatime": (0, MOUNT_ATTR__ATIME),
    "relatime": (0, MOUNT_ATTR__ATIME),
    "norelatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME),
    "nodiratime": (MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, MOUNT_ATTR_NOSYMFOLLOW),
}

# The per-mount words as flags of mount(2) for a new file system
_MOUNT_FLAGS: Final = {
    "ro": (MS_RDONLY, 0),
    "rw": (0, MS_RDONLY),
    "nosuid": (MS_NOSUID, 0),
    "suid": (0, MS_NOSUID),
    "nodev": (MS_NODEV, 0),
    "dev": (0, MS_NODEV),
    "noexec": (MS_NOEXEC, 0),
    "exec": (0, MS_NOEXEC),
    "noatime": (MS_NOATIME, 0),
    "atime": (0, MS_NOATIME),
    "strictatime": (MS_STRICTATIME, 0),
    "nostrictatime": (0, MS_STRICTATIME),
    "relatime": (MS_RELATIME, 0),
    "norelatime": (0, MS_RELATIME),
    "nodiratime": (MS_NODIRATIME, 0),
    "diratime": (0, MS_NODIRATIME),
    "nosymfollow": (MS_NOSYMFOLLOW, 0),
    "symfollow": (0, MS_NOSYMFOLLOW),
}

# Words that act on the superblock, so a bind mount cannot have them
_SUPERBLOCK_FLAGS: Final = {
    "sync": (MS_SYNCHRONOUS, 0),
    "async": (0, MS_SYNCHRONOUS),
    "dirsync": (MS_DIRSYNC, 0),
    "mand": (MS_MANDLOCK, 0),
    "nomand": (0, MS_MANDLOCK),
    "iversion": (MS_I_VERSION, 0),
    "noiversion": (0, MS_I_VERSION),
    "lazytime": (MS_LAZYTIME, 0),
    "nolazytime": (0, MS_LAZYTIME),
    "silent": (MS_SILENT, 0),
    "loud": (0, MS_SILENT),
}

_UNSUPPORTED: Final = {
    "remount": "a container is built from new mounts; there is nothing to remount",
    "copy-symlink": "copying a symbolic link instead of mounting is not supported",
}


def option_names() -> list[str]:
    """Every option that is understood, for ``wherry features``; others go to the file system."""
    recursive = [f"r{name}" for name in _ATTRIBUTES]
    own = ("bind", "rbind", "tmpcopyup", "defaults")
    return sorted({*own, *_ATTRIBUTES, *recursive, *_SUPERBLOCK_FLAGS, *PROPAGATION})


def with_options(mount: Mount, options: tuple[str, ...]) -> Mount:
    """Return *mount* with *options* taken apart.

    Raises:
        SpecError: An option is unsupported, or means nothing for this kind of mount.
    """
    bind = recursive = copy_up = False
    id_mapped = ""
    flags = attr_set = attr_clear = rec_set = rec_clear = 0
    propagation: list[int] = []
    data: list[str] = []
    for index, option in enumerate(options):
        path = f"{mount.path}.options[{index}]"
        if option in ("bind", "rbind"):
            bind, recursive = True, recursive or option == "rbind"
        elif option in PROPAGATION:
            propagation.append(PROPAGATION[option])
        elif option in _ATTRIBUTES:
            on, off = _ATTRIBUTES[option]
            attr_set, attr_clear = attr_set & ~off | on, attr_clear & ~on | off
            on, off = _MOUNT_FLAGS[option]
            flags = flags & ~off | on
        elif option in _SUPERBLOCK_FLAGS:
            on, off = _SUPERBLOCK_FLAGS[option]
            flags = flags & ~off | on
        elif option[:1] == "r" and option[1:] in _ATTRIBUTES:
            on, off = _ATTRIBUTES[option[1:]]
            rec_set, rec_clear = rec_set & ~off | on, rec_clear & ~on | off
        elif option in ("idmap", "ridmap"):
            id_mapped = max(id_mapped, option)  # the recursive one wins
        elif option in _UNSUPPORTED:
            raise unsupported(path, f"{option!r}: {_UNSUPPORTED[option]}")
        elif option == "tmpcopyup":
            copy_up = True
        elif option in ("defaults", "notmpcopyup"):
            pass
        elif option == "":
            raise invalid(path, "is empty")
        else:
            data.append(option)
    bound = replace(
        mount,
        options=options,
        bind=bind,
        recursive=recursive,
        flags=flags,
        attr_set=attr_set,
        attr_clear=attr_clear,
        rec_set=rec_set,
        rec_clear=rec_clear,
        propagation=tuple(propagation),
        data=",".join(data),
        copy_up=copy_up,
        id_mapped=id_mapped,
    )
    _check_combination(bound, data)
    return bound


def _check_combination(mount: Mount, data: list[str]) -> None:
    if mount.copy_up and mount.fstype != "tmpfs":
        raise invalid(f"{mount.path}.options", "tmpcopyup needs the type tmpfs")
    if not mount.bind:
        if mount.id_mapped:
            raise unsupported(f"{mount.path}.options", "only bind mounts can be id-mapped")
        return
    for index, option in enumerate(mount.options):
        path = f"{mount.path}.options[{index}]"
        if option in data:
            raise unsupported(path, f"{option!r} means nothing for a bind mount")
        # async, loud and the like ask for what a bind mount is anyway
        if option in _SUPERBLOCK_FLAGS and _SUPERBLOCK_FLAGS[option][0] not in (0, MS_SILENT):
            raise unsupported(path, f"{option!r} cannot be set on a bind mount alone")
