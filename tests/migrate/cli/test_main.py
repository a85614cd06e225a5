"""The command itself: laziness, help, failures, logs."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from migrate.cli.main import COMMANDS, main
from tests.support.bundles import make_bundle
from tests.support.command import WHERRY, Wherry

# What `wherry state` must not pay for.
HEAVY = {"paramiko", "rich", "psutil", "zstandard", "blake3", "msgpack", "asyncio", "concurrent"}


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """What the command sets for itself is not for the tests, which a Ctrl-C shall still end."""
    kept = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    hook = sys.unraisablehook
    yield
    for signum, handler in kept.items():
        signal.signal(signum, handler)
    sys.unraisablehook = hook


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_loads_and_explains_itself(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = importlib.import_module(COMMANDS[name].module).command
    assert isinstance(command, click.Command)
    assert main([name, "--help"]) == 0
    assert f"wherry {name}" in capsys.readouterr().out


@pytest.mark.parametrize("args", [["state", "missing"], ["list"], ["do", "--", "true"]])
def test_the_common_path_stays_light(wherry_root: Path, args: list[str]) -> None:
    code = (
        "import sys; from migrate.cli.main import main; main(sys.argv[1:]);"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--root", str(wherry_root), *args],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not HEAVY & set(done.stdout.split())


def test_help_names_every_command_without_loading_one() -> None:
    code = (
        "import sys; from migrate.cli.main import main; main(['--help']);"
        "print([name for name in sys.modules if name.startswith('migrate.cli.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout
    assert "migrate.cli.run" not in done.stdout


def test_the_version() -> None:
    done = subprocess.run([str(WHERRY), "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("wherry version ")


def test_usage_errors_exit_with_2(wherry: Wherry) -> None:
    assert wherry.fails("no-such-command").returncode == 2
    assert wherry.fails("state").returncode == 2
    assert wherry.fails("list", "--no-such-option").returncode == 2


def test_a_bug_is_one_line_and_its_traceback_is_for_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_settings: object, _cid: str) -> None:
        raise KeyError("oops")

    monkeypatch.setattr("migrate.cli.options.Settings.load", broken)
    assert main(["state", "web"]) == 70
    said = capsys.readouterr().err
    assert "internal error: KeyError: 'oops'" in said
    assert "Traceback" not in said
    assert main(["--debug", "state", "web"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_hangs_up_is_no_reason_to_complain(wherry: Wherry) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = wherry.popen("features", stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    _, said = process.communicate(timeout=30)
    assert said == b""
    assert process.returncode == 141


def test_failures_reach_the_log_file_as_containerd_expects(wherry: Wherry, scratch: Path) -> None:
    log = scratch / "log.json"
    wherry.fails("--log", log, "--log-format", "json", "state", "missing")
    last = json.loads(log.read_text().splitlines()[-1])
    assert last["level"] == "error"
    assert "'missing' does not exist" in last["msg"]
    assert last["time"].endswith("Z")
    text = scratch / "log"
    wherry.fails("--log", text, "state", "missing")
    assert "'missing' does not exist" in text.read_text()


def test_the_root_comes_from_the_option_or_the_environment(wherry: Wherry, scratch: Path) -> None:
    other = scratch / "other"
    bundle = make_bundle(scratch / "b")
    wherry("--root", other, "create", "--bundle", bundle, "--overlay", "web")
    assert wherry.status("web") == "absent"
    assert wherry.json("list", "--json") == []
    assert wherry("--root", other, "list", "--quiet").stdout == "web\n"
    wherry("--root", other, "delete", "--force", "web")


def test_spec_writes_a_bundle_that_parses(wherry: Wherry, scratch: Path) -> None:
    wherry("spec", "--bundle", scratch)
    document = json.loads((scratch / "config.json").read_text())
    assert document["process"]["args"] == ["sh"]
    assert "exists" in wherry.fails("spec", "--bundle", scratch).stderr
    assert wherry.json("spec", "--print") == document


def test_features_is_what_oci_defines(wherry: Wherry) -> None:
    features = wherry.json("features")
    assert features["ociVersionMin"] == "1.0.0"
    assert "startContainer" in features["hooks"]
    assert "rbind" in features["mountOptions"]
    assert {"pid", "user", "time"} <= set(features["linux"]["namespaces"])
