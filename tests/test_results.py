"Published numbers: each stands in a committed file, which says what it was measured on and by what."
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT/"nbs"/"analysis"/"results"
README, LIST = (path.read_text("utf-8") for path in (ROOT/"README.md", RESULTS/"README.md"))
TABLE = re.compile(r"((?:^\|.*\|\n)+)\n(\*.*\*)$", re.M)  # a table, and the note under it
NAMES = {"SSIM": "ssim", "PSNR": "psnr", "SSIM skill": "ssim_skill", "foreground PSNR": "fg_psnr", "TDE": "tde", "codes used": "codes_used"}
LISTED = set(re.findall(r"^\| `([^`]+)` \|", LIST, re.M))


def cells(line): return [c.strip() for c in line.strip().strip("|").split("|")]


def numbers_of(text):
    "(model, column, cell, file) of every number in the tables of a text."
    for lines, note in TABLE.findall(text):
        heads, _, *rows = map(cells, lines.splitlines())
        file = re.search(r"\]\((nbs/analysis/results/[^)]+\.json)\)", note)[1]
        for row in rows:
            for head, cell in zip(heads[1:], row[1:]):
                if cell: yield row[0], head, cell, file


def stands_in_its_file(model, head, cell, file):
    row, = [r for r in json.loads((ROOT/file).read_text())["rows"] if r["model"] == model]
    value = row[NAMES[head]]
    return cell == (str(value) if isinstance(value, int) else f"{value:.3f}")


def test_every_number_in_the_tables_of_the_readme_is_that_of_its_file():
    found = list(numbers_of(README))
    assert len(found) >= 40
    assert not [f for f in found if not stands_in_its_file(*f)]


def test_a_changed_number_would_be_found():
    model, head, cell, file = next(iter(numbers_of(README)))
    changed = README.replace(f" {cell} ", f" {float(cell) + 0.001:.3f} ")
    assert sum(not stands_in_its_file(*f) for f in numbers_of(changed)) == 1


def test_the_prose_of_the_readme_has_no_figure_of_its_own():
    "What is measured stands in tables, or the sentence names its file."
    prose = re.sub(r"```.*?```", "", README, flags=re.S)
    for sentence in re.split(r"\n\n|(?<=[.:])\s", "\n".join(line for line in prose.splitlines() if not line.startswith("|"))):
        figures = re.findall(r"\d+\.\d+", re.sub(r"\]\([^)]*\)|arXiv [\d.]+|Python 3\.\d+|License 2\.0|`[^`]*`", "", sentence))
        assert not figures or "results/" in sentence, f"{figures} in {sentence!r}: where is it from?"


def test_what_is_published_is_listed_and_what_is_listed_is_there():
    there = {p.name + "/" * p.is_dir() for p in RESULTS.iterdir() if p.name != "README.md"}
    assert LISTED <= there
    stems = {name.removesuffix(".json").rstrip("/") for name in LISTED} | {"speed"}  # whose figures are of benchmarks.json
    strays = [name for name in there - LISTED if not (Path(name).suffix in (".png", ".pdf") and any(name.startswith(f"{s}-") for s in stems))]
    assert not strays


@pytest.mark.parametrize("path", sorted(p for p in RESULTS.glob("*.json")), ids=lambda p: p.name)
def test_a_result_names_its_data_its_version_and_its_machine(path):
    result = json.loads(path.read_text())
    if path.name == "benchmarks.json": assert {"processor", "cores", "commit"} <= result["machine"].keys()
    else: assert result["data"] and result["version"] and result["commit"] and result["rows"]
    assert not re.search(r"(/work|/root|/home|/tmp)/", path.read_text()), "a path of one machine"
