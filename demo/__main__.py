"""``python -m demo``: sets the stage, has the play played, and leaves nothing behind, whatever happens."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import click
from rich.console import Console
from tests.kit.kedge import KedgeError as KedgeProcessError
from tests.kit.phones import PhonesError
from tests.kit.rtpengine import RtpengineError

from demo.figures import Result
from demo.play import SetupError, StalledError, play
from demo.stage import Stage
from demo.view import View


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--calls", type=click.IntRange(1, 1000), default=20, show_default=True, help="Calls to set up.")
@click.option("--relays", type=click.IntRange(2, 8), default=3, show_default=True, help="rtpengine processes.")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="Save the last picture to this file.")
def main(calls: int, relays: int, svg: Path | None) -> None:
    """Kill, freeze, add and drain media relays under real calls, and show that the calls live on.

    The exit status is 0 only if no call was lost, and 1 otherwise.
    """
    # Children inherit it: Ctrl-C is for the demo alone, which then ends them in order. So it listens to it only once
    # they have been started.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        result = asyncio.run(_run(calls, relays, svg))
    except asyncio.CancelledError:
        click.echo("demo: interrupted", err=True)
        sys.exit(130)
    except (SetupError, StalledError, RtpengineError, KedgeProcessError, PhonesError, OSError) as error:
        click.echo(f"demo: {error}", err=True)
        sys.exit(1)
    sys.exit(0 if result.lost == 0 else 1)


async def _run(calls: int, relays: int, svg: Path | None) -> Result:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None, "asyncio.run makes one"
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    console = Console()
    view = View(console, calls=calls)
    async with Stage(calls=calls, relays=relays) as stage:
        loop.add_signal_handler(signal.SIGINT, task.cancel)
        with view:
            result = await play(stage, view, calls)
            view.end(result)
        if result.lost:
            console.print(stage.kedge.log, markup=False, highlight=False, soft_wrap=True)
            console.print(result.last_line())
    if svg is not None:
        view.save_svg(svg)
    return result


if __name__ == "__main__":
    main()
