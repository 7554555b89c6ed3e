"""``python -m benchmarks [NAME ...] [--short]``: measure, then render docs/benchmarks.md."""

from __future__ import annotations

import argparse
import importlib
import sys
import time

from benchmarks.environments import PeerError
from benchmarks.harness import Bench

NAMES = ("ingest", "freshness", "read", "join", "samples", "train", "score", "checkpoint",
         "growth", "loop")  # fmt: skip


def main() -> int:
    """Run what is asked for, one after the other; exit code 1 where one could not end."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all of them: {', '.join(NAMES)}")
    parser.add_argument("--short", action="store_true", help="a quick look: small, one round")
    parser.add_argument("--rounds", type=int, default=0, help="rounds of each side")
    parser.add_argument("--render", action="store_true", help="only write the page anew")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(NAMES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    failed = []
    for name in () if asked.render else asked.names or NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        bench, began = (
            Bench(name, module.TITLE, short=asked.short, rounds=asked.rounds),
            time.time(),
        )
        try:
            module.run(bench)
        except (PeerError, AssertionError) as error:
            failed.append(name)
            print(f"{name}: {error}", file=sys.stderr)
            continue
        bench.say("", f"{time.time() - began:.0f} s; written to {bench.save().name}")
    if not asked.short:
        from benchmarks.render import render

        render(NAMES)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
