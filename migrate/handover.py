"""The source's side of a handover: the durable intent, and finding out how it ended.

Before the source says *commit* it writes into the container's record that it gives it away, to
whom, and under which token; the record also says *paused*, so nothing thaws the container when we
die. From then on only the destination's answer decides: it runs there (destroy here), or nothing
of it is there and never will be (thaw here).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from migrate.errors import LoginError, MigrateError, TransportError, UndecidedError
from migrate.messages import Answer, Done, Phase, Query, Wish
from migrate.remote import RETRY_PAUSE_S, Route, talk_to
from runtime.container import Container
from runtime.engine import network_hold
from runtime.errors import ContainerNotFoundError
from runtime.metadata import HANDOVER, NETWORK_HOLD, Metadata, update_metadata
from runtime.status import Status

if TYPE_CHECKING:
    from migrate.ssh import Ask


@dataclass(frozen=True, slots=True)
class Intent:
    """What stands in the record of a container that is being given away.

    Attributes:
        token: Names the handover.
        remote_id: The container's id at the destination.
        route: How to reach the destination.
        since: Wall-clock seconds of the decision.
    """

    token: str
    remote_id: str
    route: Route
    since: float

    def to_json(self) -> dict[str, Any]:
        """As it stands in the record."""
        return {
            "token": self.token,
            "remote_id": self.remote_id,
            "route": self.route.to_json(),
            "since": self.since,
        }


def intent_of(metadata: Metadata) -> Intent | None:
    """The pending handover of a container, or None.

    Raises:
        MigrateError: The record is damaged.
    """
    noted = metadata.extra.get(HANDOVER)
    if noted is None:
        return None
    try:
        return Intent(
            str(noted["token"]),
            str(noted["remote_id"]),
            Route.from_json(noted["route"]),
            float(noted["since"]),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise MigrateError(
            f"{metadata.id}: the record of its handover cannot be read ({exc})",
            reason="handover-corrupt",
        ) from exc


def decide(container: Container, intent: Intent) -> None:
    """Write the intent down; the caller holds the operation lock and the container is frozen."""
    with update_metadata(container.directory) as metadata:
        metadata.extra[HANDOVER] = intent.to_json()
        metadata.status = Status.PAUSED


def take_back(container: Container) -> None:
    """The destination does not have it and never will: let it go on here."""
    with update_metadata(container.directory) as metadata:
        metadata.extra.pop(HANDOVER, None)
        token = metadata.extra.pop(NETWORK_HOLD, "")
        metadata.status = Status.RUNNING
    if metadata.init is not None and isinstance(token, str):
        network_hold.take_back(metadata.init.pid, token)
    container.cgroups.thaw()


def give_away(container: Container) -> None:
    """The destination runs it: remove ours."""
    try:
        container.reload()
        if container.metadata.extra.get(NETWORK_HOLD):
            own = network_hold.owns_network(container.metadata.spec)
            network_hold.end_silently(container.cgroups.pids(), own=own)
        container.destroy(force=True)
    except ContainerNotFoundError:
        pass


def settle(
    container: Container,
    intent: Intent,
    wish: Wish,
    *,
    ask: Ask | None = None,
    retry_for_s: float = 0.0,
) -> Answer:
    """Ask the destination how a handover ended, and end it here in the same way.

    Args:
        container: Ours, frozen.
        intent: What stands in its record.
        wish: What is to become of it if that is still open; ASK changes nothing on either side.
        ask: For passphrases and passwords.
        retry_for_s: How long to try again while the destination cannot be reached.

    Returns:
        The destination's answer. After RUNNING (and COMMITTED) ours is destroyed; after
        ABORTED and UNKNOWN it runs again, unless *wish* is ASK.

    Raises:
        UndecidedError: The destination cannot be reached; ours stays frozen.
        MigrateError: It can be reached and does not answer properly.
    """
    deadline = time.monotonic() + retry_for_s
    while True:
        try:
            return _ask_once(container, intent, wish, ask)
        except LoginError:
            raise
        except TransportError as exc:
            if time.monotonic() > deadline:
                raise UndecidedError(
                    f"{container.id}: whether {intent.route.destination} runs it is not known"
                    f" ({exc}); it stays frozen here until wherry migrate --resume {container.id}"
                    " has reached the other host"
                ) from exc
            time.sleep(RETRY_PAUSE_S)


def _ask_once(container: Container, intent: Intent, wish: Wish, ask: Ask | None) -> Answer:
    with talk_to(intent.route, ask) as far:
        far.peer.send(Query(intent.token, wish))
        answer = far.peer.receive(Answer)
        if wish is Wish.ASK:
            return answer
        if answer.phase in (Phase.RUNNING, Phase.COMMITTED):
            give_away(container)
        elif answer.phase in (Phase.ABORTED, Phase.UNKNOWN):
            take_back(container)
        else:
            raise MigrateError(
                f"{container.id}: {intent.route.destination} answered {answer.phase} to"
                f" {wish}, which decides nothing",
                reason="handover-undecided",
            )
        far.peer.send(Done(intent.token))
        return answer
