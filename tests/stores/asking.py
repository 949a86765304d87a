"""What it costs to ask a change stream whether it has something to tell: every warm request asks."""

import time

from coatcheck.stores.contract import ChangeStream

__all__ = ["calls_that_asking_costs"]


class _Nothing:
    def behind(self) -> bool:
        return False


def calls_that_asking_costs(stream: ChangeStream) -> float:
    """In calls of a method that does nothing, which are timed beside it: load and tracing slow both."""
    best = dict.fromkeys((stream.behind, _Nothing().behind), 1.0)
    for _ in range(50):
        for call in best:
            begun = time.perf_counter()
            for _ in range(500):
                call()
            best[call] = min(best[call], time.perf_counter() - begun)
    asking, calling = best.values()
    return asking / calling
