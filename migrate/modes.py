"""Which way memory goes: what was asked for, and what both hosts can do."""

from __future__ import annotations

from migrate.errors import MigrateError
from migrate.precopy import Mode, OnNoConvergence, RoundLimits
from migrate.remote import Conversation
from migrate.report import MigrateReport
from runtime.engine.tracking import can_track


def possible_here(wanted: Mode | None, report: MigrateReport) -> Mode | None:
    """The mode, or None for the best one, as far as this host goes.

    Args:
        wanted: What was asked for; None for the best.
        report: Gets a warning when that is less than it could be.

    Raises:
        MigrateError: This host cannot do what was asked for.
    """
    why_not = can_track() if wanted is None or wanted.has_rounds else ""
    return _without_rounds(wanted, report, why_not) if why_not else wanted


def possible_there(
    wanted: Mode | None, far: Conversation, limits: RoundLimits, report: MigrateReport
) -> Mode:
    """The mode that both can do.

    Args:
        wanted: From `possible_here`.
        far: The destination.
        limits: Of the rounds.
        report: As above.

    Raises:
        MigrateError: The destination cannot do what was asked for.
    """
    hello = far.hello
    if (wanted is None or wanted.has_rounds) and "precopy" not in hello.features:
        why_not = f"wherry {hello.wherry} on {report.destination} cannot take rounds in"
        wanted = _without_rounds(wanted, report, why_not)
    mode = wanted or Mode.PRECOPY
    if (mode.sends_later or may_switch(mode, limits)) and "postcopy" not in hello.features:
        raise MigrateError(
            f"wherry {hello.wherry} on {report.destination} cannot ask for memory later",
            reason="missing-feature",
        )
    return mode


def may_switch(mode: Mode, limits: RoundLimits) -> bool:
    """Whether what the rounds leave may come later, if it is too much."""
    return mode.has_rounds and limits.on_no_convergence is OnNoConvergence.POSTCOPY


def _without_rounds(wanted: Mode | None, report: MigrateReport, why_not: str) -> Mode:
    """What to do when there can be no rounds: as well without, unless they were asked for."""
    if wanted is not None:
        instead = "postcopy" if wanted.sends_later else "stop"
        raise MigrateError(
            f"{report.container_id}: no pre-copy: {why_not}; use --mode {instead}",
            reason="no-write-tracking",
        )
    report.warnings = (*report.warnings, f"migrated without pre-copy: {why_not}")
    return Mode.STOP
