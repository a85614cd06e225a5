"""The command: makes the subjects, then one mutant after another, and says what became of them."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from formats.index import ImageIndex
from formats.statefile import open_image
from migrate.cli.image_report import read_report
from runtime.restore_container import plan_restore
from scripts.benchmark.tool import Tool
from scripts.fuzzing.judge import Verdict, judge
from scripts.fuzzing.mutations import Mutant, accident, forgery
from scripts.fuzzing.restores import escaped, restorable, restore
from scripts.fuzzing.stores import mutate_store, use_store
from scripts.fuzzing.subjects import (
    StoreSubject,
    Subject,
    digest_of_contents,
    make_store,
    real_image,
)

_STORE_SHARE = 0.45
_NOTE_EVERY_S = 20.0


@dataclass
class Outcome:
    """What became of all mutants.

    Attributes:
        counts: By place (image, store, …) and verdict.
        reasons: How often each reason code was given.
        findings: What must not be.
        peak_bytes: The largest process.
        slowest_s: The longest that one mutant took.
    """

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    peak_bytes: int = 0
    slowest_s: float = 0.0

    def add(self, place: str, number: int, what: str, verdict: Verdict, seconds: float) -> None:
        """Take in one mutant."""
        self.counts[place, verdict.kind] += 1
        self.peak_bytes = max(self.peak_bytes, verdict.peak_bytes)
        self.slowest_s = max(self.slowest_s, seconds)
        if verdict.kind == "refused" and verdict.said.startswith("["):
            self.reasons[verdict.said[1:].partition("]")[0]] += 1
        if not verdict.fine:
            self.findings.append(f"#{number} {place}: {what}: {verdict.kind}: {verdict.said}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 1 when there was a finding."""
    options = _options(argv)
    began = last = time.monotonic()
    outcome = Outcome()
    scratch = Path(tempfile.mkdtemp(prefix="wherry-fuzz-"))
    try:
        root = scratch / "root"
        root.mkdir(mode=0o711)
        tool = Tool(root)
        with real_image(tool, scratch) as subject:
            stores = [
                make_store(scratch / "plain", subject, encrypted=False),
                make_store(scratch / "sealed", subject, encrypted=True),
            ]
            for number in options.only or range(options.count):
                one = time.monotonic()
                place, what, verdict = _one(tool, scratch, subject, stores, number, options)
                outcome.add(place, number, what, verdict, time.monotonic() - one)
                if not verdict.fine or options.verbose:
                    print(f"#{number} {place}: {what}: {verdict.kind}: {verdict.said}", flush=True)
                if time.monotonic() - last > _NOTE_EVERY_S:
                    last = time.monotonic()
                    print(f"{number + 1} of {options.count}", file=sys.stderr, flush=True)
            found = escaped(scratch, Path("/proc"), Path("/sys"))
            outcome.findings += [f"outside of its place: {path}" for path in found]
    finally:
        shutil.rmtree(scratch)
    _report(options, outcome, time.monotonic() - began)
    return 1 if outcome.findings else 0


def _one(
    tool: Tool,
    scratch: Path,
    subject: Subject,
    stores: list[StoreSubject],
    number: int,
    options: argparse.Namespace,
) -> tuple[str, str, Verdict]:
    """Make the mutant of this number, always the same one of a seed, and let it be read."""
    dice = random.Random(f"{options.seed} {number}")
    share = dice.random()
    if share < options.restores:
        mutant = restorable(dice, subject.image)
        return "restore", mutant.what, restore(tool, scratch, mutant)
    if share < options.restores + _STORE_SHARE:
        store = dice.choice(stores)
        path = scratch / "mutant"
        what, forged = mutate_store(dice, store, subject.small, path)
        try:
            verdict = judge(lambda: use_store(path, store, forged))
        finally:
            shutil.rmtree(path)
        return f"{store.path.name} store", what, verdict
    make = forgery if dice.random() < 0.6 else None
    mutant = make(dice, subject.small) if make else accident(dice, subject.small.data)
    path = scratch / "mutant.wherry"
    path.write_bytes(mutant.data)
    verdict = judge(lambda: _use_image(path, mutant, subject))
    return "image", mutant.what, verdict


def _use_image(path: Path, mutant: Mutant, subject: Subject) -> str | None:
    """Do with an image what people do, but for restoring it; the first refusal rises at the end."""
    from formats.errors import WherryError

    refusal: WherryError | None = None
    digest = None
    for step in (_list_index, read_report, lambda path: plan_restore(path, None, "fuzzed")):
        try:
            step(path)
        except WherryError as exc:
            refusal = exc
    try:
        digest = digest_of_contents(mutant.data)
    except WherryError as exc:
        refusal = exc
    if digest not in (None, subject.small_digest) and not mutant.forged:
        return "it reads as another image"
    if refusal is not None:
        raise refusal
    return None


def _list_index(path: Path) -> None:
    with open_image(path) as source:
        for _ in ImageIndex(source).for_each_entry():
            pass


def _report(options: argparse.Namespace, outcome: Outcome, seconds: float) -> None:
    places = sorted({place for place, _ in outcome.counts})
    kinds = ["refused", "read", "wrong", "crash", "hang", "memory"]
    print(f"{'':14}" + "".join(f"{kind:>9}" for kind in kinds))
    for place in places:
        print(f"{place:14}" + "".join(f"{outcome.counts[place, kind]:>9}" for kind in kinds))
    print(
        f"{sum(outcome.counts.values())} mutants of seed {options.seed} in {seconds:.0f} s; peak "
        f"{outcome.peak_bytes / 2**20:.0f} MiB; the slowest took {outcome.slowest_s:.1f} s; "
        f"{len(outcome.findings)} findings"
    )
    if options.json:
        document = {
            "seed": options.seed,
            "seconds": seconds,
            "counts": {f"{place}/{kind}": n for (place, kind), n in outcome.counts.items()},
            "reasons": dict(outcome.reasons.most_common()),
            "peak_bytes": outcome.peak_bytes,
            "slowest_s": outcome.slowest_s,
            "findings": outcome.findings,
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("fuzz-images", description=__doc__)
    parser.add_argument("--count", type=int, default=5000, help="mutants [5000]")
    parser.add_argument("--seed", type=int, default=1, help="another seed, other mutants [1]")
    parser.add_argument(
        "--restores", type=float, default=0.03, help="share that is really restored [0.03]"
    )
    parser.add_argument("--only", type=int, nargs="+", help="the mutants of these numbers alone")
    parser.add_argument("--verbose", action="store_true", help="say what became of each")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
