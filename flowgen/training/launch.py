"""Starting the ranks of a run: through torch's elastic agent, which ends every rank when one dies."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flowgen.environment import mark_launcher
from flowgen.errors import FlowgenError, UsageError
from flowgen.training.engine import free_port

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@dataclass(frozen=True)
class Launch:
    """What runs where: `gpus` ranks on each of `nodes` hosts, of which this is number `node_rank`."""

    gpus: int
    nodes: int = 1
    node_rank: int = 0
    master: str = ""
    """host:port at which the nodes meet, the first host's; on one node a free port of this machine."""

    def __post_init__(self) -> None:
        if not 0 <= self.node_rank < self.nodes:
            raise UsageError(
                f"--node-rank must lie from 0 to {self.nodes - 1} (--nodes {self.nodes}), got {self.node_rank}"
            )
        if self.nodes > 1 and not self.master:
            raise UsageError("several nodes need --master HOST:PORT, the address of node 0 as the others reach it")
        if self.master and not self.master.rpartition(":")[2].isdigit():
            raise UsageError(f"--master takes HOST:PORT, as in gpu01:29500, got {self.master!r}")

    def torchrun(self, node: int, command: Sequence[str]) -> list[str]:
        """The equivalent torchrun call on a node."""
        where = ["--nnodes", str(self.nodes), "--nproc-per-node", str(self.gpus)]
        if self.master:
            host, _, port = self.master.rpartition(":")
            where += ["--node-rank", str(node), "--master-addr", host, "--master-port", port]
        else:
            where += ["--standalone"]
        return ["torchrun", *where, "-m", "flowgen", *command]

    def plan(self, command: Sequence[str]) -> list[str]:
        """One line for each node: what would be run on it."""
        names = [self.master.rpartition(":")[0] or socket.gethostname(), *[f"node {i}" for i in range(1, self.nodes)]]
        first, ranks = 0, []
        for name in names:
            ranks.append(f"{name} (ranks {first} to {first + self.gpus - 1}): ")
            first += self.gpus
        return [place + shlex.join(self.torchrun(i, command)) for i, place in enumerate(ranks)]


def launch(plan: Launch, command: Sequence[str], *, timeout_s: float = 600.0) -> None:
    """Run `flowgen COMMAND` as the ranks of this node, until all have ended.

    SIGINT, SIGTERM and SIGUSR1 are passed on to the ranks, which finish their step and save; where this process is
    killed, they end. FlowgenError names the rank
    that failed; the others have been ended by then.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    host, _, port = (plan.master or f"127.0.0.1:{free_port()}").rpartition(":")
    config = LaunchConfig(
        min_nodes=plan.nodes,
        max_nodes=plan.nodes,
        nproc_per_node=plan.gpus,
        run_id="flowgen",
        rdzv_backend="static",
        rdzv_endpoint=f"{host}:{port}",
        rdzv_configs={"rank": plan.node_rank, "timeout": timeout_s},
        max_restarts=0,
        monitor_interval=0.2,
        # the agent itself is not to be interrupted: the ranks are, and it returns when they have saved
        signals_to_handle="SIGQUIT",
        local_addr=host if plan.nodes == 1 else None,
    )
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    mark_launcher(os.environ)
    try:
        with _passing_on():
            elastic_launch(config, sys.executable)("-m", "flowgen", *command)
    except ChildFailedError as error:
        raise FlowgenError(_sentence(error.failures)) from None


@contextlib.contextmanager
def _passing_on() -> Iterator[None]:
    """Signals to this process reach the ranks, its children."""
    import psutil

    def hand(number: int, frame: Any) -> None:
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(number)

    before = {number: signal.signal(number, hand) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _sentence(failures: dict[int, Any]) -> str:
    """Which rank began it: one that a signal ended, rather than those that then missed it."""
    killed = [f for f in failures.values() if f.exitcode < 0 and f.exitcode != -signal.SIGTERM]
    first = min(killed or failures.values(), key=lambda f: f.timestamp)
    rank = next(rank for rank, failure in failures.items() if failure is first)
    if first.exitcode < 0:
        how = f"was ended by {signal.Signals(-first.exitcode).name}"
    else:
        how = f"failed with exit code {first.exitcode}; its message stands above"
    return (
        f"rank {rank} (process {first.pid} on {socket.gethostname()}) {how}; the other ranks of this node were ended. "
        f"Go on from the newest checkpoint with --resume"
    )
