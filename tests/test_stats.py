"""Percentiles and costs that benchmarks print are right."""

import subprocess
import sys
import time

import pytest

from bench import machine
from bench.stats import Spread, measured, percentile, table


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(value) for value in range(1, 1_001)]
    spread = Spread.of(reversed(values))
    assert (spread.p50, spread.p90, spread.p99, spread.p999) == (500, 900, 990, 999)
    assert spread.max == 1_000
    assert spread.mean == 500.5
    assert percentile([7.0], 99.9) == 7.0
    assert percentile([1.0, 2.0], 0) == 1.0


def test_nothing_measured_is_no_result() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        Spread.of([])


def test_a_unit_changes_every_number_but_the_count() -> None:
    assert Spread.of([0.5, 1.5]).times(1_000) == Spread.of([500, 1_500])


def test_a_table_aligns_numbers_to_the_right() -> None:
    text = table(["store", "rate"], [["SQLite", 12_345], ["PostgreSQL", 7.5]])
    assert text.splitlines() == [
        "| store      |   rate |",
        "| ---------- | -----: |",
        "| SQLite     | 12,345 |",
        "| PostgreSQL |   7.50 |",
    ]
    assert table(["empty"], []).splitlines() == ["| empty |", "| ----- |"]


def test_the_cpu_of_a_child_is_counted_to_it_alone() -> None:
    code = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        with measured() as mine, measured(child.pid) as theirs:
            assert child.stdout is not None
            child.stdout.readline()
        child.communicate(b"\n")
    assert theirs.cpu_s >= 0.4
    assert mine.cpu_s < theirs.cpu_s
    assert theirs.rss_after > 1_000_000


def test_wall_time_is_no_cpu_time() -> None:
    with measured() as cost:
        time.sleep(0.1)
    assert cost.wall_s >= 0.1
    assert cost.cores < 1


def test_a_machine_is_described_with_its_versions() -> None:
    text = machine.describe("Valkey 9.1")
    for word in ("cpu", "SQLite", "Valkey 9.1", "asyncpg", sys.version.split()[0]):
        assert word in text
    assert "not installed" not in text
