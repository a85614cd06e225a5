"""Which protocol a socket speaks, without a descriptor of ours for it."""

from __future__ import annotations

import errno
import os
import stat

from runtime.engine.files.kind import Look

# As struct proto names them, net/netlink/af_netlink.c and net/packet/af_packet.c
NETLINK, PACKET = b"NETLINK", b"PACKET"


def protocol_name(look: Look) -> bytes:
    """The kernel's name for a socket's protocol; empty for what is no socket."""
    if not stat.S_ISSOCK(look.stat.st_mode):
        return b""
    try:
        return os.getxattr(look.proc_path, "system.sockprotoname").rstrip(b"\0")
    except OSError as exc:
        if exc.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return b""
        raise
