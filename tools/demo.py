"""Run the report that compares VQ-GAN and dVAE, small but long enough to see something, and print what it found."""
import json
import logging
import os
import shutil
import sys
from pathlib import Path

import pandas as pd
import papermill as pm
from nbconvert import HTMLExporter

from render import Tidy

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "nbs" / "analysis" / "vqgan_vs_dvae.ipynb"
OUT = ROOT / "_runs" / "demo"
PARAMETERS = {"out": str(OUT), "steps": 500}  # the default, 60 steps, only proves that everything runs


def replace(path: Path, write):
    "Let `write` make a file under another name, then give it its own: it is whole or absent."
    part = path.with_name(f".{path.name}.part{path.suffix}")
    write(part)
    with open(part, "rb+") as f: os.fsync(f.fileno())
    os.replace(part, path)


def table(result: dict) -> str:
    "The rows of a result, as text."
    return pd.DataFrame(result["rows"]).drop(columns="intervals").round(3).to_string(index=False, na_rep="")


def main():
    if not REPORT.exists(): sys.exit(f"{REPORT}: no such notebook")
    shutil.rmtree(OUT, ignore_errors=True)  # nothing of an earlier run is shown as this one's
    notebook, page, result = OUT / REPORT.name, OUT / f"{REPORT.stem}.html", OUT / "result.json"
    OUT.mkdir(parents=True, exist_ok=True)

    logging.getLogger("papermill").setLevel(logging.ERROR)
    replace(notebook, lambda part: pm.execute_notebook(
        REPORT, part, PARAMETERS, kernel_name="python3", cwd=REPORT.parent, progress_bar=sys.stderr.isatty(),
        extra_arguments=["--IPKernelApp.log_level=40"]))  # or the kernel warns that it talks over TCP, to this machine only
    replace(page, lambda part: part.write_text(
        HTMLExporter(preprocessors=[Tidy]).from_filename(notebook)[0], encoding="utf-8"))
    if not result.exists(): sys.exit(f"{REPORT}: ran, but wrote no {result}")

    print(table(json.loads(result.read_text(encoding="utf-8"))), end="\n\n")
    for path in (notebook, page, result): print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
