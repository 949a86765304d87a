"""Medians and how far to trust them. Pure; leaves to `rounds` how the samples come about."""

import math
import random
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

__all__ = ["Estimate", "differences", "estimate", "ratios"]

_RESAMPLES = 1000
_BLOCK = 20


class Estimate(NamedTuple):
    """A median, and the bounds of its 95 % interval."""

    median: float
    low: float
    high: float


def estimate(samples: Sequence[float], *, seed: int = 1) -> Estimate:
    """Give the samples' median with its 95 % bootstrap interval (percentile method).

    Neighbouring rounds share the machine's mood, so blocks of them are drawn and not single rounds (Künsch 1989: the
    moving block bootstrap): intervals would come out too narrow otherwise.
    """
    draw = random.Random(seed)
    count = len(samples)
    block = max(1, min(_BLOCK, count // 10))
    starts = range(count - block + 1)
    medians: list[float] = []
    for _ in range(_RESAMPLES):
        drawn: list[float] = []
        for start in draw.choices(starts, k=-(-count // block)):
            drawn += samples[start : start + block]
        medians.append(median(drawn))
    medians.sort()
    return Estimate(median(samples), medians[int(0.025 * _RESAMPLES)], medians[int(0.975 * _RESAMPLES)])


def differences(of: Sequence[float], bare: Sequence[float]) -> list[float]:
    """Give what each round cost over the bare application in the same round."""
    return [one - base for one, base in zip(of, bare, strict=True)]


def ratios(of: Sequence[float], to: Sequence[float], bare: Sequence[float]) -> list[float]:
    """Give, round by round, what one costs over the bare application in shares of what the other costs over it.

    A round so disturbed that the other seems to cost nothing counts as the worst for the one.
    """
    return [
        (one - base) / (other - base) if other > base else math.inf
        for one, other, base in zip(of, to, bare, strict=True)
    ]
