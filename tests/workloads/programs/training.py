"""A neural network learns with numpy: ``training.py DIRECTORY [STEPS]``.

The loss after each step goes to ``losses``, every bit of it. OpenBLAS multiplies with its own
threads. With STEPS that many steps are made, otherwise as many as there is time for.
"""

from __future__ import annotations

import os
import sys

os.environ["OPENBLAS_NUM_THREADS"] = "2"

import conduct
import numpy as np

BATCH, INPUTS, HIDDEN, OUTPUTS = 256, 96, 320, 10


def main() -> None:
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else None
    dice = np.random.default_rng(1)
    x = dice.standard_normal((BATCH * 8, INPUTS), dtype=np.float32)
    target = np.tanh(x @ dice.standard_normal((INPUTS, OUTPUTS), dtype=np.float32))
    weights = [
        dice.standard_normal(shape, dtype=np.float32) * np.float32(0.08)
        for shape in ((INPUTS, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, OUTPUTS))
    ]
    moments = [np.zeros_like(w) for w in weights]
    step = 0
    with open(conduct.directory / "losses", "w", buffering=1) as losses:
        while not conduct.stopping() if steps is None else step < steps:
            rows = dice.integers(0, len(x), BATCH)
            loss = learn(x[rows], target[rows], weights, moments)
            losses.write(f"{loss.hex()}\n")
            step += 1
            if step == 3:
                conduct.ready()
    conduct.done(f"{step} steps")


def learn(
    x: np.ndarray, target: np.ndarray, weights: list[np.ndarray], moments: list[np.ndarray]
) -> float:
    """One step with momentum; returns the loss before it."""
    values = [x]
    for w in weights[:-1]:
        values.append(np.maximum(values[-1] @ w, 0))
    error = values[-1] @ weights[-1] - target
    slope = error / np.float32(len(x))
    for n in range(len(weights) - 1, -1, -1):
        gradient = values[n].T @ slope
        if n:
            slope = (slope @ weights[n].T) * (values[n] > 0)
        moments[n] *= np.float32(0.9)
        moments[n] += gradient
        weights[n] -= np.float32(0.01) * moments[n]
    return float(np.mean(np.square(error, dtype=np.float64)))


main()
