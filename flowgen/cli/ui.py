"""flowgen ui"""

from __future__ import annotations

import os
import webbrowser
from pathlib import Path
from typing import Any

import click

from flowgen.cli.options import File, Number


@click.command()
@click.argument("runs", nargs=-1, required=True, type=File(), metavar="RUN...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=7860, show_default=True, help="0 takes a free one.")
@click.option("--token-file", type=File(), help="A file that holds the password; needed beyond this machine.")
@click.option("--jobs", "folder", type=File(), default=None, help="Where what is made is kept (default: runs/ui).")
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    type=File(),
    metavar="PATH",
    help="One that may be put on a run; repeat for more.",
)
@click.option("--memory", type=Number(min=0, min_open=True), default=8.0, show_default=True, help="GB for runs.")
@click.option("--device", metavar="NAME", help="Where to sample; the first GPU where there is one.")
@click.option("--no-open", is_flag=True, help="Do not open a browser.")
def ui(
    runs: tuple[Path, ...], host: str, port: int, token_file: Path | None, folder: Path | None, **options: Any
) -> None:
    """Sample, compare and vote on a page in the browser.

    A tab for each run, with a form made of its own conditions. What is made stays in the folder of --jobs, with its
    settings. Stop with Ctrl-C.

    \b
    Examples:
      flowgen ui runs/notes
      flowgen ui runs/notes runs/moving-digits --port 8080
      flowgen ui runs/notes --host 0.0.0.0 --token-file token.txt   # user: flowgen
    """
    from flowgen.cli.serve import named, token_of
    from flowgen.errors import UsageError

    folders, token = named(runs), token_of(token_file)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        from flowgen.serving.gate import check_open
        from flowgen.serving.listening import listen
        from flowgen.ui.page import make_app
    except ImportError as error:
        raise UsageError(f"flowgen ui needs {error.name}; install it with: pip install 'flowgen[ui]'") from None
    from flowgen.serving.jobs import Jobs
    from flowgen.serving.loaded import Loaded
    from flowgen.serving.sampler import Sampler

    check_open(host, token)
    loaded = Loaded(folders, options["memory"] * 1e9, options["device"], named(options["adapters"], "adapters"))
    sampler = Sampler(Jobs(folder or Path("runs/ui")), loaded)

    def ready(url: str) -> None:
        click.echo(f"flowgen: {url} shows {', '.join(folders)}; stop with Ctrl-C", err=True)
        if not options["no_open"]:
            webbrowser.open(url)

    listen(make_app(sampler, token), host, port, ready)
