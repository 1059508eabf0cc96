"""`python -m runstream.cli`, where the command is not on the path."""

from runstream.cli import main

main(prog_name="runstream")
