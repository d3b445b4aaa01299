"""What holds of the project as a whole: notebooks, modules, requirements and documents agree."""
import ast
import copy
import importlib.metadata
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from execnb.nbio import nb2str
from nbdev.clean import clean_nb
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
NBS, LIB = ROOT / "nbs", ROOT / "motion_vq"
NOTEBOOKS = sorted(path for path in NBS.rglob("*.ipynb") if not {".ipynb_checkpoints", "_runs"} & {*path.parts})
REPORTS = [path for path in NOTEBOOKS if path.is_relative_to(NBS / "analysis") or path.is_relative_to(NBS / "explore")]
EXECUTED = [path for path in NOTEBOOKS if path in REPORTS or path.is_relative_to(NBS / "tutorials")]
MODULES = sorted(path for path in LIB.rglob("*.py") if path.name not in ("__init__.py", "_modidx.py"))

config = ConfigParser(delimiters=["="], interpolation=None)
config.read(ROOT / "settings.ini", encoding="utf-8")
CFG = config["DEFAULT"]
REQUIREMENTS = [Requirement(text) for text in CFG["requirements"].split()]
DEV_REQUIREMENTS = [Requirement(text) for text in CFG["dev_requirements"].split()]

MACHINE_PATH = re.compile(r"(?<![\w.:/-])(/(home|root|Users|usr|opt|tmp|var|mnt|work|private|workspace|content)/[\w.]|[A-Z]:\\\\?Users)")
WARNING = re.compile(r"\b\w*Warning: |\bwarnings\.warn\(|Traceback \(most recent call last\)")


def notebook(path): return json.loads(path.read_text(encoding="utf-8"))
def relative(path): return path.relative_to(ROOT).as_posix()
def text(value): return value if isinstance(value, str) else "".join(value)


def shown(cell):
    "The text that a cell's stored outputs show, without its pictures."
    for output in cell.get("outputs", []):
        yield text(output.get("text", ""))
        yield from (text(value) for kind, value in output.get("data", {}).items() if kind.startswith("text/"))


# --- notebooks ---

def test_there_are_notebooks():
    assert NOTEBOOKS and MODULES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=relative)
def test_notebook_is_clean(path):
    "`nbdev_clean` would change nothing: `make clean` does it."
    nb = notebook(path)
    cleaned = copy.deepcopy(nb)
    clean_nb(cleaned, allowed_metadata_keys=CFG["allowed_metadata_keys"].split(),
             allowed_cell_metadata_keys=CFG["allowed_cell_metadata_keys"].split(), clean_ids=CFG.getboolean("clean_ids"))
    same = nb2str(cleaned) == path.read_text(encoding="utf-8")
    assert same, f"{relative(path)}: run `make clean`"
    ids = [cell["id"] for cell in nb["cells"]]
    assert len(set(ids)) == len(ids), f"{relative(path)}: cells share an id"
    assert nb["metadata"]["kernelspec"]["name"] == "python3"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=relative)
def test_stored_outputs_are_presentable(path):
    "No errors, no warnings, no stderr and no paths of the machine that it ran on."
    for cell in notebook(path)["cells"]:
        where = f"{relative(path)}, cell {cell['id']}"
        kinds = {(output["output_type"], output.get("name")) for output in cell.get("outputs", [])}
        assert not any(kind == "error" for kind, _ in kinds), f"{where}: a stored error"
        assert ("stream", "stderr") not in kinds, f"{where}: output on stderr"
        for line in "\n".join(shown(cell)).splitlines():
            assert not WARNING.search(line), f"{where}: {line[:200]}"
            assert not MACHINE_PATH.search(line), f"{where}: {line[:200]}"


@pytest.mark.parametrize("path", REPORTS, ids=relative)
def test_report_takes_parameters(path):
    "One cell tagged `parameters` in every report, and none that a run has injected."
    tags = [tag for cell in notebook(path)["cells"] for tag in cell["metadata"].get("tags", [])]
    assert tags.count("parameters") == 1 and "injected-parameters" not in tags
    assert not any("#| export" in text(cell["source"]) for cell in notebook(path)["cells"]), "a report exports nothing"


def must_show(source):
    "Whether a cell prints or displays whatever happens, or ends with a value that is not None."
    statements = ast.parse(source).body
    said = [s.value for s in statements if isinstance(s, ast.Expr)]
    return any(isinstance(v, ast.Call) and getattr(v.func, "id", "") in ("print", "display", "shown", "animation") for v in said) or bool(
        statements and isinstance(statements[-1], ast.Expr) and isinstance(statements[-1].value, (ast.Name, ast.Subscript)))


@pytest.mark.parametrize("path", EXECUTED, ids=relative)
def test_notebook_is_stored_executed(path):
    "With what its cells show, and with pictures; but for what the clock decides, which no notebook keeps. That a run gives the same is seen in test_notebooks."
    pictures = 0
    for cell in (cell for cell in notebook(path)["cells"] if cell["cell_type"] == "code"):
        where, tags = f"{relative(path)}, cell {cell['id']}", cell["metadata"].get("tags", [])
        if "clock" in tags: assert not cell["outputs"], f"{where}: run `make clean`"
        elif "install" not in tags and must_show(text(cell["source"])): assert cell["outputs"], f"{where}: execute it, then `make clean`"
        pictures += sum("image/png" in (data := output.get("data", {})) or "<img" in text(data.get("text/html", "")) for output in cell["outputs"])
    assert pictures, f"{relative(path)} shows no picture"


# --- the library ---

def files(folder):
    "Every file of a package by relative name, but for bytecode."
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def source_of(module):
    "The notebook that a module's header names."
    return (module.parent / re.search(r"^# AUTOGENERATED! DO NOT EDIT! File to edit: (.+)\.$", module.read_text("utf-8"), re.M)[1]).resolve()


def test_library_is_the_export_of_the_notebooks(tmp_path):
    "A fresh export equals motion_vq/ byte for byte: `make export` makes it so."
    shutil.copytree(NBS, tmp_path / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints", "_runs"))
    shutil.copy(ROOT / "settings.ini", tmp_path)
    (tmp_path / "motion_vq").mkdir()
    env = {name: value for name, value in os.environ.items() if name != "IN_TEST"}
    subprocess.run([sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()"],
                   cwd=tmp_path, env=env, check=True)
    fresh, stored = files(tmp_path / "motion_vq"), files(LIB)
    assert stored.pop("py.typed") == b"", "an empty file that says that the package has types; no notebook makes it"
    stored = {name: data for name, data in stored.items() if not name.startswith("pretrained/")}    # weights: analysis/pretrained makes them
    assert sorted(fresh) == sorted(stored), "motion_vq/ lacks modules, or has some that no notebook makes"
    assert [name for name in fresh if fresh[name] != stored[name]] == [], "run `make export`, or `nbdev_update` if a .py was edited"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_module_names_its_notebook(path):
    assert source_of(path).exists(), f"{relative(path)} comes from {source_of(path).name}, which is gone"


def imports(tree, lazy=True):
    "The modules that a tree imports, as (level, dotted name); with `lazy=False` only those at import time."
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import): yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""
            if not node.module: yield from ((node.level, alias.name) for alias in node.names)
            elif node.module == "motion_vq": yield from ((0, f"motion_vq.{alias.name}") for alias in node.names)
        elif lazy or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)): yield from imports(node, lazy)


def own_imports(path):
    "Names of the modules of motion_vq that a module imports, anywhere in it."
    names = {path.stem for path in MODULES}
    for level, name in imports(ast.parse(path.read_text("utf-8"))):
        parts = name.split(".")
        if level == 0 and parts[0] != "motion_vq": continue
        name = parts[0] if level else parts[1] if len(parts) > 1 else ""
        if name in names: yield name


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_modules_import_only_earlier_ones(path):
    "The notebooks can be read in order: nothing is used before it is explained."
    order = {module.stem: source_of(module).name for module in MODULES}
    later = [name for name in own_imports(path) if order[name] >= order[path.stem]]
    assert not later, f"{relative(path)} imports {later}, which come later"


def test_no_star_imports():
    for path in MODULES:
        stars = [node.module for node in ast.walk(ast.parse(path.read_text("utf-8")))
                 if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)]
        assert not stars, f"{relative(path)}: from {stars} import *"


LOADS = """
import importlib, sys
for name in sys.argv[2:]:
    importlib.import_module(name)
    if heavy := set(sys.argv[1].split()) & set(sys.modules): sys.exit(f"import {name} loads {sorted(heavy)}")
"""


@pytest.mark.parametrize("names, heavy", [
    (["motion_vq"], "torch numpy scipy skimage matplotlib seaborn pandas IPython ipywidgets jupyterlab"),
    ([f"motion_vq.{path.stem}" for path in MODULES], "matplotlib seaborn pandas IPython ipywidgets jupyterlab papermill nbdev fastcore"),
], ids=["package", "modules"])
def test_importing_is_light(names, heavy):
    "In a fresh interpreter: what is slow to load, or not required, is left to the functions that need it."
    done = subprocess.run([sys.executable, "-c", LOADS, heavy, *names], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- requirements ---

TOOLS = {"nbdev", "execnb", "fastcore", "ghapi", "jupyterlab", "ipykernel", "papermill", "nbconvert", "pytest", "hypothesis"}


def import_names(requirements):
    "The names under which what is required is imported, as the installed packages say."
    wanted = {canonicalize_name(requirement.name) for requirement in requirements}
    packages = importlib.metadata.packages_distributions()
    return {name for name, owners in packages.items() if wanted & {canonicalize_name(owner) for owner in owners}}


def test_the_library_requires_no_notebook_tools():
    assert not TOOLS & {canonicalize_name(requirement.name) for requirement in REQUIREMENTS}


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_modules_import_only_what_is_required(path):
    "On import a module needs the library's requirements alone; a function may need an optional one, but no nbdev."
    tree = ast.parse(path.read_text("utf-8"))
    names = lambda lazy: {name.split(".")[0] for level, name in imports(tree, lazy) if level == 0}
    required = import_names(REQUIREMENTS) | sys.stdlib_module_names | {"motion_vq"}
    foreign = names(lazy=False) - required
    assert not foreign, f"{relative(path)} imports {sorted(foreign)}: not among the requirements in settings.ini"
    optional = import_names(r for r in DEV_REQUIREMENTS if r.name not in ("nbdev", "execnb", "fastcore", "ghapi", "pytest", "hypothesis"))
    optional |= {Requirement(text).name for text in CFG["lpips_requirements"].split()}    # its own extra: with its weights it is no part of development
    foreign = names(lazy=True) - required - optional
    assert not foreign, f"{relative(path)} imports {sorted(foreign)} in a function"


def test_constraints_satisfy_settings():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if not line.startswith("#")]
    for line in lines: assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line), f"{line}: not a plain pin"
    pins = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines}
    assert list(pins) == sorted(pins) and len(pins) == len(lines)
    assert "motion-vq" not in pins
    for requirement in REQUIREMENTS + DEV_REQUIREMENTS:
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), f"{requirement}: constraints.txt differs"


# --- what is written from something else ---

def test_environment_is_in_sync():
    render = runpy.run_path(str(ROOT / "tools" / "environment.py"))["render"]
    assert (ROOT / "environment.yml").read_text(encoding="utf-8") == render(), "run `make environment`"


@pytest.mark.skipif(not (NBS / "index.ipynb").exists(), reason="there is no nbs/index.ipynb yet")
def test_readme_is_in_sync():
    rendered = runpy.run_path(str(ROOT / "tools" / "render.py"))["readme"]()
    assert (ROOT / "README.md").read_bytes() == rendered["README.md"], "run `make readme`"
    stored = files(ROOT / "README_files") if (ROOT / "README_files").exists() else {}
    assert {f"README_files/{name}": data for name, data in stored.items()} == {k: v for k, v in rendered.items() if k != "README.md"}


def test_readme_links_lead_somewhere():
    if not (ROOT / "README.md").exists(): pytest.skip("there is no README.md yet")
    links = re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []
