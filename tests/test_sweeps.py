"""Sweeps: what is refused, what a point is, and real kills of real processes, after which nothing finished is lost or repeated."""
import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from configparser import ConfigParser
from contextlib import suppress
from pathlib import Path

import nbformat
import psutil
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from motion_vq import grid, sweeps
from motion_vq.core import ConfigError, DataError, sha256_file
from motion_vq.points import _fault, state

ROOT = Path(__file__).parents[1]
SOON = 120    # seconds, for what takes a few on an idle machine
PARAMETERS = '''i: int = 0  # which one
rate: float = 1.0  # a number
kind: str = "2d"  # a text
fast: bool = False  # or not
here: str = ""  # the test's folder
out: str = ""  # folder of the result'''
# Notes that it was started; fails as `here/broken` says; waits until `here/open` lists it; writes its result.
CODE = '''import ctypes, json, os, signal, time
from pathlib import Path
here, out = Path(here), Path(out)
with open(here/"log", "a") as f: f.write(f"{i}\\n")
why = json.loads((here/"broken").read_text()).get(str(i)) if (here/"broken").exists() else ""
if why == "raise": raise RuntimeError("no luck")
if why == "deaf": ctypes.PyDLL(None).sleep(60)    # no other thread of Python gets to work
if why == "die": os.kill(os.getpid(), signal.SIGKILL)
def shut():
    try: return str(i) not in (here/"open").read_text().split()
    except FileNotFoundError: return False
while shut(): time.sleep(0.02)
out.mkdir(exist_ok=True)
if why != "silent": (out/"result.json").write_text(json.dumps(dict(rows=[dict(model="toy", square=i * i, threads=os.environ.get("OMP_NUM_THREADS"))])))'''


def write_report(path, parameters=PARAMETERS, code=CODE, text="A toy."):
    cells = [new_markdown_cell(text), new_code_cell(parameters, metadata=dict(tags=["parameters"])), new_code_cell(code)]
    nbformat.write(new_notebook(cells=cells, metadata=dict(kernelspec=dict(name="python3", display_name="", language="python"))), path)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    "A folder with the report, for tests that only read."
    folder = tmp_path_factory.mktemp("toy")
    write_report(folder/"toy.ipynb")
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    "A folder of an awkward name with the report; papermill would take its braces for a parameter."
    for name in ("OMP", "MKL", "OPENBLAS", "NUMBA"): monkeypatch.delenv(f"{name}_NUM_THREADS", raising=False)
    folder = tmp_path/"a {b} é"
    folder.mkdir()
    write_report(folder/"toy.ipynb")
    yield folder
    for process in psutil.process_iter():    # whatever a test that failed left behind
        with suppress(psutil.Error):
            if any(str(folder) in word for word in process.cmdline()):
                for p in [*process.children(recursive=True), process]: p.kill()


def write_sweep(folder, count, name="sweep.yml"):
    (folder/name).write_text(yaml.safe_dump(dict(notebook="toy.ipynb", fixed=dict(here=str(folder)), grid=dict(i=list(range(count))))))
    return folder/name


def started(folder): return Counter(map(int, (folder/"log").read_text().split())) if (folder/"log").exists() else Counter()


def until(condition, process=None):
    "Wait for what must happen soon."
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)


def driver(folder, *more, count):
    "The command line, in a process of its own."
    command = [sys.executable, "-m", "motion_vq.sweeps", "run", write_sweep(folder, count), "--out", folder/"out", *more]
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)    # a shell's background jobs inherit that it is ignored
    return subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)


def end(process, how, children):
    "Kill a process; it and its descendants must be gone soon, without help."
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= children, "kernels are at work"
    process.send_signal(how)
    process.wait(30)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive, "they outlived the driver"


# --- kills ---

def test_stopped_and_killed_it_goes_on_without_repeating_what_is_finished(place, capsys):
    (place/"open").write_text("0")
    (place/"broken").write_text('{"2": "deaf"}')    # this kernel does not notice that its parent is gone
    stopped = driver(place, "--workers", 2, count=4)
    until(lambda: started(place).keys() >= {1, 2}, stopped)
    assert stopped.stdout.readline().startswith("0 of 4") and "1 of 4  i 0: square 0, " in stopped.stdout.readline()
    end(stopped, signal.SIGINT, children=4)
    assert stopped.returncode == 130 and "interrupted" in stopped.stderr.read()
    assert [state(f)["state"] for f, _ in sweeps._points(place/"out")] == ["done", "open", "open", "open"]

    (place/"open").write_text("0 1")
    killed = driver(place, "--workers", 2, count=4)
    assert killed.stdout.readline().startswith("1 of 4 points are done; 2 at a time; ")
    assert "2 of 4  i 1: " in killed.stdout.readline()
    until(lambda: started(place)[2] == 2 and started(place)[3] == 1, killed)
    end(killed, signal.SIGKILL, children=4)

    for file in ("open", "broken"): (place/file).unlink()
    command = ["run", str(place/"sweep.yml"), "--out", str(place/"out"), "--workers", "2"]
    assert sweeps.main(command) == 0
    assert (said := capsys.readouterr().out).count("\n") == 3 and "2 of 4 points are done" in said and "4 of 4" in said
    assert started(place) == {0: 1, 1: 2, 2: 3, 3: 2}, "each as often as it was killed, and once"
    assert [row["square"] for row in sweeps.rows(place/"out")] == [0, 1, 4, 9]
    assert not list((place/"out").rglob("*.part")), "what a kill left behind is cleared away"
    assert sweeps.main(command) == 0 and sum(started(place).values()) == 8


def test_killed_at_random_moments_it_ends_with_each_point_once(place):
    "A moment is a number of files that lie there; which one is drawn, and a failure names the seed."
    seed, out = time.time_ns(), place/"out"
    rng, finished = random.Random(seed), {}
    files = lambda: sum(p.is_file() for p in out.rglob("*"))
    done = lambda: {point["parameters"]["i"] for folder, point in (sweeps._points(out) if (out/"points").exists() else []) if state(folder)["state"] == "done"}
    for _ in range(3):
        killed, moment = driver(place, "--workers", 2, count=8), files() + rng.randint(1, 8)
        until(lambda: files() >= moment, killed)
        end(killed, signal.SIGKILL, children=0)
        finished.update({i: started(place)[i] for i in done() - finished.keys()})
    assert sweeps.main(["run", str(place/"sweep.yml"), "--out", str(out), "--workers", "2"]) == 0
    assert [row["square"] for row in sweeps.rows(out)] == [i * i for i in range(8)], seed
    assert {i: started(place)[i] for i in finished} == finished, f"finished points were run again; seed {seed}"
    assert not list(out.rglob("*.part")), seed
    assert files() == 2 + 8 * len(("parameters.json", ".lock", "toy.ipynb", "status.json", "out/result.json")), seed


def test_a_point_that_fails_leaves_the_others_alone_and_is_run_again(place, capsys):
    (place/"broken").write_text(json.dumps({1: "raise", 2: "die", 3: "silent"}))
    out, file = place/"out", write_sweep(place, 4)
    folders = [out/"points"/grid.point_id(p) for p in grid.read_sweep(file).points]
    (folders[3]/"out").mkdir(parents=True)
    (folders[3]/"out"/"result.json").write_text('{"rows": [{"square": -1}]}')    # of an earlier attempt, which must not count
    (out/"notebooks").mkdir()
    for left in ("notebooks/.x.ipynb.0.part", f"points/{folders[3].name}/.parameters.json.0.part", f"points/{folders[3].name}/out/.result.json.0.part"):
        (out/left).write_text("{")    # half-written when it was killed

    assert sweeps.main(["run", str(file), "--out", str(out), "--workers", "2"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("3 of 4 points are not done") and said.out.count("FAILED") == 3
    states = [state(folder) for folder in folders]
    assert [s["state"] for s in states] == ["done", "failed", "failed", "failed"]
    for s, reason in zip(states[1:], ("RuntimeError: no luck", "Kernel died", "no such file")): assert reason in s["reason"]
    executed = nbformat.read(folders[1]/"toy.ipynb", 4)
    assert any(o.get("evalue") == "no luck" for c in executed.cells for o in c.get("outputs", [])), "the notebook is kept with its error"
    assert all((folder/"toy.ipynb").exists() for folder in folders) and not list(out.rglob("*.part"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert [row["threads"] for row in sweeps.rows(out)] == [str(max(1, cores // 2))], "cores are shared out"

    (place/"broken").unlink()
    assert sweeps.main(["run", str(file), "--out", str(out), "--workers", "2"]) == 0
    assert started(place) == {0: 1, 1: 2, 2: 2, 3: 2}
    assert "1 of 4 points are done; 2 at a time" in capsys.readouterr().out


def test_two_drivers_share_the_work_and_keep_to_the_report_they_began_with(place):
    (place/"open").write_text("")
    drivers = [driver(place, count=3) for _ in range(2)]
    until(lambda: sum(started(place).values()) == 2, drivers[0])
    write_report(place/"toy.ipynb", code="raise RuntimeError('edited meanwhile')")
    (place/"open").unlink()
    for d in drivers:
        output, errors = d.communicate(timeout=SOON)
        assert d.returncode == 0 and "3 of 3" in output, output + errors
    assert started(place) == {0: 1, 1: 1, 2: 1}
    assert len(sweeps.rows(place/"out")) == 3
    points = {grid.point_id(p) for p in grid.read_sweep(place/"sweep.yml").points}
    assert not points & {row["run.id"] for row in sweeps.rows(place/"out")}, "the edited report has other points"


def test_a_killed_process_of_a_point_is_a_failed_point_without_a_kernel(place):
    (place/"open").write_text("")
    file, found = write_sweep(place, 1), []
    thread = threading.Thread(target=lambda: found.extend(sweeps.run(file, place/"out", say=lambda line: None)))
    before = set(psutil.Process().children())
    thread.start()
    until(lambda: started(place))
    child, = set(psutil.Process().children()) - before
    kernels = child.children(recursive=True)
    assert kernels
    child.kill()
    thread.join(SOON)
    assert found[0]["state"] == "failed" and "status -9" in found[0]["reason"]
    assert not psutil.wait_procs(kernels, timeout=30)[1], "its kernel outlived it"


def test_a_cluster_takes_the_same_call_and_gives_the_same_table(place, capsys):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, protocol="tcp://", host="127.0.0.1", dashboard_address=":0") as cluster:
        output, errors = (d := driver(place, "--cluster", cluster.scheduler_address, count=2)).communicate(timeout=SOON)
        assert d.returncode == 0 and "0 of 2 points are done; 2 at a time" in output, output + errors
    assert sweeps.main(["run", str(place/"sweep.yml"), "--out", str(place/"threads"), "--workers", "2"]) == 0
    here, there = ([{k: v for k, v in row.items() if k != "run.seconds"} for row in sweeps.rows(place/out)] for out in ("threads", "out"))
    assert [row["square"] for row in here] == [0, 1] and here == there, "with the same number of threads each, too"
    capsys.readouterr()
    assert sweeps.main(["run", str(place/"sweep.yml"), "--out", str(place/"other"), "--cluster", "tcp://127.0.0.1:1"]) == 2
    assert "no Dask scheduler answers at 'tcp://127.0.0.1:1'" in capsys.readouterr().err


# --- what is refused ---

GOOD = dict(notebook="toy.ipynb", fixed=dict(fast=True), grid=[dict(i=[0, 1], kind=["2d", "3d"]), dict(i=[7])], metric="square")


def read(folder, text, **given):
    file = folder/"it.yml"
    if isinstance(text, dict): text = yaml.safe_dump(text, sort_keys=False)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return grid.read_sweep(file, given)


def test_a_grid_is_every_combination_with_defaults_filled_in(toy):
    found = [p["parameters"] for p in read(toy, GOOD, rate=2).points]
    rest = dict(rate=2.0, fast=True, here="")
    assert found == [dict(i=0, kind="2d", **rest), dict(i=0, kind="3d", **rest), dict(i=1, kind="2d", **rest),
                     dict(i=1, kind="3d", **rest), dict(i=7, kind="2d", **rest)]
    assert list(found[0]) == ["i", "rate", "kind", "fast", "here"]


@pytest.mark.parametrize("change, message", [
    ("grid: {i: [0, 1}", r"not valid YAML: .*line 1, column 16"),
    ("notebook: toy.ipynb\nnotebook: toy.ipynb", r"not valid YAML: 'notebook' is said twice, line 1"),
    ("- 1", r"must map names to values"),
    ("", r"must map names to values"),
    ("\0", r"not valid YAML"),
    (b"\xe4: 1", r"not valid YAML"),
    (dict(gird={}), r"unknown key 'gird': choose one of 'notebook'"),
    (dict(notebook=None), r"notebook is None"),
    (dict(notebook="tony.ipynb"), r"tony\.ipynb: no such notebook; .*relative"),
    (dict(notebook="it.yml"), r"no such notebook"),
    (dict(notebook="broken.ipynb"), r"broken\.ipynb: not a notebook"),
    (dict(notebook="plain.ipynb"), r"plain\.ipynb: .*tagged \"parameters\""),
    (dict(notebook="odd.ipynb"), r"odd\.ipynb: the default of i, len\(''\), is no plain value"),
    (dict(notebook="list.ipynb"), r"list\.ipynb: unknown type of the parameter i 'list'"),
    (dict(fixed=dict(sede=1)), r"fixed: unknown parameter 'sede': choose one of 'i', 'rate'"),
    (dict(fixed=dict(out="x")), r"fixed: out is set by the sweep"),
    (dict(fixed=dict(i=3)), r"grid, number 1: i is said here and in `fixed`"),
    (dict(fixed=[]), r"fixed: it is \[\]"),
    (dict(grid=dict(i=["1"])), r"grid: i is '1': it must be of type int"),
    (dict(grid=dict(i=[True])), r"grid: i is True: it must be of type int"),
    (dict(grid=dict(i=[1.0])), r"grid: i is 1\.0: it must be of type int"),
    (dict(grid=dict(i=[2**70])), r"grid: i is \d+, which cannot be kept"),
    (dict(grid=dict(rate=[float("nan")])), r"grid: rate is nan: it must be a finite"),
    (dict(grid=dict(rate=["1e-3"])), r"write 0\.001 or 1\.0e-3"),
    (dict(grid=dict(kind=[2])), r"grid: kind is 2: .*quotes"),
    (dict(grid=dict(kind=[None])), r"grid: kind is None"),
    (dict(grid=dict(i=3)), r"grid: i is 3: it must be a list"),
    (dict(grid=dict(i=[])), r"grid: i is \[\]: it must be a list of at least one"),
    (dict(grid={}), r"grid is empty"),
    (dict(grid=None), r"grid is None"),
    (dict(grid={1: [2]}), r"grid is .*names"),
    (dict(grid=dict(i=list(range(200)), rate=list(range(200)))), r"40,000 points"),
    (dict(grid=dict(i=[0, 0])), r"grid: the point i 0 is there twice"),
    (dict(grid=dict(rate=[8, 8.0])), r"grid: the point rate 8\.0 is there twice|grid: the point rate 8 is there twice"),
    (dict(grid=[dict(i=[1, 2]), dict(i=[3], rate=[1.0]), dict(i=[2], rate=[1.0])]), r"grid, number 3: the point i 2, rate 1\.0 is there twice"),
    (dict(grid=[dict(i=[1]), dict(i=2)]), r"grid, number 2: i is 2: it must be a list"),
    (dict(grid=[dict(i=[1]), {}]), r"grid, number 2 is empty"),
    (dict(grid=[dict(i=[1]), 3]), r"grid, number 2 is 3: it must map"),
    (dict(grid=[]), r"grid is \[\]"),
    (dict(points=[dict(i=1)]), r"unknown key 'points'"),
    (dict(metric=3), r"metric is 3"),
])
def test_a_wrong_file_is_refused_before_anything_runs(toy, tmp_path, capsys, change, message):
    (toy/"broken.ipynb").write_text("{")
    write_report(toy/"plain.ipynb", parameters="x = 1")
    write_report(toy/"odd.ipynb", parameters=PARAMETERS.replace("i: int = 0", "i: int = len('')"))
    write_report(toy/"list.ipynb", parameters=PARAMETERS.replace("i: int = 0", "i: list = []"))
    text = {**GOOD, **change} if isinstance(change, dict) else change
    with pytest.raises(ConfigError, match=r"(?s)it\.yml: .*" + message): read(toy, text)
    assert sweeps.main(["run", str(toy/"it.yml"), "--out", str(tmp_path/"out")]) == 2
    assert not (tmp_path/"out").exists() and str(toy/"it.yml") in capsys.readouterr().err


def test_a_report_of_a_foreign_editor_needs_no_kernelspec(tmp_path):
    nb = dict(nbformat=4, nbformat_minor=4, metadata={}, cells=[
        dict(cell_type="code", metadata=dict(tags=["parameters"]), source=PARAMETERS, outputs=[], execution_count=None)])
    (tmp_path/"toy.ipynb").write_text(json.dumps(nb))
    assert len(read(tmp_path, GOOD).points) == 5


def test_a_sweep_without_points_or_file_is_refused(toy):
    with pytest.raises(ConfigError, match="names no points"): read(toy, dict(notebook="toy.ipynb"))
    with pytest.raises(ConfigError, match="`notebook` is missing"): read(toy, dict(grid=dict(i=[0])))
    with pytest.raises(ConfigError, match="nowhere.yml: cannot be read"): grid.read_sweep(toy/"nowhere.yml")
    with pytest.raises(ConfigError, match="--set\\): unknown parameter 'sede'"): read(toy, GOOD, sede=1)
    with pytest.raises(ConfigError, match="workers is 0"): sweeps.run(toy/"it.yml", toy/"out", workers=0)


def test_settings_of_the_command_line_are_yaml(toy):
    assert dict(map(grid.setting, ["i=3", "kind=2d", "here=", "rate=0.5"])) == dict(i=3, kind="2d", here="", rate=0.5)
    for wrong in ("i", "i=[0"):
        with pytest.raises(ConfigError, match="--set i"): grid.setting(wrong)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_a_file_says_the_error_is_the_librarys(toy, data):
    text = yaml.safe_dump(GOOD)
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    text = text[:start] + data.draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
        ["2024-13-45", "!!int x", "&a [*a]", "{? [1] : 2}", "<<: 3", "!!binary x", ": ", "- ", "~", "[" * 3000])) + text[end:]
    try: read(toy, text)
    except ConfigError as e: assert str(toy/"it.yml") in str(e)


# --- what a point is ---

values = st.fixed_dictionaries(dict(i=st.integers(-5, 5), rate=st.sampled_from([0, 1, 8, 0.5]), kind=st.sampled_from(["2d", "3d", "2", "é"]), fast=st.booleans()))
DEFAULTS = dict(i=0, rate=1.0, kind="2d", fast=False)


@settings(max_examples=40, deadline=None)
@given(values, values, st.data())
def test_equal_points_have_equal_names_and_others_do_not(toy, a, b, data):
    def written(point):    # the same point, said in another way
        left_out = {k for k, v in point.items() if v == DEFAULTS[k] and data.draw(st.booleans())} - {"i"}
        spell = lambda v: data.draw(st.sampled_from([v, float(v)] + [-0.0] * (v == 0))) if type(v) in (int, float) else v
        items = [(k, v if k == "i" else spell(v) if k == "rate" else v) for k, v in point.items() if k not in left_out]
        items = data.draw(st.permutations(items))
        cut = data.draw(st.integers(0, len(items)))
        fixed, rest = dict(items[:cut]), dict(items[cut:])
        if not rest: rest = {"here": ""}
        return dict(notebook="toy.ipynb", fixed=fixed, grid=data.draw(st.sampled_from([grid := {k: [v] for k, v in rest.items()}, [grid]])))

    one, again, other = (grid.point_id(read(toy, written(p)).points[0]) for p in (a, a, b))
    assert one == again and (one == other) == (a == b)


def test_a_name_changes_with_the_report_and_the_version_only(tmp_path, monkeypatch):
    def name(at="one", file="toy.ipynb", **report):
        (tmp_path/at).mkdir(exist_ok=True)
        write_report(tmp_path/at/file, **report)
        return grid.point_id(read(tmp_path/at, dict(notebook=file, grid=dict(i=[3]))).points[0])

    first = name()
    assert first == name(at="two") == name(text="Other prose.") == name(parameters=PARAMETERS.replace("a number", "a figure"))
    assert first == name(parameters=PARAMETERS.replace("i: int = 0", "i: int = 5")), "a default that is not used"
    others = [name(code=CODE + "\nx = 1"), name(file="other.ipynb"), name(parameters=PARAMETERS.replace("1.0", "2.0")), name(parameters="new: int = 0\n" + PARAMETERS)]
    monkeypatch.setattr(grid, "__version__", "99.0")
    assert len({first, *others, name()}) == 6


# --- states and tables ---

def put(out, parameters, rows, version="1", damage=None):
    "A finished point, written by hand."
    point = dict(notebook="toy.ipynb", code="0" * 64, version=version, parameters=parameters)
    folder = out/"points"/grid.point_id(point)
    (folder/"out").mkdir(parents=True)
    (folder/"parameters.json").write_text(json.dumps(point))
    (folder/"out"/"result.json").write_text(json.dumps(dict(rows=rows)))
    (folder/"status.json").write_text(json.dumps(dict(state="done", seconds=2.0, sha256=sha256_file(folder/"out"/"result.json"))))
    if damage: damage(folder)
    return folder


def test_a_table_has_a_row_for_each_point_and_model(tmp_path, capsys):
    put(tmp_path, dict(seed=10, kind="2d"), [dict(model="a", skill=0.5, seed=10, kind="x", intervals=dict(skill=[0.4, 0.6], tde=None))])
    put(tmp_path, dict(seed=2, kind="2d"), [dict(model="a", skill=0.25, used=3), dict(model="b", skill=None)])
    put(tmp_path, dict(seed=2, kind="2d", seconds=180.0), [dict(model="a", skill=1, seconds=3.5)], version="2")
    t = sweeps.table(tmp_path)
    assert list(t.seed) == [2, 2, 10, 2] and list(t.model) == ["a", "b", "a", "a"] and list(t["run.version"]) == ["1", "1", "1", "2"]
    assert t.skill[0] == 0.25 and t.skill.isna()[1] and t.seconds.tolist()[3] == 180 and t["result.seconds"].tolist()[3] == 3.5
    assert t.loc[2, ["kind", "result.kind", "intervals.skill.0", "intervals.skill.1"]].tolist() == ["2d", "x", 0.4, 0.6]
    assert "result.seed" not in t and "intervals.skill" not in t and (t["run.seconds"] == 2).all() and t["run.id"].nunique() == 3

    assert sweeps.main(["table", str(tmp_path), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == sweeps.rows(tmp_path)
    assert sweeps.main(["table", str(tmp_path), "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split(",") == list(t.columns)
    assert sweeps.main(["table", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.count("\n| ") == 5 and re.search(r"same for all: .*notebook toy\.ipynb, kind 2d, run\.seconds 2\.0", said)
    assert sweeps.main(["table", str(tmp_path/"nowhere")]) == 2


@pytest.mark.parametrize("damage, expected", [
    (None, "done"),
    (lambda f: (f/"out"/"result.json").write_text('{"rows": [{"mod'), "failed"),
    (lambda f: (f/"out"/"result.json").unlink(), "failed"),
    (lambda f: (f/"status.json").unlink(), "open"),
    (lambda f: (f/"status.json").write_text("{"), "open"),
    (lambda f: (f/"status.json").write_text("[]"), "open"),
    (lambda f: (f/"status.json").write_text('{"state": "failed", "reason": "x"}'), "failed"),
])
def test_a_point_is_done_when_its_status_and_the_digest_say_so(tmp_path, capsys, damage, expected):
    folder = put(tmp_path, dict(seed=1), [dict(model="a")], damage=damage)
    assert state(folder)["state"] == expected
    assert len(sweeps.rows(tmp_path)) == (expected == "done")
    assert sweeps.main(["table", str(tmp_path)]) == 0
    assert (f"{folder.name}: {expected}" in capsys.readouterr().err) == (expected != "done")


@pytest.mark.parametrize("damage", [lambda text: text.replace('"seed": 1', '"seed": 2'), lambda text: text[:20], lambda text: "[]", lambda text: '{"winner": "me"}'])
def test_parameters_that_were_altered_or_damaged_label_no_result_and_are_named(tmp_path, capsys, damage):
    folder, other = (put(tmp_path, dict(seed=seed), [dict(model="a")]) for seed in (1, 3))
    (folder/"parameters.json").write_text(damage((folder/"parameters.json").read_text()))
    assert [row["run.id"] for row in sweeps.rows(tmp_path)] == [other.name]
    assert sweeps.main(["table", str(tmp_path)]) == 0
    assert f"{folder.name}{os.sep}parameters.json: missing, damaged or of another point" in capsys.readouterr().err


def test_a_folder_of_another_version_is_refused_and_left_alone(toy, tmp_path, capsys):
    folder = put(tmp_path/"out", dict(i=0), [dict(model="toy")], version="0.0.0")
    before = {p: p.read_bytes() for p in (tmp_path/"out").rglob("*") if p.is_file()}
    read(toy, GOOD)
    assert sweeps.main(["run", str(toy/"it.yml"), "--out", str(tmp_path/"out")]) == 2
    said = capsys.readouterr().err
    assert str(tmp_path/"out") in said and folder.name in said and "motion_vq 0.0.0" in said and "another folder" in said
    assert before == {p: p.read_bytes() for p in (tmp_path/"out").rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.mark.parametrize("text", ["", "{", '{"rows": [{"model": "a"}', "[]", '{"rows": {}}', '{"rows": []}', '{"rows": [1]}', '{"rows": [{"x": NaN}]}'])
def test_a_result_that_is_cut_short_or_empty_has_a_fault(tmp_path, text):
    (tmp_path/"result.json").write_text(text)
    assert "result.json" in _fault(tmp_path/"result.json")
    (tmp_path/"result.json").write_text('{"rows": [{"model": "a"}]}')
    assert _fault(tmp_path/"result.json") is None


def test_a_folder_that_cannot_be_written_is_named(toy):
    (toy/"file").write_text("")
    write_sweep(toy, 1)
    with pytest.raises(DataError, match="file.*cannot be used"): sweeps.run(toy/"sweep.yml", toy/"file", say=print)


# --- the project's own sweeps ---

@pytest.mark.parametrize("file, scale, count", [("smoke.yml", "smoke", 5), ("cpu.yml", "cpu", 36), ("models.yml", "cpu", 36), ("table.yml", "cpu", 63), ("paper.yml", "paper", 16)])
def test_the_sweeps_of_the_project_fit_their_reports(file, scale, count):
    found = grid.read_sweep(ROOT/"nbs"/"analysis"/"sweeps"/file)
    assert len(found.points) == count and {p["parameters"]["scale"] for p in found.points} == {scale}


@pytest.mark.parametrize("file", ["table.yml", "paper.yml"])
def test_every_published_row_is_in_the_sweeps_of_the_table(file):
    rows = list(csv.DictReader((ROOT/"nbs"/"analysis"/"published.csv").open()))
    wanted = {(r["kind"], int(r["compression"]), int(r["codebook_size"])) for r in rows}
    points = [p["parameters"] for p in grid.read_sweep(ROOT/"nbs"/"analysis"/"sweeps"/file).points]
    assert len(rows) == len(wanted) == 14
    assert wanted == {(p["kind"], p["compression"], p["codebook_size"]) for p in points if p["model"] == "vqgan"}


def test_what_notebooks_need_is_an_extra_and_among_the_tools_of_development():
    config = ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT/"settings.ini", encoding="utf-8")
    lists = {name: set(config["DEFAULT"][f"{name}_requirements"].split()) for name in ("dev", "notebooks", "dask")}
    assert lists["notebooks"] | lists["dask"] <= lists["dev"]


@pytest.mark.parametrize("module, extra, call", [
    ("papermill", "notebooks", lambda toy: read(toy, GOOD)), ("pandas", "notebooks", lambda toy: sweeps.table(toy/"empty")),
    ("distributed", "dask", lambda toy: sweeps._dask("tcp://127.0.0.1:1").__enter__())])
def test_what_is_not_installed_is_named_with_its_extra(toy, monkeypatch, module, extra, call):
    (toy/"empty"/"points").mkdir(parents=True, exist_ok=True)
    for name in [n for n in sys.modules if n.split(".")[0] == module]: monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"{module} is not installed: pip install 'motion_vq\[{extra}\]'"): call(toy)
