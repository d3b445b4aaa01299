"Every command that the README shows is run, small, in the order in which it stands there. Its Python is run as the notebook that it comes from."
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from motion_vq import download
from motion_vq.cli import cli
from motion_vq.synthetic import motion, write_dataset

ROOT = Path(__file__).parents[1]
SHELL = [line.partition("#")[0].strip() for block in re.findall(r"```sh\n(.*?)```", (ROOT/"README.md").read_text("utf-8"), re.S) for line in block.splitlines()]
VERBS = [line for line in SHELL if line.startswith("motion-vq ")]
ELSEWHERE = ("make ", "python -m venv", ".venv/bin/python",               # what these call is what runs these tests
             "papermill nbs/analysis/vqgan_vs_dvae.ipynb",                 # test_notebooks, test_report
             "python -m motion_vq.training", "torchrun ")                  # test_training, test_crash
SMALL = {"train": "--steps 2 --batch 2 --eval-every 2", "report": "--set steps=2 --set out=runs/report"}


def test_every_command_of_the_readme_is_run_somewhere():
    assert VERBS and [line for line in SHELL if line and line not in VERBS and not line.startswith(ELSEWHERE)] == []
    assert {line.split()[1] for line in VERBS} == set(cli.commands), "the README shows every verb"


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    "A folder in which the README's names exist, and its reports are those of the repository."
    folder = tmp_path_factory.mktemp("readme")
    write_dataset(folder/"DIR", train=3, validation=2, frames=48, seed=0)
    np.savez(folder/"walk.npz", joints=motion("gait", 60, seed=3), fps=30, skeleton="panoptic19")
    (folder/"nbs"/"analysis").mkdir(parents=True)
    for name in ("vqgan_vs_dvae.ipynb", "tokenizer.ipynb", "sweeps"):
        source = ROOT/"nbs"/"analysis"/name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder/"nbs"/"analysis"/name)
    return folder


@pytest.mark.parametrize("line", VERBS)
def test_the_readmes_commands(here, line, monkeypatch):
    monkeypatch.chdir(here)
    verb, words = line.split()[1], shlex.split(line)[1:]
    if verb == "sweep": monkeypatch.setattr("motion_vq.sweeps.run", lambda *given, **more: [dict(state="done")] * len(read(given[0])))    # test_sweeps runs it
    if verb == "download": monkeypatch.setattr(download, "sizes", lambda dest, names, servers: [(f"{names[0]}/file", 7, "")])             # test_download runs it
    done = CliRunner().invoke(cli, [*words, *shlex.split(SMALL.get(verb, ""))], prog_name="motion-vq")
    assert done.exit_code == 0, (line, done.output, done.exception)
    if "-o" in words: assert (here/words[words.index("-o") + 1]).stat().st_size > 0


def read(file):
    "The points of the sweep that the README names."
    from motion_vq.grid import read_sweep
    points = read_sweep(file).points
    assert points
    return points
