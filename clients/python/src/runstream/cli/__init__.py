"""The command `runstream`."""

from __future__ import annotations

import click

from runstream.cli.exec import exec_command
from runstream.cli.runs import runs
from runstream.cli.server import server_options
from runstream.cli.timeline import timeline
from runstream.cli.trigger import trigger
from runstream.cli.watch import watch


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="runstream")
@server_options
def main() -> None:
    """Follow background jobs as they happen, make them, and run any program as one."""


main.add_command(watch)
main.add_command(timeline)
main.add_command(trigger)
main.add_command(runs)
main.add_command(exec_command)

__all__ = ["main"]
