"What is installed: a wheel that is small and typed, and needs nothing beyond the library's requirements."
import ast
import importlib.metadata
import json
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
config = ConfigParser(delimiters=["="], interpolation=None)
config.read(ROOT/"settings.ini", encoding="utf-8")
CFG = config["DEFAULT"]


def test_the_wheel_is_small_and_typed_and_brings_the_command(wheel):
    assert wheel.stat().st_size <= 12 * 2**20
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = next(name for name in names if name.endswith("METADATA")).removesuffix("METADATA")
        about, points = (archive.read(info + name).decode() for name in ("METADATA", "entry_points.txt"))
    assert "motion_vq/py.typed" in names and {f"motion_vq/{path.name}" for path in (ROOT/"motion_vq").glob("*.py")} <= names
    assert not any(name.startswith(("tests", "nbs")) for name in names)
    assert "motion-vq = motion_vq.cli:main" in points and "Requires-Python: >=3.10" in about
    for extra in ("notebooks", "dask", "parquet", "lpips", "dev"): assert f"Provides-Extra: {extra}" in about


def closure(requirements):
    "The distributions that installing these brings, as the installed ones say."
    found, todo = set(), [Requirement(text) for text in requirements]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})): continue
        try: inner = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError: continue    # of another system
        found.add(name)
        wanted = [Requirement(text) for text in inner]
        todo += [r for r in wanted if not r.marker or any(r.marker.evaluate({"extra": extra}) for extra in (requirement.extras or {""}))]
    return found


CLEAN = """
import importlib, json, pkgutil, sys
folder, foreign = sys.argv[1], set(json.loads(sys.argv[2]))
class Fence:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in foreign: raise ModuleNotFoundError(f"{name} is not required", name=name)
sys.meta_path.insert(0, Fence())
sys.path.insert(0, folder)
import motion_vq
assert motion_vq.__file__.startswith(folder), motion_vq.__file__
for module in pkgutil.iter_modules(motion_vq.__path__): importlib.import_module(f"motion_vq.{module.name}")
from click.testing import CliRunner
from motion_vq.cli import cli
for line in ("--help", "--version", *(f"{verb} --help" for verb in cli.commands)):
    done = CliRunner().invoke(cli, line.split(), prog_name="motion-vq")
    assert done.exit_code == 0, (line, done.output, done.exception)
for verb, missing in (("report x -o y.ipynb", "notebooks"), ("info x.parquet", "parquet")):
    done = CliRunner().invoke(cli, verb.split(), prog_name="motion-vq")
    assert done.exit_code == 2 and f"pip install 'motion_vq[{missing}]'" in done.output, (verb, done.output)
"""


def test_the_wheel_needs_nothing_beyond_its_requirements(wheel, tmp_path):
    "Every module and the help of every verb, where only what the requirements bring can be imported."
    allowed = closure(CFG["requirements"].split())
    owners = importlib.metadata.packages_distributions()
    foreign = [name for name, of in owners.items() if not {canonicalize_name(o) for o in of} & allowed and name not in sys.stdlib_module_names and name != "motion_vq"]
    assert {"nbdev", "IPython", "jupyterlab", "papermill", "matplotlib", "pyarrow", "pytest"} <= set(foreign) and not {"torch", "numpy", "click"} & set(foreign)
    with ZipFile(wheel) as archive: archive.extractall(tmp_path/"site")
    done = subprocess.run([sys.executable, "-c", CLEAN, str(tmp_path/"site"), json.dumps(foreign)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("path", sorted((ROOT/"motion_vq").glob("*.py")), ids=lambda path: path.stem)
def test_modules_are_written_in_the_oldest_python_that_they_are_for(path):
    "Its grammar; that nothing is used of the standard library that is younger, mypy sees: see `python_version` in pyproject.toml."
    tree = ast.parse(path.read_text("utf-8"), feature_version=(3, 10))
    assert "tomllib" not in {getattr(node, "module", None) for node in ast.walk(tree)} | {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}


def test_the_oldest_python_is_the_same_everywhere():
    pyproject, workflow = ((ROOT/name).read_text("utf-8") for name in ("pyproject.toml", ".github/workflows/test.yaml"))
    assert CFG["min_python"] == "3.10" and 'python_version = "3.10"' in pyproject and '["3.10", "3.11", "3.12", "3.13"]' in workflow


def test_the_public_types_hold():
    "As pyproject.toml sets mypy up: not strict, and without the types of the large libraries."
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
