"""Several processes that train as one: the paper's 64 chips (section 4) are many hosts, with a process on each.

Every process runs the same program on its own devices, reads its own part of each batch (partition.batch_part) and
writes its own shards of a checkpoint. Everything else that a run writes or tells comes from the first process alone.
"""

import os

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

AUTO = "auto"


class HostsError(ValueError):
    """Processes that are described wrongly."""


def join(hosts: ConfigDict) -> None:
    """Meet the other processes of config.hosts; call it before JAX looks for its devices.

    All but the first one print nothing from here on but warnings and errors: a run has one log.

    Raises:
      HostsError: settings that contradict each other, or no such environment. Where the others do not come in time,
        JAX itself ends the process, and not with exit code 2: a batch system should start it again.
    """
    check(hosts)
    if not hosts.coordinator:
        return
    described = dict(coordinator_address=hosts.coordinator, num_processes=hosts.count, process_id=hosts.index)
    described = {} if hosts.coordinator == AUTO else described
    logging.info("waiting up to %d s for the other processes (%s)", hosts.timeout, hosts.coordinator)
    try:
        jax.distributed.initialize(**described, initialization_timeout=hosts.timeout)
    except ValueError as error:
        raise HostsError(
            "config.hosts.coordinator='auto': JAX finds no TPU pod, Slurm step or cluster here; name HOST:PORT of "
            f"process 0 with .count and .index, or leave it empty for one process ({error})"
        ) from error
    if not is_first():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # stdout, of libraries too
        logging.set_verbosity(logging.WARNING)
    logging.info("joined: %d processes, %d devices, %d here", *_counts())


def _counts() -> tuple[int, int, int]:
    return jax.process_count(), jax.device_count(), jax.local_device_count()


def check(hosts: ConfigDict) -> None:
    """Raises HostsError for settings that contradict each other."""
    told = f"config.hosts.count={hosts.count} and .index={hosts.index}"
    named = hosts.coordinator not in ("", AUTO)
    if not named and (hosts.count, hosts.index) != (1, 0):
        raise HostsError(f"{told} need config.hosts.coordinator=HOST:PORT, an address of process 0")
    if named and not 0 <= hosts.index < hosts.count:
        raise HostsError(f"{told}: the processes count from 0 to count - 1")
    if named and not hosts.coordinator.rpartition(":")[2].isdigit():
        raise HostsError(f"config.hosts.coordinator={hosts.coordinator!r}: give HOST:PORT, 'auto', or nothing")


def is_first() -> bool:
    """Whether this process is the one that writes and tells; True where there is no other."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def agreed(value: bool) -> bool:
    """What the first process says, in all of them: a folder may be there for one and not yet for another."""
    return bool(multihost_utils.broadcast_one_to_all(value)) if jax.distributed.is_initialized() else value


def whole(array: jax.Array) -> np.ndarray:
    """All of an array that may lie on several hosts; every process must ask for it."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)
