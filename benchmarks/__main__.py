"""`python -m benchmarks [NAME ...] [--long] [--out FILE.json]`: run the benchmarks, all or those named, print a table, keep it as JSON."""
import argparse
import importlib
from pathlib import Path

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
    parser.add_argument("--long", action="store_true", help="the rows that take minutes, too")
    parser.add_argument("--out", default="_runs/benchmarks.json", help="where to write the figures (default: %(default)s)")
    args = parser.parse_args()
    if unknown := set(args.names) - set(NAMES): parser.error(f"unknown {', '.join(sorted(unknown))}: choose of {', '.join(NAMES)}")
    chosen = [importlib.import_module(f"benchmarks.bench_{name}") for name in args.names or NAMES]
    rows = [row for module in chosen for row in module.run()]
    if args.long: rows += [row for module in chosen if hasattr(module, "long") for row in module.long()]
    facts = machine()
    print(table(rows), "", ", ".join(f"{k} {v}" for k, v in facts.items()), sep="\n")
    write_json(args.out, dict(machine=facts, rows=rows))
    print(args.out)


if __name__ == "__main__": main()
