"""Every notebook is executed: those of the library by nbdev, whose flags hold, reports and explorers by papermill with their defaults."""
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
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
REPORTS = [path for path in ALL if path.is_relative_to("nbs/analysis") or path.is_relative_to("nbs/explore")]
LIBRARY = [path for path in ALL if path not in REPORTS]

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
given = {"out": str(folder)} if "out" in pm.inspect_notebook(path) else {}
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
    "Run one notebook in a process of its own; what it printed, its exit status and the seconds it took."
    nb, start = ROOT / path, time.monotonic()
    command = ["-c", PAPERMILL, nb, folder] if path in REPORTS else ["-c", NBDEV, nb]
    threads = str(max(1, (os.cpu_count() or 1) // WORKERS))
    env = dict(os.environ, OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads)
    try:
        done = subprocess.run([sys.executable, *map(str, command)], cwd=nb.parent, env=env, timeout=TIMEOUT,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        return done.stdout, done.returncode, time.monotonic() - start
    except subprocess.TimeoutExpired as e:
        return f"{e.output or ''}\nnot done after {TIMEOUT} s", -1, time.monotonic() - start


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory):
    "Start the chosen notebooks, two at a time; a test waits for its own."
    chosen = [item.callspec.params["path"] for item in request.session.items if item.originalname == "test_notebook"]
    with ThreadPoolExecutor(WORKERS) as pool:
        futures = {path: pool.submit(execute, path, tmp_path_factory.mktemp(path.stem)) for path in chosen}
        yield futures
        for future in futures.values(): future.cancel()


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.with_suffix("").as_posix())
def test_notebook(path, runs, executed):
    code = [cell for cell in nbformat.read(ROOT / path, as_version=4).cells if cell.cell_type == "code" and cell.source.strip()]
    run = code if path in REPORTS else [cell for cell in code if not flagged(cell)]
    output, status, seconds = runs[path].result()
    assert status == 0, output
    assert "- Completed" in output, f"not executed:\n{output}"
    assert run or not code, "every cell of it is left out of test runs"
    executed[path.as_posix()] = f"{len(run):3} of {len(code):3} code cells {seconds:6.1f} s"


def test_every_notebook_was_executed(request, executed):
    "No notebook escapes: the ones that ran are the ones there are. Not judged when only some were asked for."
    chosen = [item.callspec.params["path"] for item in request.session.items if item.originalname == "test_notebook"]
    if len(chosen) < len(ALL): pytest.skip("only some notebooks were asked for")
    assert ALL, "no notebooks were found"
    assert sorted(executed) == [path.as_posix() for path in ALL]
    assert all(path.parts[0] == "nbs" for path in ALL), "notebooks belong into nbs/"
