"""Publish what is done of a sweep: its results, without models, notebooks and logs, in a folder that is a sweep's folder itself.

    python tools/publish.py _runs/cpu nbs/analysis/results/cpu --hardware "2 cores of an AMD EPYC 9R14, 8 GB, no GPU"

Points that were published before stay as they are. `made.json` says of each the commit and the machine it was made by.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

from motion_vq.core import ConfigError, DataError, exit_status, read_json, sha256_file, write_json
from motion_vq.grid import point_id

ROOT = Path(__file__).parents[1]
KEPT = ("parameters.json", "status.json", "out/result.json")    # of a point
ABSOLUTE = re.compile(r'(?<![\w.~:/])/[\w.-]+["/]|"(?:[A-Za-z]:)?\\\\|"[A-Za-z]:/|"~|file:/')    # as it stands in JSON


def checked(folder: Path) -> bool:
    "Whether a point is done; a `DataError` if it is, and cannot be published as it is."
    if not (folder / "status.json").is_file() or read_json(folder / "status.json").get("state") != "done": return False
    if point_id(read_json(folder / "parameters.json")) != folder.name: raise DataError(f"{folder}: its parameters.json is that of another point")
    result = folder / "out" / "result.json"
    if not result.is_file() or sha256_file(result) != read_json(folder / "status.json").get("sha256"):
        raise DataError(f"{result}: was lost or altered since the point was done: run the sweep again")
    for file in (folder / name for name in KEPT):
        if found := ABSOLUTE.search(file.read_text(encoding="utf-8")):
            raise DataError(f"{file}: has a path of this machine in it, {found[0]!r}: give `data` relative to the report's folder")
    return True


def copied(source: Path, target: Path):
    "Copy a point; its folder is whole or absent."
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        for name in KEPT:
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, part / name)
        os.replace(part, target)
    finally: shutil.rmtree(part, ignore_errors=True)


def publish(sweep: Path, target: Path, commit: str, hardware: str) -> list:
    "Publish what is done of `sweep` and not yet in `target`; the names of those points. If one is faulty, none is published."
    if not (sweep / "points").is_dir(): raise ConfigError(f"{sweep}: no folder of a sweep: name the one that was given as --out")
    if not hardware.strip() or ABSOLUTE.search(f'"{hardware}"'): raise ConfigError(f"--hardware is {hardware!r}: say in a sentence what it ran on")
    made = read_json(target / "made.json") if (target / "made.json").exists() else {}
    done = [folder for folder in sorted((sweep / "points").iterdir()) if folder.is_dir() and checked(folder)]
    for folder in done:
        there = target / "points" / folder.name / "out" / "result.json"
        if folder.name in made and sha256_file(there) != sha256_file(folder / "out" / "result.json"):
            raise DataError(f"{there}: was published with another result than {folder} has: take one of them away")
    new = [folder for folder in done if folder.name not in made]
    for folder in new:    # one without an entry in made.json is of a call that did not come to its end
        shutil.rmtree(target / "points" / folder.name, ignore_errors=True)
        copied(folder, target / "points" / folder.name)
    if new: write_json(target / "made.json", dict(sorted((made | {f.name: dict(commit=commit, hardware=hardware) for f in new}).items())))
    return [folder.name for folder in new]


def head() -> str:
    "The commit of this clone."
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode: raise ConfigError(f"git does not know the commit ({done.stderr.strip()}): give it as --commit")
    return done.stdout.strip()


def main(argv=None) -> int:
    "The command; its exit status."
    parser = argparse.ArgumentParser("python tools/publish.py", description="Publish what is done of a sweep.")
    parser.add_argument("sweep", type=Path, metavar="SWEEP_OUT", help="the folder that was given as --out")
    parser.add_argument("target", type=Path, metavar="DIR", help="the published folder, as in nbs/analysis/results/cpu")
    parser.add_argument("--hardware", required=True, help="what it ran on, in a sentence")
    parser.add_argument("--commit", help="of the library that it ran with (default: this clone's)")
    args = parser.parse_args(argv)

    def as_asked():
        new = publish(args.sweep, args.target, args.commit or head(), args.hardware)
        print(f"{len(new)} points published, {len(read_json(args.target / 'made.json')) if (args.target / 'made.json').exists() else 0} in {args.target}")
        return 0
    return exit_status(as_asked, "the same command goes on")


if __name__ == "__main__": sys.exit(main())
