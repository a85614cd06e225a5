"""Peers outside, while the container that they talk to is being rebuilt (see network_hold)."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from formats.records.codec import Record
from formats.records.inet import InetSocket, NetworkLock
from runtime.engine.api import RestoreOptions
from runtime.engine.files.inet_addresses import checked, ends_of
from runtime.kernel.nft import PacketLock


def hold_peers(records: Iterable[Record], options: RestoreOptions, pid: int) -> PacketLock | None:
    """Hold off the peers of an image's connections to the outside until these stand.

    Args:
        records: The image's.
        options: Of the restore.
        pid: A task in the network namespace that they will be in.

    Returns:
        What does so; None when there are no such connections.

    Raises:
        RestoreError: A record contradicts itself.
        OSError: This kernel has no nf_tables.
    """
    held = list(records)
    tokens = [record.token for record in held if isinstance(record, NetworkLock)]
    outside = [
        ends_of(checked(record))
        for record in held
        if isinstance(record, InetSocket) and record.tcp is not None and record.tcp.outside
    ]
    if not tokens or not outside or options.tcp_close:
        return None
    return PacketLock(f"/proc/{pid}/ns/net", f"wherry-{secrets.token_hex(8)}", outside, owned=True)
