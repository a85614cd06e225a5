"""How a host is reached: command line, then the user's file, then the system's."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrate.destination import Destination
from migrate.errors import MigrateError
from migrate.ssh import _lookup
from migrate.ssh_config import HostSettings, SshOptions, parse_options, settle


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory of the test's own."""
    (tmp_path / ".ssh").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def _settle(destination: str, *options: str, **given: object) -> HostSettings:
    options_given = SshOptions(options=parse_options(options), **given)  # type: ignore[arg-type]
    return settle(Destination.parse(destination), options_given, _lookup)


def test_defaults(home: Path) -> None:
    found = _settle("far")
    assert (found.host, found.port, found.strict) == ("far", 22, "ask")
    assert found.user_known_hosts[0] == home / ".ssh/known_hosts"
    assert home / ".ssh/id_ed25519" in found.identities


def test_the_users_file_counts(home: Path) -> None:
    (home / ".ssh/config").write_text(
        "Host far f*\n HostName 192.0.2.7\n Port 2222\n User carol\n"
        " IdentityFile ~/.ssh/one\n IdentityFile ~/.ssh/two\n"
        " UserKnownHostsFile ~/k1 ~/k2\n StrictHostKeyChecking no\n HostKeyAlias boat\n"
        "Host *\n User dave\n"
    )
    found = _settle("far")
    assert (found.host, found.port, found.user) == ("192.0.2.7", 2222, "carol")
    assert found.identities == (home / ".ssh/one", home / ".ssh/two")
    assert found.user_known_hosts == (home / "k1", home / "k2")
    assert (found.strict, found.host_key_alias) == ("no", "boat")
    assert _settle("other").user == "dave"


def test_the_command_line_wins(home: Path) -> None:
    (home / ".ssh/config").write_text("Host far\n Port 2222\n User carol\n IdentityFile ~/c\n")
    found = _settle("erin@far", "Port=3", "HostName=x", port=4, identities=(home / "mine",))
    assert (found.host, found.port, found.user) == ("x", 4, "erin")
    assert found.identities[0] == home / "mine"


def test_include_is_followed(home: Path) -> None:
    (home / ".ssh/config").write_text("Include conf.d/*.conf\nHost far\n Port 1\n")
    (home / ".ssh/conf.d").mkdir()
    (home / ".ssh/conf.d/x.conf").write_text("Host far\n Port 77\n")
    assert _settle("far").port == 77


def test_an_endless_include_ends(home: Path) -> None:
    config = home / ".ssh/config"
    config.write_text(f"Include {config}\n")
    with pytest.raises(MigrateError, match="deep"):
        _settle("far")


@pytest.mark.parametrize(
    "option", ["Port", "Port=", "ForwardAgent=yes", "Port=x", "StrictHostKeyChecking=maybe", "=3"]
)
def test_odd_options_are_refused(home: Path, option: str) -> None:
    with pytest.raises(MigrateError):
        _settle("far", option)


def test_a_missing_config_file_is_an_error(home: Path) -> None:
    with pytest.raises(MigrateError, match="no such"):
        _settle("far", config=home / "nowhere")


def test_options_survive_the_record() -> None:
    options = SshOptions(3, (Path("/k"),), (Path("/h"),), {"user": "x"}, Path("/c"))
    assert SshOptions.from_json(options.to_json()) == options
