"""flowgen ui"""

from __future__ import annotations

import os
import webbrowser
from pathlib import Path
from typing import Any

import click

from flowgen.cli.options import server_options


@click.command()
@server_options(7860, "runs/ui")
@click.option("--no-open", is_flag=True, help="Do not open a browser.")
def ui(runs: tuple[Path, ...], host: str, port: int, token_file: Path | None, folder: Path, **options: Any) -> None:
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
    sampler = Sampler(Jobs(folder), loaded)

    def ready(url: str) -> None:
        click.echo(f"flowgen: {url} shows {', '.join(folders)}; stop with Ctrl-C", err=True)
        if not options["no_open"]:
            webbrowser.open(url)

    listen(make_app(sampler, token), host, port, ready)
