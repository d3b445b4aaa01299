"""`python -m benchmarks [NAME ...] [--long | --gpu] [--out FILE.json]`: run the benchmarks, all or those named, print a table, keep it as JSON."""
import argparse
import importlib
from pathlib import Path

import torch

from benchmarks.core import machine
from motion_vq.core import write_json

NAMES = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))


def duration(seconds):
    "A time in the unit that suits it."
    if seconds is None or seconds != seconds: return "-"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.2f} ms"


def table(rows):
    "The rows as text, notes below."
    cells = [("", "ours", "reference", "ratio", "target", "write", "peak")]
    for r in rows:
        ratio = "-" if r["ratio"] != r["ratio"] else f"{r['ratio']:,.1f}"
        peak = f"{r['peak_bytes'] / 2**20:.1f} MiB" if "peak_bytes" in r else ""
        cells.append((r["name"], duration(r["ours_s"]), duration(r["reference_s"]), ratio, r["target"],
                      duration(r["write_s"]) if "write_s" in r else "", peak))
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ["  ".join(c.ljust(w) if i in (0, 4) else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))).rstrip() for line in cells]
    return "\n".join(lines + [""] + [f"{r['name']}: {r['note']}" for r in rows if r["note"]])


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; none means all")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--long", action="store_true", help="the rows that take minutes, too")
    which.add_argument("--gpu", action="store_true", help="the rows of a graphics card, and no others")
    parser.add_argument("--out", help="where to write the figures (default: _runs/benchmarks.json, with --gpu _runs/benchmarks-gpu.json)")
    args = parser.parse_args()
    if unknown := set(args.names) - set(NAMES): parser.error(f"unknown {', '.join(sorted(unknown))}: choose of {', '.join(NAMES)}")
    chosen = [importlib.import_module(f"benchmarks.bench_{name}") for name in args.names or NAMES]
    if args.gpu and not torch.cuda.is_available(): parser.error("no GPU is at hand: leave out --gpu")
    parts = ["gpu"] if args.gpu else ["run", "long"] if args.long else ["run"]
    rows = [row for part in parts for module in chosen if hasattr(module, part) for row in getattr(module, part)()]
    facts = machine()
    print(table(rows), "", ", ".join(f"{k} {v}" for k, v in facts.items()), sep="\n")
    out = args.out or f"_runs/benchmarks{'-gpu' if args.gpu else ''}.json"
    write_json(out, dict(machine=facts, rows=rows))
    print(out)


if __name__ == "__main__": main()
