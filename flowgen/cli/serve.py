"""flowgen serve"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowgen.cli.options import Number, server_options

if TYPE_CHECKING:
    from flowgen.serving.jobs import Store


@click.command()
@server_options(8000, "runs/serve")
@click.option("--queue", type=click.IntRange(1, 1_000_000), default=256, show_default=True, help="Jobs that may wait.")
@click.option("--redis", metavar="URL", help="Share the jobs with other servers through this Redis.")
@click.option("--keep", type=click.IntRange(1, 10_000_000), help="Ended jobs that stay (default 1000).")
@click.option("--batch", type=click.IntRange(1, 4096), default=64, show_default=True, help="Clips made together.")
@click.option("--upload", type=Number(min=0, max=100_000, min_open=True), default=64.0, show_default=True, help="MB.")
@click.option("--patience", type=Number(min=0, max=86_400), default=30.0, show_default=True, help="Seconds, on stop.")
def serve(runs: tuple[Path, ...], host: str, port: int, token_file: Path | None, **options: Any) -> None:
    """Sample from trained runs over HTTP: jobs in a queue, those that agree in shape made together.

    A run has the name of its folder. Jobs and their files survive a restart. Only this machine may ask, unless there is a
    token. Stop with Ctrl-C or SIGTERM: what is being sampled is finished, or made after the next start.

    \b
    Examples:
      flowgen serve runs/notes
      flowgen serve runs/notes --redis redis://queue:6379/0 --jobs /tmp/flowgen
      flowgen serve runs/notes runs/moving-digits --host 0.0.0.0 --token-file token.txt
      curl -d '{"conditions": {"pitch": "C4"}}' -H 'Content-Type: application/json' localhost:8000/v1/generations
      flowgen sample http://localhost:8000/notes -c pitch=C4 -o c4.wav
    """
    from flowgen.errors import UsageError

    folders, token = named(runs), token_of(token_file)
    try:
        from flowgen.serving.app import Limits, make_app
        from flowgen.serving.gate import check_open
        from flowgen.serving.listening import listen
    except ImportError as error:
        raise UsageError(f"flowgen serve needs {error.name}; install it with: pip install 'flowgen[serve]'") from None
    from flowgen.serving.loaded import Loaded
    from flowgen.serving.sampler import Sampler

    check_open(host, token)
    loaded = Loaded(folders, options["memory"] * 1e9, options["device"], named(options["adapters"], "adapters"))
    for name in folders:
        loaded.get(name)  # what cannot be loaded is said now
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    jobs = _store(options["folder"], options["keep"], options["redis"])
    sampler = Sampler(jobs, loaded, options["batch"])
    limits = Limits(options["queue"], options["upload"], options["patience"])
    app = make_app(jobs, loaded, sampler, limits, token)
    listen(app, host, port, lambda url: click.echo(f"flowgen: {url} serves {', '.join(folders)}", err=True))


def _store(folder: Path, keep: int | None, url: str | None) -> Store:
    """UsageError: the Redis cannot be reached, or its client is not installed."""
    from flowgen.errors import UsageError
    from flowgen.serving.jobs import Jobs

    if url is None:
        return Jobs(folder, 1000 if keep is None else keep)
    if keep is not None:
        raise UsageError("--keep is for jobs of this server alone; those of --redis are kept for a day: leave it out")
    try:
        from flowgen.serving.shared import SharedJobs
    except ImportError:
        raise UsageError("--redis needs the library redis; install it with: pip install 'flowgen[redis]'") from None
    return SharedJobs(folder, url)


def named(paths: Sequence[Path], what: str = "runs") -> dict[str, Path]:
    """Runs or adapters by the names of their folders. UsageError: two have the same."""
    from flowgen.errors import UsageError

    places = {path.resolve().stem if path.is_file() else path.resolve().name: path for path in paths}
    if len(places) < len(paths):
        raise UsageError(f"two {what} have the same name, by which they are told apart; rename one")
    return places


def token_of(path: Path | None) -> str | None:
    """UsageError: the file holds no token, or a weak one."""
    from flowgen.errors import UsageError
    from flowgen.files import read_small

    if path is None:
        return None
    token = read_small(path, 10_000).strip()
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(f"{path}: a token has 16 printable characters at the least, without spaces")
    return token
