"""What applications and stores are tested with: a clock to set, stores that count and wait, logged-in clients.

`coatcheck.testing.conformance` is the kit that every store must pass.
"""

from coatcheck.testing.clients import log_in
from coatcheck.testing.clock import ManualClock
from coatcheck.testing.stores import CountingStore, Gate, GatedStore

__all__ = ["CountingStore", "Gate", "GatedStore", "ManualClock", "log_in"]
