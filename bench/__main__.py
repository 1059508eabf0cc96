"""`python -m bench [--short] [all | name…]`: runs the benchmarks, all or those named, one by one.

A benchmark is a module `bench/bench_<name>.py` with a `main() -> None`, which raises if a change
was lost and prints its numbers otherwise. One that takes minutes also has a `short() -> None`,
with fewer rounds or readers, for `--short`.
"""

import importlib
import sys
import traceback
from pathlib import Path

from bench import machine


def main(wanted: list[str]) -> int:
    is_short = "--short" in wanted
    wanted = [name for name in wanted if name not in ("--short", "all")]
    known = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
    if unknown := set(wanted) - set(known):
        print(f"no such benchmark: {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
        return 2
    print(machine.describe(), flush=True)
    failed = []
    for name in wanted or known:
        print(f"\n## {name}\n", flush=True)
        try:
            module = importlib.import_module(f"bench.bench_{name}")
            (getattr(module, "short", module.main) if is_short else module.main)()
        except Exception:
            traceback.print_exc()
            failed.append(name)
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return 1 if failed else 0


FOLDER = Path(__file__).parent

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
