"""``wherry cpu``: what the processors of several hosts have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from migrate.cli.options import print_json
from migrate.cli.ssh_options import ask_person, ssh_options
from migrate.destination import Destination

if TYPE_CHECKING:
    from migrate.remote import Route


@click.group("cpu")
def command() -> None:
    """Compare the processors of hosts."""


@command.command("baseline")
@click.argument("hosts", metavar="[USER@]HOST…", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print the result as a JSON object.")
@ssh_options
def baseline(
    hosts: tuple[str, ...], as_json: bool, route_to: Callable[[Destination], Route]
) -> None:
    """The processor features that this host and all HOSTs have.

    A container can move freely between them if its programs use no others: built for a level
    that is named, for instance, or told so (GLIBC_TUNABLES).
    """
    from migrate.hello import own_hello
    from migrate.remote import talk_to

    own = own_hello()
    found = {own.hostname: set(own.cpu_flags)}
    for text in hosts:
        target = Destination.parse(text)
        with talk_to(route_to(target), ask_person) as far:
            if far.hello.architecture != own.architecture:
                raise click.ClickException(
                    f"{target} is {far.hello.architecture}, this host is {own.architecture}"
                )
            found[str(target)] = set(far.hello.cpu_flags)
    common = set.intersection(*found.values())
    beyond = {host: sorted(flags - common) for host, flags in found.items()}
    if as_json:
        print_json({"baseline": sorted(common), "level": level_of(common), "beyond": beyond})
        return
    click.echo(" ".join(sorted(common)))
    click.echo(f"level: {level_of(common)}")
    for host, flags in beyond.items():
        click.echo(f"{host}: {'nothing' if not flags else ' '.join(flags)} beyond it")


_LEVELS = {
    "x86-64-v2": {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"},
    "x86-64-v3": {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"},
    "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}  # System V ABI, AMD64 supplement, section 3.1.1, in the names of /proc/cpuinfo


def level_of(flags: set[str]) -> str:
    """The highest microarchitecture level that a set of features has."""
    level = "x86-64-v1"
    for name, wanted in _LEVELS.items():
        if not wanted <= flags:
            break
        level = name
    return level
