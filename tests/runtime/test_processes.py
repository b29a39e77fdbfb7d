"""How the processes of a run find each other."""

from datetime import timedelta

import pytest
from torch.distributed import HashStore

from pymultiling.runtime.processes import _new_prefix_store


def test_processes_that_do_not_start_are_counted_without_those_of_an_earlier_start():
    """After a restart the store still has the requests of the earlier processes, which here are five."""
    store = HashStore()
    store.set_timeout(timedelta(milliseconds=50))
    store.add("pymultiling-asked", 5)
    with pytest.raises(RuntimeError, match="only 0 of 3 other processes have started"):
        _new_prefix_store(store, 0, 4)
