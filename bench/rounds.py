"""Times several things side by side: many short rounds, each in random order. Leaves what the times mean to `statistics`.

A machine's speed drifts by more than what is to be told apart here. Within a round of about a millisecond it hardly does,
so each round gives one sample of every contender, and only samples of the same round are compared.
"""

import asyncio
import gc
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter_ns

__all__ = ["Block", "collector", "measure", "sizes"]

Block = Callable[[int], Awaitable[None]]
"""Runs so many requests, one after the other."""


async def sizes(blocks: Mapping[str, Block], *, seconds: float, most: int) -> dict[str, int]:
    """Give for each block as many requests as take about so long, and at most so many.

    For contenders that differ by hundreds of times: with as many requests for each, the quick ones would spend most of
    their blocks on finding the processor's caches as the slow ones have left them.
    """
    found: dict[str, int] = {}
    for name, block in blocks.items():
        await block(2)
        began = perf_counter_ns()
        await block(3)
        found[name] = max(1, min(most, int(seconds * 3e9 / (perf_counter_ns() - began))))
    return found


async def measure(
    blocks: Mapping[str, Block], *, rounds: int, size: int | Mapping[str, int], seed: int
) -> dict[str, list[float]]:
    """Give, for each block, its microseconds per request in each round. A tenth of the rounds more is run first, to warm up.

    `size`: how many requests a block has, all the same or by their names.
    """
    draw = random.Random(seed)
    names = list(blocks)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-max(1, rounds // 10), rounds):
        draw.shuffle(names)
        for name in names:
            block = blocks[name]
            count = size if isinstance(size, int) else size[name]
            began = perf_counter_ns()
            await block(count)
            spent = perf_counter_ns() - began
            if number >= 0:
                samples[name].append(spent / count / 1000)
            # What runs in the background (the feed, last-seen times) has its turn here, as between real requests.
            await asyncio.sleep(0)
    return samples


@contextmanager
def collector(*, on: bool) -> Iterator[None]:
    """Switch the garbage collector off while it is timed, or freeze what exists out of it and leave it on.

    No contender leaves garbage that needs it. Left on, it runs by its count of allocations, which for one contender
    always falls into its own blocks and for another never: then a collection of everything else is charged to the one.
    """
    gc.collect()
    gc.freeze()
    if not on:
        gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
