"""What surrounds this process: plugins that are left out, and the process that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import MutableMapping

_LAUNCHER = "FLOWGEN_LAUNCHER"
_OF_LAUNCHERS = {"TORCHELASTIC_RUN_ID", "CROSS_RANK"}
"""Set by torchrun and `flowgen train --gpus`, and by the DeepSpeed launcher."""
_PR_SET_PDEATHSIG = 1
"""prctl(2)"""


def disabled_plugins() -> set[str]:
    """The names that FLOWGEN_DISABLE="a,b" leaves out."""
    return {name.strip() for name in os.environ.get("FLOWGEN_DISABLE", "").split(",")} - {""}


def mark_launcher(environment: MutableMapping[str, str]) -> None:
    """Tell the ranks that this process will start who started them."""
    environment[_LAUNCHER] = str(os.getpid())


def end_with_launcher() -> None:
    """Where this process is a rank that a launcher of this machine started: end when the launcher is gone.

    Without its launcher nobody would end a rank whose neighbours are lost, and it would go on writing a run that has
    been resumed elsewhere.
    """
    if _OF_LAUNCHERS & os.environ.keys():
        end_with_parent(int(os.environ.pop(_LAUNCHER, 0)) or os.getppid())


def end_with_parent(parent: int) -> None:
    """SIGKILL this process when its parent ends, however that ends: by the kernel on Linux, elsewhere within a second."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGKILL)

    if os.getppid() != parent:  # it ended before it could be asked for
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=watch, daemon=True, name="flowgen launcher").start()
