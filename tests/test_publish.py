"What `tools/publish.py` makes of a sweep: a folder that is one itself, with nothing of the machine in it."
import json
import runpy
import shutil
from pathlib import Path

import pytest

from motion_vq import __version__, grid, sweeps
from motion_vq.core import sha256_file

ROOT = Path(__file__).parents[1]
main = runpy.run_path(str(ROOT/"tools"/"publish.py"))["main"]
COMMIT, MACHINE = "0" * 40, "2 cores, no GPU / no swap"


def put(out, state="done", result=None, **parameters):
    "A point, written by hand, with what a sweep leaves beside it."
    point = dict(notebook="toy.ipynb", code="0" * 64, version=__version__, parameters=dict(data="../mocap") | parameters)
    folder = out/"points"/grid.point_id(point)
    (folder/"out"/"vqgan").mkdir(parents=True)
    for stray in (".lock", "toy.ipynb", "out/vqgan/last.safetensors", "out/manifest.json"): (folder/stray).write_text("{}")
    (folder/"parameters.json").write_text(json.dumps(point))
    (folder/"out"/"result.json").write_text(json.dumps(dict(rows=[dict(model="a", **(result or {}))])))
    (folder/"status.json").write_text(json.dumps(dict(state=state, seconds=2.0, sha256=sha256_file(folder/"out"/"result.json"))))
    return folder


def publish(out, target, commit=COMMIT, hardware=MACHINE): return main([str(out), str(target), "--hardware", hardware, "--commit", commit])


def content(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def swept(tmp_path):
    for seed in (0, 1): put(tmp_path/"sweep", seed=seed)
    put(tmp_path/"sweep", "failed", seed=2)
    (put(tmp_path/"sweep", seed=3)/"status.json").unlink()    # in work
    return tmp_path/"sweep"


def test_what_is_done_is_published_and_nothing_else(swept, tmp_path, capsys):
    assert publish(swept, tmp_path/"cpu") == 0 and "2 points published, 2 in" in capsys.readouterr().out
    assert sweeps.rows(tmp_path/"cpu") == sweeps.rows(swept) != []
    names = {row["run.id"] for row in sweeps.rows(swept)}
    assert content(tmp_path/"cpu").keys() == {"made.json", *(f"points/{n}/{k}" for n in names for k in ("parameters.json", "status.json", "out/result.json"))}
    assert json.loads((tmp_path/"cpu"/"made.json").read_text()) == {n: dict(commit=COMMIT, hardware=MACHINE) for n in sorted(names)}


def test_a_sweep_goes_on_from_what_is_published(tmp_path, capsys):
    from nbformat.v4 import new_code_cell, new_notebook
    cells = [new_code_cell('seed: int = 0\ndata: str = ""\nout: str = ""', metadata=dict(tags=["parameters"])), new_code_cell("raise RuntimeError('run again')")]
    (tmp_path/"toy.ipynb").write_text(json.dumps(new_notebook(cells=cells)))
    (tmp_path/"two.yml").write_text("notebook: toy.ipynb\nfixed: {data: ../mocap}\ngrid: {seed: [0, 1]}")
    for point in grid.read_sweep(tmp_path/"two.yml").points:
        folder = put(tmp_path/"sweep", **point["parameters"])
        folder = folder.rename(folder.with_name(grid.point_id(point)))
        (folder/"parameters.json").write_text(json.dumps(point))
    publish(tmp_path/"sweep", tmp_path/"cpu")
    assert {p["state"] for p in sweeps.run(tmp_path/"two.yml", tmp_path/"cpu")} == {"done"}, "nothing is run again"
    assert "2 of 2 points are done" in capsys.readouterr().out


def test_what_was_published_before_stays(swept, tmp_path):
    publish(swept, tmp_path/"cpu")
    before = content(tmp_path/"cpu/points")
    later = put(swept, seed=4)
    assert publish(swept, tmp_path/"cpu", "1" * 40) == 0
    after, made = content(tmp_path/"cpu/points"), json.loads((tmp_path/"cpu"/"made.json").read_text())
    assert before.items() < after.items() and [n for n, m in made.items() if m["commit"] == "1" * 40] == [later.name]
    shutil.rmtree(swept/"points")
    put(swept, seed=5)
    assert publish(swept, tmp_path/"cpu") == 0 and len(sweeps.rows(tmp_path/"cpu")) == 4, "a sweep that lacks what is published takes nothing away"


def test_a_call_that_was_cut_short_is_made_good(swept, tmp_path):
    publish(swept, tmp_path/"cpu")
    whole = content(tmp_path/"cpu")
    (tmp_path/"cpu"/"made.json").unlink()
    next((tmp_path/"cpu"/"points").rglob("status.json")).unlink()
    assert publish(swept, tmp_path/"cpu") == 0 and content(tmp_path/"cpu") == whole


def altered(folder): (folder/"out"/"result.json").write_text('{"rows": [{"model": "a", "skill": 1}]}')
def relabelled(folder): (folder/"parameters.json").write_text((folder/"parameters.json").read_text().replace('"seed": 9', '"seed": 8'))


@pytest.mark.parametrize("how, damage, message", [
    ({}, altered, "altered since"), ({}, relabelled, "another point"), ({}, lambda f: (f/"out/result.json").unlink(), "was lost"),
    ({}, lambda f: (f/"parameters.json").write_text("{"), "not valid JSON"),
    *((dict(data=path), None, "path of this machine") for path in ("/data", "/srv/mocap/x", "C:\\mocap", "\\\\server\\x", "C:/mocap", "~/mocap", "~user")),
    (dict(result=dict(note="found in /home/user/x")), None, "path of this machine")])
def test_nothing_is_published_if_one_point_is_faulty(swept, tmp_path, capsys, how, damage, message):
    folder = put(swept, seed=9, **how)
    if damage: damage(folder)
    assert publish(swept, tmp_path/"cpu") == 1
    said = capsys.readouterr().err
    assert message in said and folder.name in said and not (tmp_path/"cpu").exists()


def test_another_result_of_a_published_point_is_refused(swept, tmp_path, capsys):
    publish(swept, tmp_path/"cpu")
    before = content(tmp_path/"cpu")
    shutil.rmtree(swept/"points")
    put(swept, seed=0, result=dict(skill=1)), put(swept, seed=7)
    assert publish(swept, tmp_path/"cpu") == 1 and "another result" in capsys.readouterr().err and content(tmp_path/"cpu") == before


def test_harmless_slashes_are_no_paths(swept, tmp_path):
    put(swept, seed=9, result=dict(note="CPU/GPU, 2 / 3, ./a/b, ../../c/d, https://a.b/c/d, 1/2", ratio=1.5))
    assert publish(swept, tmp_path/"cpu") == 0


@pytest.mark.parametrize("hardware", ["", " ", "/home/me/x"])
def test_a_machine_is_said(swept, tmp_path, hardware): assert publish(swept, tmp_path/"cpu", hardware=hardware) == 2


def test_a_folder_without_points_is_refused_and_the_commit_is_the_clones(swept, tmp_path):
    assert main([str(tmp_path), str(tmp_path/"cpu"), "--hardware", "x", "--commit", COMMIT]) == 2
    if not (ROOT/".git").exists(): return
    assert main([str(swept), str(tmp_path/"cpu"), "--hardware", "x"]) == 0
    assert {len(m["commit"]) for m in json.loads((tmp_path/"cpu"/"made.json").read_text()).values()} == {40}
