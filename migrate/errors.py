"""Failures of shipping and migrating, in the words of the hosts that had them."""

from __future__ import annotations

from formats.errors import WherryError


class MigrateError(WherryError):
    """A migration or a transfer failed; the container or the file is where it was."""

    exit_code = 40
    default_reason = "migrate-failed"


class TransportError(MigrateError):
    """The connection could not be made, or broke."""

    exit_code = 41
    default_reason = "connection-lost"


class HostKeyError(TransportError):
    """The far host's key is not known, has changed, or was revoked: nothing was sent."""

    exit_code = 42
    default_reason = "host-key-unknown"


class LoginError(TransportError):
    """The far host did not let us in."""

    exit_code = 43
    default_reason = "login-refused"


class ProtocolError(MigrateError):
    """The far side sent something that the protocol does not allow."""

    exit_code = 44
    default_reason = "protocol"


class RemoteError(MigrateError):
    """The far side reported a failure of its own; the sentence is the far side's."""

    exit_code = 45
    default_reason = "remote-failed"


class UndecidedError(MigrateError):
    """The connection broke after the commit and the far side has not been reached since.

    The container stays frozen here until the far side has been asked.
    """

    exit_code = 46
    default_reason = "handover-undecided"


class StoreError(WherryError):
    """A store cannot be used as asked: missing, unreachable, locked, damaged."""

    exit_code = 50
    default_reason = "store-error"


class ScheduleError(MigrateError):
    """A schedule makes no sense, or cannot be run as asked."""

    exit_code = 47
    default_reason = "bad-schedule"
