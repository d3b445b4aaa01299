"""Every notebook is executed: those of the library by nbdev, whose flags hold, tutorials, reports and explorers by papermill with their defaults.
What these have stored is what comes out."""
import os
import platform
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path

import nbformat
import pytest
from nbdev.config import get_config

ROOT = Path(__file__).parents[1]
NBS = ROOT / "nbs"
TIMEOUT = 300  # seconds for one notebook
WORKERS = 2
NOT_OURS = {".git", ".venv", ".ipynb_checkpoints", "_data", "_docs", "_proc", "_runs", "_site", "build", "dist"}


def find():
    "Every notebook of the project, wherever it lies, relative to the project's root."
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in NOT_OURS]
        for name in files:
            if name.endswith(".ipynb"): yield (Path(folder) / name).relative_to(ROOT)


ALL = sorted(find())
REPORTS = [path for path in ALL if any(path.is_relative_to(f"nbs/{folder}") for folder in ("tutorials", "analysis", "explore"))]

NBDEV = """
import sys
from pathlib import Path
from nbdev.config import get_config
from nbdev.test import test_nb
passed, _ = test_nb(Path(sys.argv[1]), skip_flags=get_config().tst_flags.split(), basepath=get_config().config_path, do_print=True)
sys.exit(not passed)
"""
PAPERMILL = """
import sys
from pathlib import Path
import papermill as pm
path, folder = map(Path, sys.argv[1:])
published = {"records": "results/robustness", "benchmarks": "results/benchmarks.json"}    # not what tests and benchmarks have left here
given = {name: value for name, value in ({"out": str(folder/"out")} | published).items() if name in pm.inspect_notebook(path)}
nb = pm.execute_notebook(path, folder/path.name, given, kernel_name="python3", cwd=path.parent, progress_bar=False)
cells = [c for c in nb.cells if c.cell_type == "code" and c.source.strip()]
assert all(c.execution_count for c in cells), "a cell was not executed"
print("- Completed", path)
"""


def flagged(cell):
    "Whether nbdev leaves this cell out of a test run."
    directives = re.findall(r"^#\|\s*(.+?)\s*$", cell.source, flags=re.M)
    flags = get_config().tst_flags.split()
    return any(d.split()[0] in flags or re.fullmatch(r"eval:\s*false", d) for d in directives)


def execute(path, folder):
    "Run one notebook in a process of its own, on one core; what it printed, its exit status and the seconds it took."
    nb, start = ROOT / path, time.monotonic()
    command = ["-c", PAPERMILL, nb, folder] if path in REPORTS else ["-c", NBDEV, nb]
    env = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")    # another number of threads, other bits
    try:
        done = subprocess.run([sys.executable, *map(str, command)], cwd=nb.parent, env=env, timeout=TIMEOUT,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        return done.stdout, done.returncode, time.monotonic() - start
    except subprocess.TimeoutExpired as e:
        return f"{e.output or ''}\nnot done after {TIMEOUT} s", -1, time.monotonic() - start


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory):
    "Start the chosen notebooks, two at a time; a test waits for its own. By path, what comes of it and the folder that it writes into."
    chosen = [item.callspec.params["path"] for item in request.session.items if item.originalname == "test_notebook"]
    folders = {path: tmp_path_factory.mktemp(path.stem) for path in chosen}
    with ThreadPoolExecutor(WORKERS) as pool:
        futures = {path: pool.submit(execute, path, folders[path]) for path in chosen}
        yield {path: (future, folders[path]) for path, future in futures.items()}
        for future in futures.values(): future.cancel()


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.with_suffix("").as_posix())
def test_notebook(path, runs, executed):
    code = [cell for cell in nbformat.read(ROOT / path, as_version=4).cells if cell.cell_type == "code" and cell.source.strip()]
    run = code if path in REPORTS else [cell for cell in code if not flagged(cell)]
    future, folder = runs[path]
    output, status, seconds = future.result()
    assert status == 0, output
    assert "- Completed" in output, f"not executed:\n{output}"
    assert run or not code, "every cell of it is left out of test runs"
    executed[path.as_posix()] = f"{len(run):3} of {len(code):3} code cells {seconds:6.1f} s"
    if path in REPORTS and platform.machine() in ("x86_64", "AMD64"):    # elsewhere the same sums are rounded differently
        words, numbers, compared = differences(nbformat.read(ROOT / path, as_version=4), nbformat.read(folder / path.name, as_version=4))
        assert not words and len(numbers) <= compared // 20, "\n".join([f"{path} is stored with other outputs than it has now: execute it again", *words, *numbers])


# --- what is stored is what comes out ---

NUMBER = r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?"
OF_THE_MACHINE = re.compile(r"\d\s*(s|ms|seconds?|minutes?|hours?)\b|(?<![\w.])/\w+/|\b0x[0-9a-f]+|\b[0-9a-f]{12,}\b")    # times, paths, addresses, digests


def said(cell):
    "The lines that a cell's outputs show, and how many pictures there are; of a table its words and numbers."
    text, pictures = "", 0
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        html = re.sub(r"<style.*?</style>", "", data.get("text/html", ""), flags=re.S)
        pictures += ("image/png" in data) + html.count("<img")
        table = unescape(re.sub(r"<[^>]+>", " ", html.replace("\n", " ").replace("</tr>", "\n"))).strip()
        shown = data.get("text/markdown") or table or data.get("text/plain", "")
        text += output.get("text", "") if "text" in output else "\n" if "image/png" in data or shown.startswith("<") else f"\n{shown}\n"
    return [" ".join(line.split()) for line in text.splitlines() if line.strip() and not OF_THE_MACHINE.search(line)], pictures


def near(a, b):
    "Whether two numbers, as they are written, differ by no more than a twentieth and a little."
    x, y = (float(number.replace(",", "")) for number in (a, b))
    return abs(x - y) <= 0.05 * max(abs(x), abs(y)) + (0.02 if "." in a else 1)


def differences(stored, fresh):
    "What is not as it is stored: other words, lines or pictures; numbers that are not near; and how many lines there are. What the clock decides is left out."
    now, words, numbers, compared = {cell.id: cell for cell in fresh.cells}, [], [], 0
    for cell in stored.cells:
        if cell.cell_type != "code" or "clock" in cell.metadata.get("tags", []): continue
        (lines, pictures), (others, drawn) = said(cell), said(now[cell.id])
        compared += len(lines)
        if (len(lines), pictures) != (len(others), drawn):
            words.append(f"{cell.id}: {len(lines)} lines and {pictures} pictures are stored, {len(others)} and {drawn} came out")
        for a, b in zip(lines, others):
            told = f"{cell.id}: {a!r} is stored, {b!r} came out"
            if re.sub(NUMBER, "#", a) != re.sub(NUMBER, "#", b): words.append(told)
            elif not all(map(near, re.findall(NUMBER, a), re.findall(NUMBER, b))): numbers.append(told)
    return words, numbers, compared


def test_what_counts_as_the_same():
    new = nbformat.v4
    def book(text, **more): return new.new_notebook(cells=[new.new_code_cell("x", id="a", outputs=[new.new_output("stream", text=text)], **more)])
    def found(a, b): return [bool(kind) for kind in differences(book(a), book(b))[:2]]
    for a, b in (("skill 0.851, 12 codes", "skill 0.843, 11 codes"), ("took 3 s\nx", "took 9 s\nx"), ("in /tmp/a/b\nx", "in /home/c\nx"), ("1,024 bits", "1,024  bits")):
        assert found(a, b) == [False, False], (a, b)
    for a, b in (("skill 0.851", "skill 0.651"), ("2 of 3", "2 of 30"), ("+0.300", "-0.300")): assert found(a, b) == [False, True], (a, b)
    for a, b in (("holds", "does not hold"), ("x", "x\ny"), ("x 1", "x")): assert found(a, b) == [True, False], (a, b)
    assert differences(book("1", metadata=dict(tags=["clock"])), book("9")) == ([], [], 0)
    table = new.new_output("execute_result", data={"text/html": "<style>#T_a {}</style><table><tr><td>tde</td><td>0.5</td></tr></table>", "text/plain": "<Styler>"})
    assert said(new.new_code_cell("x", outputs=[table])) == (["tde 0.5"], 0)


def test_every_notebook_was_executed(request, executed):
    "No notebook escapes: the ones that ran are the ones there are. Not judged when only some were asked for."
    chosen = [item.callspec.params["path"] for item in request.session.items if item.originalname == "test_notebook"]
    if len(chosen) < len(ALL): pytest.skip("only some notebooks were asked for")
    assert ALL, "no notebooks were found"
    assert sorted(executed) == [path.as_posix() for path in ALL]
    assert all(path.parts[0] == "nbs" for path in ALL), "notebooks belong into nbs/"
