"""`python -m bench [--short] [all | name…]`: runs the benchmarks, all or those named, one by one.

A benchmark is a module `bench/bench_<name>.py` with a `main()`, which raises if a change was lost
and prints its numbers otherwise. One that takes minutes also has a `short()`, with fewer rounds or
readers, for `--short`. One that has a picture returns what it found, which is kept as
`bench/results/<name>.json` and drawn as `docs/images/bench-<name>.svg`.

`python -m bench plots` draws all pictures again, of the results that are kept.
"""

import importlib
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path

from bench import machine, plots
from bench.result import Found, Result, keep, read


def main(wanted: list[str]) -> int:
    is_short = "--short" in wanted
    wanted = [name for name in wanted if name not in ("--short", "all")]
    if wanted == ["plots"]:
        for path in plots.draw_all():
            print(f"drawn: docs/images/{path.name}")
        return 0
    known = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
    if unknown := set(wanted) - set(known):
        print(f"no such benchmark: {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
        return 2
    print(machine.describe(), flush=True)
    failed = []
    for name in wanted or known:
        print(f"\n## {name}\n", flush=True)
        load = machine.facts()["load"]
        try:
            module = importlib.import_module(f"bench.bench_{name}")
            found = (getattr(module, "short", module.main) if is_short else module.main)()
            if found is not None:
                keep_and_draw(name, found, load)
        except Exception:
            traceback.print_exc()
            failed.append(name)
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return 1 if failed else 0


def keep_and_draw(name: str, found: Found, load: str) -> None:
    """`load` is from before the benchmark, whose own says nothing."""
    on = machine.facts(*found.servers) | {"load": load}
    today = datetime.now(UTC).date().isoformat()
    result = Result(name, today, on, found.about, list(found.rows))
    kept = keep(result)
    drawn = plots.draw(read(kept))
    print(f"\nkept as bench/results/{kept.name}, drawn as docs/images/{drawn.name}")


FOLDER = Path(__file__).parent

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
