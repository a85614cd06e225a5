"""Rules for the project as a whole: docstrings, error codes, commands, scripts, documents."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from formats.errors import WherryError
from migrate.cli.main import COMMANDS, cli
from tests.support.sources import PACKAGES, ROOT, for_each_source, module_name

SOURCES = list(for_each_source(*PACKAGES))
# The directory of whoever develops this is nobody's business, and breaks elsewhere.
MACHINE_PATHS = re.compile(r"(?:^|[\s\"'`(=:])/(?:wor" r"k|home/\w+|root/\.pyenv)/", re.MULTILINE)


def _tracked_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode != 0:
        pytest.fail(f"not a git checkout: {listing.stderr.decode()}")
    names = listing.stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("path", list(for_each_source(*PACKAGES, "tests/support")), ids=str)
def test_every_module_says_what_it_is(path: Path) -> None:
    text = (ROOT / path).read_text()
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


def test_no_file_names_a_developers_machine() -> None:
    for path in _tracked_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # a golden image
        found = MACHINE_PATHS.search(text)
        assert found is None, f"{path.relative_to(ROOT)}: {found.group() if found else ''}"


def _all_errors() -> Iterator[type[WherryError]]:
    for path in SOURCES:
        importlib.import_module(module_name(path))
    frontier: list[type[WherryError]] = [WherryError]
    while frontier:
        error = frontier.pop()
        yield error
        frontier += error.__subclasses__()


@pytest.mark.parametrize("attribute", ["exit_code", "default_reason"])
def test_error_classes_do_not_share(attribute: str) -> None:
    errors = {error for error in _all_errors() if error.__module__.split(".")[0] in PACKAGES}
    values = Counter(getattr(error, attribute) for error in errors)
    shared = {
        value: sorted(error.__name__ for error in errors if getattr(error, attribute) == value)
        for value, count in values.items()
        if count > 1
    }
    assert shared == {}


def test_exit_codes_are_usable_and_leave_2_to_usage_errors() -> None:
    for error in _all_errors():
        assert 1 <= error.exit_code < 126, error
        assert error.exit_code != 2, error


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_explains_itself(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert isinstance(command, click.Command)
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert command.help, f"wherry {name} --help says nothing"


def test_a_common_command_does_not_load_what_it_does_not_need() -> None:
    program = (
        "import sys, migrate.cli.main, migrate.cli.run, migrate.cli.state\n"
        "print(sorted({'paramiko', 'rich', 'psutil', 'asyncio', 'concurrent.futures',"
        " 'multiprocessing', 'pyseccomp', 'cryptography'} & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def _scripts() -> list[Path]:
    return [path for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix]


@pytest.mark.parametrize("path", [*_scripts(), ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_scripts_are_executable_and_parse(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    if path.name != "_bootstrap":
        assert os.access(path, os.X_OK), f"{path} is not executable"
        assert first.startswith("#!"), first
    if "bash" in first:
        subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_documents_name_only_what_exists(name: str) -> None:
    text = (ROOT / name).read_text()
    assert text.strip(), f"{name} is empty"
    for script in re.findall(r"\bscripts/([a-z_-]+)\b", text):
        assert (ROOT / "scripts" / script).exists(), f"{name} names scripts/{script}"
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    calls = re.findall(r"^ *wherry .*", blocks, re.MULTILINE) + re.findall(
        r"`(wherry [^`]+)`", text
    )
    for call in calls:
        verb = re.sub(r"^ *wherry (?:--\w+(?:[ =]\S+)? )*", "", call).split()[0]
        assert verb in COMMANDS, f"{name} names the command wherry {verb}"
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert ((ROOT / name).parent / target).exists(), f"{name} links to {target}"


def test_ci_runs_the_readmes_test_command() -> None:
    assert "scripts/test" in (ROOT / "README.md").read_text()
    assert "\nscripts/test\n" in (ROOT / ".ci" / "run").read_text()


def _reason_codes(path: Path) -> Iterator[str]:
    """The reason codes that a module gives to refusals, as literals."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            name = node.func.id if isinstance(node.func, ast.Name) else name
            if name in ("refuse", "Refusal"):
                values = [str(a.value) for a in node.args[:2] if isinstance(a, ast.Constant)]
                yield from (v for v in values if re.fullmatch(r"[a-z]+(-[a-z]+)+", v))


def test_every_refusal_of_the_engine_is_documented() -> None:
    text = (ROOT / "docs" / "support.md").read_text()
    codes = {code for path in for_each_source("runtime/engine") for code in _reason_codes(path)}
    assert codes
    assert sorted(code for code in codes if f"`{code}`" not in text) == []


def test_the_support_page_is_up_to_date() -> None:
    result = subprocess.run(
        [sys.executable, ROOT / "scripts" / "support-doc", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
