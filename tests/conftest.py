"""A cache that no other run has filled; what tests tried, for a notebook to show; and what the tests of the notebooks leave for the end, a line for each."""
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import motion_vq
from motion_vq.core import write_json

ROOT = Path(__file__).parents[1]
NOTEBOOKS = pytest.StashKey[dict]()  # notebook -> what became of it


def pytest_configure(config):
    config.stash[NOTEBOOKS] = {}
    folder = tempfile.TemporaryDirectory(prefix="motion_vq-cache-")
    os.environ["MOTION_VQ_CACHE"] = folder.name    # for the processes that tests start, too
    config.add_cleanup(folder.cleanup)


@pytest.fixture(scope="session")
def executed(pytestconfig):
    "Where the tests of the notebooks write down what ran."
    return pytestconfig.stash[NOTEBOOKS]


@pytest.fixture(scope="session")
def record(request):
    "`record(name, **facts)`: what tests tried, and what became of it, into `_runs/robustness/NAME.json`, with the number of tests that failed."
    def write(name, **facts):
        facts = dict(version=motion_vq.__version__, failed=request.session.testsfailed, **facts)
        write_json(ROOT/"_runs"/"robustness"/f"{name}.json", facts)
    return write


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    "Built from a copy of what is committed for it, so that nothing lies about afterwards."
    source = tmp_path_factory.mktemp("source")
    for name in ("settings.ini", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CITATION.cff", "constraints.txt"): shutil.copy(ROOT/name, source)
    shutil.copytree(ROOT/"motion_vq", source/"motion_vq", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", source/"dist"], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next((source/"dist").glob("*.whl"))


def pytest_terminal_summary(terminalreporter, config):
    if not (ran := config.stash[NOTEBOOKS]): return
    terminalreporter.section("notebooks executed")
    for name, line in sorted(ran.items()): terminalreporter.write_line(f"{name:36} {line}")
    terminalreporter.write_line(f"{len(ran)} notebooks executed")
