"""The arithmetic of what waits, against a page by page model."""

from __future__ import annotations

import itertools
import random

from runtime.engine.lazy.pending import Part, Pending

PAGES = 60


def model_of(pending: Pending) -> dict[int, int]:
    """Page to page of the source."""
    return {
        page: part.source + page - part.start
        for part in pending
        for page in range(part.start, part.end)
    }


def test_does_what_a_model_does() -> None:
    dice = random.Random(7)
    for _ in range(300):
        pending = Pending([Part(2, 9, 2), Part(12, 13, 12), Part(20, 41, 20), Part(41, 55, 41)])
        model = model_of(pending)
        for _ in range(30):
            start = dice.randrange(PAGES)
            end = start + dice.randrange(1, 20)
            match dice.randrange(3):
                case 0:
                    removed = pending.remove(start, end)
                    for page in range(start, end):
                        model.pop(page, None)
                    assert all(start <= part.start < part.end <= end for part in removed)
                case 1:
                    to = dice.choice([start + 100, end + 3, start + 1000])
                    pending.move(start, to, end - start)
                    moved = {p: model.pop(p) for p in range(start, end) if p in model}
                    for page in range(to, to + end - start):
                        model.pop(page, None)
                    model |= {page - start + to: source for page, source in moved.items()}
                case _:
                    pending = pending.copy()
            assert model_of(pending) == model
            parts = list(pending)
            assert all(a.end <= b.start for a, b in itertools.pairwise(parts))
            assert bool(pending) == bool(model)
            within = {p for part in pending.within(start, end) for p in range(*part[:2])}
            assert within == {page for page in model if start <= page < end}
            wanted = {p for part in pending.of_source(start, end) for p in range(*part[:2])}
            assert wanted == {page for page, source in model.items() if start <= source < end}
            after = pending.after(start)
            later = [page for page in model if page >= start]
            assert (after.start if after else None) == (min(later) if later else None)
