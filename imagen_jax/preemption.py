"""A run that is told to stop, by a batch system (SIGTERM) or by Ctrl-C (SIGINT), ends its step, saves, and says so.

Where several processes train together they must save the same step: there the notice that any one of them gets goes
through the preemption service of jax.distributed, which chooses the step. The paper's 64 chips (section 4) are many
hosts, and cheap ones are taken away at half a minute's notice.
"""

import os
import signal

import jax
from jax.experimental import multihost_utils

# "Temporary failure, try again": neither success, after which a batch system would start nothing more, nor the 143 of
# a process that SIGTERM ended before it could save.
EXIT_CODE = os.EX_TEMPFAIL


class Stopped(Exception):
    """Training ended early because it was told to; its state is saved, and the same command goes on from there."""


class StopSignals:
    """Context in which SIGTERM and SIGINT end nothing, but make `reached` true; only for the main thread.

    A second SIGINT ends the process at once: the user waits for it. More SIGTERMs change nothing: SIGKILL will follow.
    """

    def __init__(self):
        self._told = False
        self._shared = jax.distributed.is_initialized()
        self._before = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGINT,) if self._shared else (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def reached(self, step: int) -> bool:
        """Whether to save and stop after `step`: ask after every step, in every process."""
        return multihost_utils.reached_preemption_sync_point(step) if self._shared else self._told

    def _note(self, number: int, _) -> None:
        if self._shared:
            os.kill(os.getpid(), signal.SIGTERM)  # the service's own signal
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
        again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
        line = f"{signal.Signals(number).name}: this step ends and is saved{again}\n"
        os.write(2, line.encode())  # print() may be what was interrupted
        self._told = True
