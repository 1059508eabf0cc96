"""Runs as lines of a terminal.

`table` draws many runs, `run` one, `batch` how far a batch is, `job_run` the steps of a job run;
`parts` has what they share, with the first line above each of them.
"""
