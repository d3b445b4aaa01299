"""The wheel, installed by pip into an environment that has never seen the project, and used from an empty folder as the README says."""
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import venv
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from motion_vq.synthetic import motion, write_dataset

ROOT = Path(__file__).parents[1]
MOCAP = ROOT.parent/"shared"/"mocap"    # real motion, where it is
CONSTRAINTS = ROOT/"constraints.txt"
PINS = dict(line.split("==") for line in CONSTRAINTS.read_text().splitlines() if "==" in line)
BIN = "Scripts" if os.name == "nt" else "bin"
FOREIGN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "JUPYTER_PREFER_ENV_PATH")


class Installed:
    "A clean environment in which the wheel is, and an empty folder from which it is called."
    def __init__(self, folder, wheel):
        self.python, self.here = folder/"venv"/BIN/"python", folder/"empty"
        venv.create(folder/"venv", symlinks=os.name != "nt")
        self.here.mkdir()
        self.env = {k: v for k, v in os.environ.items() if k not in FOREIGN} | dict(NO_PROXY="127.0.0.1", no_proxy="127.0.0.1", HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
        self.env["PATH"] = f"{folder/'venv'/BIN}{os.pathsep}{self.env['PATH']}"
        done = self.pip("install", "--no-compile", "-c", CONSTRAINTS, wheel)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    def pip(self, *words): return subprocess.run([sys.executable, "-m", "pip", "--python", self.python, *words], env=self.env, capture_output=True, text=True)

    def run(self, *words, status=0, where=None):
        "What a command says on its standard output, or, if it is to fail, on the other."
        done = subprocess.run([self.python.parent/words[0], *map(str, words[1:])], cwd=where or self.here, env=self.env, capture_output=True, text=True)
        assert done.returncode == status and "Traceback" not in done.stderr, (words, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
        return done.stderr if status else done.stdout

    def says(self, *words): return json.loads(self.run("motion-vq", *words, "--json"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory, wheel):
    folder = tmp_path_factory.mktemp("install")
    asked = subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", folder/"asked", f"click=={PINS['click']}"], capture_output=True, text=True)
    if asked.returncode: pytest.skip(f"pip reaches no package index: {asked.stderr.strip().splitlines()[-1]}")
    yield (it := Installed(folder, wheel))
    shutil.rmtree(it.python.parents[1])    # it is large


def real(folder):
    "Two sequences for training and one for validation, as they lie in the real data."
    for split, several in dict(train=("cmu_walking_1", "cmu_jumping_1"), validation=("cmu_basketball_5",)).items():
        names = [path.name for path in sorted((MOCAP/split).iterdir())]
        for name in [*(n for n in several if n in names), *names][:len(several)]: shutil.copytree(MOCAP/split/name, folder/split/name)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    "A small data set in the layout of Panoptic: real motion, where it is."
    folder = tmp_path_factory.mktemp("data")/"people"
    if MOCAP.is_dir(): real(folder)
    else: write_dataset(folder, train=2, validation=2, frames=70, seed=0)
    return folder


def recording(data, split="train"): return sorted((data/split).iterdir())[0]


# --- what is there ---

def test_it_is_the_wheel_and_what_it_requires_and_nothing_else(installed):
    there = {one["name"].lower(): one["version"] for one in json.loads(installed.pip("list", "--format", "json").stdout)}
    assert there["torch"].partition("+")[0] == PINS["torch"] and "motion_vq" in there
    assert not {"nbdev", "jupyterlab", "ipython", "papermill", "matplotlib", "pandas", "pytest", "fastcore"} & set(there)
    assert installed.pip("check").returncode == 0
    where = installed.run("python", "-c", "import motion_vq; print(motion_vq.__file__)")
    assert where.startswith(str(installed.python.parents[1]))


def test_the_readmes_example_runs_from_an_empty_folder(installed):
    text = (ROOT/"README.md").read_text("utf-8").partition("## From joints to tokens and back")[2].partition("\n## ")[0]
    first, example, *more = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(example.splitlines()) == 5 and "Tokenizer.from_pretrained" in example
    printed = installed.run("python", "-c", first + example + "".join(more)).splitlines()
    said = re.findall(r"^    (\(.*)", text, re.M)
    assert printed[0].endswith("mm") and [line.split(")")[0] for line in printed] == [line.split(")")[0] for line in said]
    assert not list(installed.here.iterdir())


# --- every verb ---

def test_there_and_back(installed, data, tmp_path):
    one, *_ = installed.says("encode", recording(data), "-o", tmp_path/"tokens")
    path, *_ = (tmp_path/"tokens").iterdir()
    assert installed.says("info", path, "--coder", "context")[0]["model"] == one["model"]
    assert installed.says("decode", path, "-o", tmp_path/"again.npz")[0]["shape"][1:] == [19, 3]
    found = installed.says("evaluate", recording(data))[0]
    assert found["pck_5_percent"] > 0.7 and found["mpjpe"] < 0.05 * found["box"]
    assert installed.says("render", tmp_path/"again.npz", "-o", tmp_path/"film.gif", "--size", 32)["views"] == 3


def test_train_a_little_and_use_it(installed, data, tmp_path):
    installed.run("motion-vq", "train", "--data", data, "--kind", "2d", "--scale", "smoke", "--steps", 2, "--batch", 2, "--eval-every", 2, "--out", tmp_path/"run")
    assert installed.says("info", tmp_path/"run")["step"] == 2
    assert installed.says("evaluate", data, "-m", tmp_path/"run")["windows"] > 0


def test_download_lists_and_fetches(installed, data, tmp_path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *said): pass
    handler = partial(Quiet, directory=data/"train")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        name, to = recording(data).name, ["--server", f"http://127.0.0.1:{server.server_port}"]
        said = installed.run("motion-vq", "download", tmp_path/"got", "--dry-run", "--sequences", name, *to)
        assert f"calibration_{name}.json" in said and "non-commercial" in said and not (tmp_path/"got").exists()
        installed.run("motion-vq", "download", tmp_path/"got", "--sequences", name, *to)
        server.shutdown()
    assert installed.says("info", tmp_path/"got"/name)[0]["what"] == "recording"


@pytest.mark.parametrize("words, extra", [(("report", "vqgan_vs_dvae", "-o", "out.ipynb"), "notebooks"), (("sweep", "run", "s.yml", "--out", "out"), "notebooks"),
                                          (("info", "t.parquet"), "parquet"), (("encode", "walk.npy", "--fps", "30", "-o", "t.parquet"), "parquet")])
def test_what_needs_an_extra_says_which(installed, tmp_path, words, extra):
    (tmp_path/"s.yml").write_text("notebook: n.ipynb\ngrid: {k: [1, 2]}\nmetric: x\n"); (tmp_path/"n.ipynb").write_text("{}")
    assert f"pip install 'motion_vq[{extra}]'" in installed.run("motion-vq", *words, status=2, where=tmp_path)


# --- ten minutes ---

PEAKS = """
import contextlib, io, re, sys
from pathlib import Path
from motion_vq.cli import cli
VERBS = '''
encode {n}.npy --fps 30 -o {n}.safetensors
decode {n}.safetensors -o {n}-again.npz
evaluate {n}.npy --fps 30
info {n}.npy --fps 30
info {n}.safetensors --coder context
decode {n}.safetensors --heatmaps --size 32 -o {n}-maps.npy
render {n}.npy --fps 30 --size 32 -o {n}.gif
render {n}.npy --fps 30 --size 32 -o {n}-film.npy
render {n}.npy --fps 30 --size 32 -o {n}.png'''.strip().splitlines()
for line in [line.format(n=n) for n in (1, 1, 10) for line in VERBS]:
    Path("/proc/self/clear_refs").write_text("5")    # the peak begins anew
    with contextlib.redirect_stdout(io.StringIO()):
        try: cli(line.split())
        except SystemExit as e: assert e.code == 0, line
    print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1], line)
"""


def test_memory_does_not_grow_with_the_recording(installed, tmp_path):
    "The peak of each verb, for one minute and for ten at 30 frames a second: the recording, 4 MB, may be there some times over, its pictures, 220 MB, not at all."
    if not os.access("/proc/self/clear_refs", os.W_OK): pytest.skip("a process cannot begin its peak of memory anew here")
    walk = motion("gait", 1800, seed=0)
    for n in (1, 10): np.save(tmp_path/f"{n}.npy", np.resize(np.asarray(walk, np.float32), (1800 * n, 19, 3)))
    peaks = [(int(line.split()[0]) // 1024, line.partition(" ")[2]) for line in installed.run("python", "-c", PEAKS, where=tmp_path).splitlines()]
    _, one, ten = np.split(np.array([mb for mb, _ in peaks]), 3)    # the first round loads and compiles
    assert (ten < one + 40).all(), dict(zip((line for _, line in peaks[-len(ten):]), zip(one.tolist(), ten.tolist())))
