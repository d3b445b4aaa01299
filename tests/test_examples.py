"""Examples outside of the README: those of every `--help`, of model cards and of the notebooks' prose are run, or, where that takes hours or a network, asked whether they could be."""
import json
import re
import shlex
from glob import glob
from pathlib import Path

import click
import nbformat
import numpy as np
import pytest
from click.testing import CliRunner

import motion_vq
from motion_vq import download, sweeps, training
from motion_vq.cli import cli
from motion_vq.skeletons import convert
from motion_vq.synthetic import motion, write_dataset
from motion_vq.tokens import SHIPPED, Tokenizer

ROOT = Path(__file__).parents[1]
PROSE = {path.relative_to(ROOT).as_posix(): [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
         for path in sorted((ROOT/"nbs").rglob("*.ipynb")) if not {".ipynb_checkpoints", "_runs"} & {*path.parts} and path.name != "index.ipynb"}    # the index is the README
LINES = [(name, line.strip().partition("  #")[0].rstrip()) for name, several in PROSE.items() for text in several for line in text.splitlines()]


# --- what help shows ---

def shown(command): return [line.strip() for line in (command.help or "").replace("\b", "").splitlines() if line.strip().startswith("motion-vq ") and "--help" not in line]


HELP = [line for command in (cli.commands["encode"], *(c for name, c in cli.commands.items() if name != "encode")) for line in shown(command)]
TOP = shown(cli)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    "A folder in which the names of the examples exist."
    folder = tmp_path_factory.mktemp("examples")
    write_dataset(folder/"data"/"panoptic", train=3, validation=2, frames=48, seed=0)
    for kind in ("2d", "3d"):
        line = f"train --data {folder/'data'/'panoptic'} --kind {kind} --steps 2 --batch 2 --eval-every 2 --out {folder/'runs'/kind}"
        assert CliRunner().invoke(cli, line.split()).exit_code == 0
    walk = motion("gait", 60, seed=3)
    np.savez(folder/"walk.npz", joints=walk, fps=30, skeleton="panoptic19")
    (folder/"new_joints").mkdir()
    np.save(folder/"new_joints"/"000001.npy", np.nan_to_num(convert(walk / 100, "panoptic19", "smpl22", blank=True)))
    keypoints = np.concatenate([convert(walk[..., :2] + 300, "panoptic19", "coco17"), np.ones((60, 17, 1))], -1)
    (folder/"people.json").write_text(json.dumps([dict(image_id=i, category_id=1, keypoints=k.ravel().tolist(), score=0.9, track_id=t) for t in (1, 2) for i, k in enumerate(keypoints)]))
    return folder


def call(line):
    words = [found for word in shlex.split(line)[1:] for found in (sorted(glob(word)) if "*" in word else [word])]
    done = CliRunner().invoke(cli, words, prog_name="motion-vq")
    assert done.exit_code == 0, (line, done.output, done.exception)


@pytest.mark.parametrize("line", HELP)
def test_the_examples_of_help_run(here, line, monkeypatch):
    if line.startswith("motion-vq report"): pytest.skip("test_readme runs it, small")
    monkeypatch.chdir(here)
    if "walk.safetensors" in line and "encode" not in line: call("motion-vq encode walk.npz -o walk.safetensors")
    call(line)


def test_the_first_example_is_a_whole_way(here, monkeypatch):
    monkeypatch.chdir(here)
    assert [line.split()[1] for line in TOP] == ["train", "encode", "decode"]
    for line in TOP[1:]: call(line)    # the run is there


def test_every_verb_of_this_module_shows_an_example():
    assert {line.split()[1] for line in HELP} == {name for name, c in cli.commands.items() if type(c) is click.Command}


# --- model cards, and Python in the notebooks' prose ---

def blocks(text): return re.findall(r"```python\n(.*?)```", text, re.S)


@pytest.mark.parametrize("dims", SHIPPED)
def test_the_cards_of_shipped_models_run(dims):
    card = Path(motion_vq.__file__).parent/"pretrained"/SHIPPED[dims]/"README.md"
    joints = motion("gait", 90, seed=0)[..., :dims]
    code, = blocks(card.read_text("utf-8"))
    exec(code, names := dict(joints=joints))
    assert names["again"].shape == joints.shape


def test_the_card_of_a_saved_model_runs(tmp_path):
    Tokenizer.from_pretrained("motion-3d").save_pretrained(tmp_path/"mine")
    code, = blocks((tmp_path/"mine"/"README.md").read_text("utf-8"))
    exec(code.replace("the name of this folder or repository", str(tmp_path/"mine")), names := dict(joints=motion("gait", 90, seed=0)))
    assert names["again"].shape == (90, 19, 3)


FOREIGN = ("from datasets import",)    # of a library that is no requirement; test_exports reads the same file with the library beneath it


@pytest.mark.parametrize("name, code", [(name, code) for name, several in PROSE.items() for text in several for code in blocks(text) if not code.startswith(FOREIGN)])
def test_python_in_prose_runs(name, code):
    exec(code, dict(Tokenizer=Tokenizer))


# --- commands in the notebooks' prose: whether they would start ---

MODULES = {"motion_vq.training": (training, "_train_as_asked"), "motion_vq.sweeps": (sweeps, "_as_asked"), "motion_vq.download": (download, "download")}


@pytest.mark.parametrize("name, line", [(n, line) for n, line in LINES if line.startswith("python -m ")])
def test_modules_take_what_prose_gives_them(name, line, monkeypatch):
    "Their arguments are read; the work is left out."
    _, _, module, *words = shlex.split(line)
    module, work = MODULES[module]
    monkeypatch.setattr(module, work, lambda *given: [] if module is download else 0)
    monkeypatch.setattr(download, "sizes", lambda *given: [])
    assert module.main(words) in (0, None)
    for word in words:
        if word.startswith("nbs/"): assert (ROOT/word).is_file(), word


@pytest.mark.parametrize("name, line", [(n, line) for n, line in LINES if line.startswith("papermill ")])
def test_reports_have_the_parameters_that_prose_sets(name, line):
    _, report, out, *words = shlex.split(line)
    from papermill import inspect_notebook
    given = words[1::3]
    assert words[::3] == ["-p"] * len(given) and out.endswith(".ipynb")
    assert set(given) <= set(inspect_notebook(str(ROOT/report))), f"{name}: {line}"


def test_no_command_in_prose_is_overlooked():
    "Every line of a shell block is one of those above."
    told = ("python -m motion_vq.", "papermill ", "#", "DATA=", "make ")
    for name, several in PROSE.items():
        for text in several:
            for block in re.findall(r"```sh\n(.*?)```", text, re.S):
                for line in block.splitlines(): assert not line.strip() or line.strip().startswith(told), (name, line)
