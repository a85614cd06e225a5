"""A systemd service that runs a schedule.

Source: man 5 systemd.service, man 5 systemd.kill, man 7 systemd.syntax for quoting.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from migrate.errors import ScheduleError
from migrate.schedule.plan import Plan

DIRECTORY = Path("/etc/systemd/system")
UNIT = "wherry-schedule.service"
_SLACK_S = 60  # for what a last snapshot does after its time is over: let go and tidy up


def service_unit(command: Sequence[str], plan: Plan) -> str:
    """The text of the service.

    Args:
        command: What runs the schedule; absolute.
        plan: What it runs.
    """
    return f"""\
[Unit]
Description=Scheduled snapshots of containers
After=network-online.target local-fs.target
Wants=network-online.target

[Service]
Type=exec
ExecStart={" ".join(map(_quoted, command))}
Restart=on-failure
RestartSec=10
# The scheduler alone is told to stop; its last snapshots are processes of this service, too.
KillMode=mixed
TimeoutStopSec={int(plan.final_timeout_s) + _SLACK_S}

[Install]
WantedBy=multi-user.target
"""


def _quoted(word: str) -> str:
    plain = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{plain}"' if any(char in word for char in " \t\"'\\;$%") or not word else word


def install(text: str, directory: Path, *, enable: bool) -> Path:
    """Write the service, and let systemd start it now and at each boot.

    Args:
        text: Of the unit.
        directory: Where units are.
        enable: Whether to tell systemd.

    Returns:
        The unit's path.

    Raises:
        ScheduleError: It cannot be written, or systemd refuses; reason ``schedule-install``.
    """
    path = directory / UNIT
    try:
        path.write_text(text)
        path.chmod(0o644)
    except OSError as exc:
        raise ScheduleError(f"{path}: {exc.strerror}", reason="schedule-install") from exc
    if enable:
        for words in (("daemon-reload",), ("enable", "--now", UNIT)):
            done = subprocess.run(
                ["systemctl", *words], capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                raise ScheduleError(
                    f"systemctl {' '.join(words)}: {done.stderr.strip()}",
                    reason="schedule-install",
                )
    return path


def systemd_runs() -> bool:
    """Whether systemd is this host's init; man 3 sd_booted."""
    return Path("/run/systemd/system").is_dir()
