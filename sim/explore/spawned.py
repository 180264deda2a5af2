"""How a process of our own begins. A forked one has everything; a spawned one has nothing yet, and must take the compiled modules
before anything is imported that would bring the others: so this module imports none of the simulator, and the request
comes as bytes.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

from sim import native

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event


def begin(stop: Event, compiled: bool, request: bytes) -> None:
    """Set a process up for batches. `compiled`: whether its parent runs compiled modules; `request`: pickled."""
    if compiled:
        native.use()
    from sim.explore import worker

    worker.begin(stop, pickle.loads(request))
