"Published numbers: each stands in a committed file, which says what it was measured on and by what."
import json
import re
import runpy
import shutil
from functools import cache
from pathlib import Path

import pytest

from motion_vq import sweeps
from motion_vq.core import sha256_file
from motion_vq.frame_errors import FOREGROUND

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
        file = re.search(r"\]\((nbs/analysis/results/[^)]+)\)", note)[1]
        for row in rows:
            for head, cell in zip(heads[1:], row[1:]):
                if cell: yield row[0], head, cell, file


def stands_in_its_file(model, head, cell, file):
    rows = [r for r in json.loads((ROOT/file).read_text())["rows"] if r.get("model") == model] if file.endswith(".json") else []
    if len(rows) != 1 or head not in NAMES: return all(is_founded(figure, f"]({file})") for figure in re.findall(r"\d+\.\d+", cell))
    value = rows[0][NAMES[head]]
    return cell == (str(value) if isinstance(value, int) else f"{value:.3f}")


def test_every_number_in_the_tables_of_the_readme_is_that_of_its_file():
    found = list(numbers_of(README))
    assert len(found) >= 40
    assert not [f for f in found if not stands_in_its_file(*f)]


def test_a_changed_number_would_be_found():
    model, head, cell, file = next(iter(numbers_of(README)))
    changed = README.replace(f" {cell} ", f" {float(cell) + 0.001:.3f} ")
    assert sum(not stands_in_its_file(*f) for f in numbers_of(changed)) == 1


def figures_of(text):
    "(figure, sentence) for every decimal number in the prose of a text."
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    for sentence in re.split(r"\n\n|(?<=[.:])\s", "\n".join(line for line in prose.splitlines() if not line.startswith("|"))):
        said = re.sub(r"\]\([^)]*\)|arXiv [\d.]+|Python 3\.\d+( to 3\.\d+)?|Human3\.6M|License 2\.0|`[^`]*`", "", sentence)
        yield from ((figure, sentence) for figure in re.findall(r"\d+\.\d+", said))


@cache
def numbers_in(path):
    "Absolute values of all numbers in a file of results, or in all of a folder."
    if path.is_dir(): return frozenset().union(*map(numbers_in, path.rglob("*.json")))
    found, todo = set(), [json.loads(path.read_text())]
    while todo:
        value = todo.pop()
        if isinstance(value, (dict, list)): todo += value.values() if isinstance(value, dict) else value
        elif isinstance(value, (int, float)): found.add(abs(value))
    return frozenset(found)


def is_founded(figure, sentence):
    "Whether the sentence names a file of results that has the figure, rounded as it is, or as a percentage."
    named, digits = (RESULTS/name for name in re.findall(r"\]\((?:[^)]*/)?results/([^)#]+)\)", sentence)), len(figure.partition(".")[2])
    return any(f"{scale * v:.{digits}f}" == figure for path in named if path.exists() for v in numbers_in(path) for scale in (1, 100))


def test_the_prose_of_the_readme_has_no_figure_of_its_own():
    "What is measured stands in tables, or the sentence names its file, which has it."
    assert not [f for f in figures_of(README) if f[0] not in PAPERS and not is_founded(*f)], "where is it from?"


REPORTS = sorted((ROOT/"nbs"/"analysis").glob("*.ipynb"))
PAPERS = {"9.31", "37.1", "0.8545", "0.240"} | set(re.findall(r"\d+\.\d+", (ROOT/"nbs"/"analysis"/"published.csv").read_text()))    # what the paper says, and what follows


def unfounded(nb):
    "Figures in a report's prose that are neither the paper's nor a constant of its own code or of the metrics, nor in a file that the sentence names."
    text = {kind: "\n\n".join("".join(c["source"]) for c in nb["cells"] if c["cell_type"] == kind) for kind in ("markdown", "code")}
    constants = PAPERS | {str(FOREGROUND)} | set(re.findall(r"\d+\.\d+", text["code"]))
    return [f for f in figures_of(text["markdown"]) if f[0] not in constants and not is_founded(*f)]


@pytest.mark.parametrize("path", REPORTS, ids=lambda p: p.stem)
def test_the_prose_of_a_report_has_no_figure_of_its_own(path):
    "What it measures its cells print; a figure in a sentence is the paper's, a constant of the report, or has its file beside it."
    assert not unfounded(json.loads(path.read_text("utf-8"))), "where is it from?"


def test_a_figure_without_its_file_would_be_found():
    path = RESULTS/"vqgan_vs_dvae-2d.json"
    skill = json.loads(path.read_text())["rows"][0]["ssim_skill"]
    report = lambda *sentences: dict(cells=[dict(cell_type="markdown", source=list(sentences))])
    for said, count in ((f"The skill is {skill:.3f}.", 1), (f"[It](results/{path.name}) is {skill:.3f}, or {100 * skill:.1f} %, or {skill:.5f}.", 0),
                        (f"[It](results/{path.name}) is {skill + 0.00049:.4f}. ", 1), (f"[It](results/nowhere.json) is {skill:.3f}.", 1), ("It gains 9.31 %.", 0)):
        assert len(unfounded(report(said))) == count, said


def test_what_is_published_is_listed_and_what_is_listed_is_there():
    there = {p.name + "/" * p.is_dir() for p in RESULTS.iterdir() if p.name != "README.md"}
    assert LISTED <= there
    stems = {name.removesuffix(".json").rstrip("/") for name in LISTED} | {"speed"}  # whose figures are of benchmarks.json
    strays = [name for name in there - LISTED if not (Path(name).suffix in (".png", ".pdf") and any(name.startswith(f"{s}-") for s in stems))]
    assert not strays


@pytest.mark.parametrize("path", sorted(p for p in RESULTS.glob("*.json")), ids=lambda p: p.name)
def test_a_result_names_its_data_its_version_and_its_machine(path):
    result = json.loads(path.read_text())
    if path.stem.startswith("benchmarks"): assert {"processor", "cores", "commit"} <= result["machine"].keys()
    else: assert result["data"] and result["version"] and result["commit"] and result["rows"]
    assert not re.search(r"(/work|/root|/home|/tmp)/", path.read_text()), "a path of one machine"


# --- published sweeps ---

PUBLISH = runpy.run_path(str(ROOT/"tools"/"publish.py"))
ENTRY = dict(commit=r"[0-9a-f]{7,40}", hardware=r"\S.{9,}")


def faults(folder):
    "What is wrong with a published sweep, as texts."
    made, points = json.loads((folder/"made.json").read_text()), {p.name: p for p in sorted((folder/"points").iterdir())}
    if made.keys() != points.keys(): yield f"made.json and points differ: {sorted(made.keys() ^ points.keys())}"
    wanted = {"made.json", *(f"points/{name}/{file}" for name in points for file in PUBLISH["KEPT"])}
    if wanted != (there := {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}): yield f"files: {sorted(wanted ^ there)}"
    if PUBLISH["ABSOLUTE"].search((folder/"made.json").read_text()): yield "made.json: a path of one machine"
    for name, point in points.items():
        entry = made.get(name, {})
        if entry.keys() != ENTRY.keys() or not all(re.fullmatch(ENTRY[k], v) for k, v in entry.items()): yield f"{name}: made.json says {entry}"
        try: done = PUBLISH["checked"](point)    # the digest, the name, no path of one machine
        except Exception as e: yield str(e); continue
        if not done: yield f"{name}: is not done"; continue
        result, version = json.loads((point/"out"/"result.json").read_text()), json.loads((point/"parameters.json").read_text())["version"]
        if not (result.get("data") and len(result.get("data_sha256", "")) == 64 and result.get("version") == version and result.get("rows")):
            yield f"{name}: its result does not name its data, or its version"
    if len({json.loads((p/"out"/"result.json").read_text())["data_sha256"] for p in points.values() if (p/"out"/"result.json").exists()}) > 1:
        yield "points of different data"


@pytest.mark.parametrize("made", sorted(RESULTS.glob("*/made.json")), ids=lambda p: p.parent.name)
def test_a_published_sweep_is_whole_and_names_its_commits_and_machines(made):
    assert not list(faults(made.parent))
    assert len(sweeps.rows(made.parent)) >= len(json.loads(made.read_text()))


@pytest.fixture
def published(tmp_path):
    "A sweep of two points, published."
    for seed in (0, 1):
        point = dict(notebook="toy.ipynb", code="0" * 64, version="1", parameters=dict(data="../mocap", seed=seed))
        folder = tmp_path/"sweep"/"points"/PUBLISH["point_id"](point)
        PUBLISH["write_json"](folder/"parameters.json", point)
        PUBLISH["write_json"](folder/"out"/"result.json", dict(rows=[dict(model="a")], data="toy", data_sha256="0" * 64, version="1"))
        PUBLISH["write_json"](folder/"status.json", dict(state="done", seconds=1.0, sha256=sha256_file(folder/"out"/"result.json")))
    PUBLISH["publish"](tmp_path/"sweep", tmp_path/"toy", "0" * 40, "one core of a test")
    return tmp_path/"toy"


def edited(file, old, new, resign=False):
    def damage(folder):
        path = sorted(folder.rglob(file))[0]
        path.write_text(path.read_text().replace(old, new))
        status = path.parents[1]/"status.json"
        if resign: status.write_text(json.dumps(dict(state="done", seconds=1.0, sha256=sha256_file(path))))
    return damage


@pytest.mark.parametrize("damage, fault", [
    (None, None),
    (edited("made.json", "one core", "/home/me, one core"), "a path of one machine"),
    (edited("made.json", '"one core of a test"', '""'), "made.json says"),
    (edited("made.json", "commit", "comit"), "made.json says"),
    (lambda f: shutil.rmtree(sorted((f/"points").iterdir())[0]), "differ"),
    (lambda f: (sorted((f/"points").iterdir())[0]/"out"/"manifest.json").write_text("{}"), "files"),
    (edited("result.json", '"a"', '"b"'), "altered since"),
    (edited("result.json", '"toy"', '""', True), "does not name its data"),
    (edited("result.json", '"version": "1"', '"version": "2"', True), "its version"),
    (edited("result.json", "0" * 64, "1" * 64, True), "different data"),
    (edited("result.json", '"a"', '"/root/a"', True), "path of this machine"),
    (edited("parameters.json", '"seed"', '"sede"'), "another point"),
    (edited("status.json", "done", "failed"), "is not done"),
])
def test_a_fault_of_a_published_sweep_is_found(published, damage, fault):
    if damage: damage(published)
    found = list(faults(published))
    assert any(fault in f for f in found) if fault else not found
