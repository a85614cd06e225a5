"""The source's side of a handover: the durable intent, and finding out how it ended.

Before the source says *commit* it writes into the container's record that it gives it away, to
whom, and under which token; the record also says *paused*, so nothing thaws the container when we
die. From then on only the destination's answer decides: it runs there (destroy here), or it never
ran there and never will (thaw here).

What has run there is another container than ours, which stands where it stood at the handover: its
files, its clients and its peers have seen more. If it was lost since, ours goes on only when
somebody says so (`Wish.TAKE_BACK`), and the same holds when the destination has forgotten it all.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from migrate.errors import LoginError, MigrateError, TransportError, UndecidedError
from migrate.messages import Answer, Done, PageState, Phase, Query, Wish
from migrate.remote import RETRY_PAUSE_S, Route, talk_to
from runtime.container import Container
from runtime.engine import network_hold
from runtime.errors import ContainerNotFoundError
from runtime.metadata import HANDOVER, NETWORK_HOLD, Metadata, update_metadata
from runtime.process import ProcessRef
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
        pages: After post-copy: whose memory the destination still asks for, by address space.
        ran: Wall-clock seconds at which we heard that it runs there; 0 if we did not.
    """

    token: str
    remote_id: str
    route: Route
    since: float
    pages: Mapping[int, ProcessRef] = field(default_factory=dict)
    ran: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As it stands in the record."""
        return {
            "token": self.token,
            "remote_id": self.remote_id,
            "route": self.route.to_json(),
            "since": self.since,
            "pages": {str(mm_id): process.to_json() for mm_id, process in self.pages.items()},
            "ran": self.ran,
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
            {
                int(mm_id): ProcessRef(int(process["pid"]), int(process["start_ticks"]))
                for mm_id, process in noted.get("pages", {}).items()
            },
            float(noted.get("ran", 0.0)),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise MigrateError(
            f"{metadata.id}: the record of its handover cannot be read ({exc})",
            reason="handover-corrupt",
        ) from exc


def decide(container: Container, intent: Intent) -> None:
    """Write the intent down; the caller holds the operation lock and the container is frozen.

    Raises:
        MigrateError: It is not frozen any more: what kept it so was killed.
    """
    with update_metadata(container.directory) as metadata:
        # Under the lock in which it would be thawed: nobody does so from now on.
        if not container.cgroups.freezing:
            raise MigrateError(
                f"{container.id}: it was let go before it could be given away",
                reason="thawed-meanwhile",
            )
        metadata.extra[HANDOVER] = intent.to_json()
        metadata.status = Status.PAUSED


def note_ran(container: Container) -> None:
    """Write down that it runs there, when ours is kept for its memory all the same."""
    with (
        contextlib.suppress(ContainerNotFoundError),
        update_metadata(container.directory) as metadata,
    ):
        noted = metadata.extra.get(HANDOVER)
        if isinstance(noted, dict) and not noted.get("ran"):
            noted["ran"] = time.time()


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
        The destination's answer. After RUNNING (and COMMITTED) ours is destroyed, if no pages of it
        are wanted or were lost; after ABORTED it runs again, unless *wish* is ASK.

    Raises:
        UndecidedError: The destination cannot be reached, or has forgotten the handover (reason
            ``handover-forgotten``); ours stays frozen.
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
        if wish is Wish.TAKE_BACK and "postcopy" not in far.hello.features:
            asked = Wish.ABORT  # it need not know the difference: it has never run without memory
        else:
            asked = wish
        far.peer.send(Query(intent.token, asked))
        answer = far.peer.receive(Answer)
        if wish is Wish.ASK:
            return answer
        if answer.pages is PageState.LOST or (intent.pages and answer.pages is PageState.WANTED):
            if answer.phase is Phase.RUNNING:
                note_ran(container)
            return answer
        if is_forgotten(answer) and wish is not Wish.TAKE_BACK:
            raise forgotten(container, intent)
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


def is_forgotten(answer: Answer) -> bool:
    """Whether the destination has nothing on record of what it had once prepared.

    It was prepared before anything was given away, so this is a host, or a state root, that was
    set up anew since, or one that nobody has asked for longer than it remembers.
    """
    return answer.phase is Phase.UNKNOWN or (
        answer.phase is Phase.ABORTED and not answer.container_id
    )


def forgotten(container: Container, intent: Intent) -> UndecidedError:
    """What holds of ours then."""
    there = intent.route.destination
    return UndecidedError(
        f"{container.id}: {there} has no record of it any more; {ran_there(intent)}, and what it"
        " has done there would be lost if it went on here as it was at the handover: wherry migrate"
        f" --abort --lose-progress {container.id} does that; it stays frozen",
        reason="handover-forgotten",
    )


def ran_there(intent: Intent) -> str:
    """A part of a sentence: whether it has run at the destination, as far as we know."""
    if intent.ran:
        return f"it has run there since {moment(intent.ran)}"
    return f"whether it has run there since {moment(intent.since)} cannot be told"


def moment(seconds: float) -> str:
    """A time for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
