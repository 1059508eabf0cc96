"""`python -m bench [name…]`: runs the benchmarks, all or those named, one after the other.

A benchmark is a module `bench/bench_<name>.py` with a `main() -> None`, which raises if a change
was lost and prints its numbers otherwise.
"""

import importlib
import sys
import traceback
from pathlib import Path

from bench import machine


def main(wanted: list[str]) -> int:
    known = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
    if unknown := set(wanted) - set(known):
        print(f"no such benchmark: {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
        return 2
    print(machine.describe(), flush=True)
    failed = []
    for name in wanted or known:
        print(f"\n## {name}\n", flush=True)
        try:
            importlib.import_module(f"bench.bench_{name}").main()
        except Exception:
            traceback.print_exc()
            failed.append(name)
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return 1 if failed else 0


FOLDER = Path(__file__).parent

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
