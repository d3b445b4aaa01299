"""The report's contract: its parameters, its result, its refusals."""
import json
import os
import subprocess
import sys
from pathlib import Path

import papermill as pm
import pytest

from motion_vq.core import ConfigError, check_parameters

ROOT = Path(__file__).parents[1]
REPORT = ROOT/"nbs"/"analysis"/"vqgan_vs_dvae.ipynb"
PARAMETERS = {"data": "", "kind": "2d", "scale": "smoke", "seed": 0, "compression": 8, "codebook_size": 0, "steps": 0,
              "data_name": "", "out": ""}


def run(folder, *parameters):
    "papermill's command line, as a user types it."
    command = [sys.executable, "-m", "papermill", str(REPORT), str(folder/"out.ipynb"), "-k", "python3", "--no-progress-bar"]
    for name, value in parameters: command += ["-p", name, str(value)]
    return subprocess.run(command, cwd=folder, env=dict(os.environ, OMP_NUM_THREADS="2"), capture_output=True, text=True)


def test_parameters_are_listed_with_their_defaults_types_and_help():
    found = pm.inspect_notebook(REPORT)
    assert {name: eval(p["default"]) for name, p in found.items()} == PARAMETERS
    for name, p in found.items():
        assert p["inferred_type_name"] == type(PARAMETERS[name]).__name__ and len(p["help"]) > 10, name


def test_a_run_writes_the_result_that_others_rely_on(tmp_path):
    done = run(tmp_path, ("kind", "3d"), ("scale", "smoke"), ("seed", 3), ("steps", 20), ("out", tmp_path/"run"))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path/"run"/"result.json").read_text())
    rows = {row["model"]: row for row in result["rows"]}
    assert list(rows) == ["vqgan", "dvae", "blank", "frozen", "mean"]
    for row in rows.values():
        assert {"ssim", "psnr", "l1", "t_std", "q_loss", "ssim_skill", "fg_psnr", "fg_l1", "tde", "codes_used", "perplexity"} <= set(row)
    assert rows["blank"]["ssim_skill"] == 0 and rows["blank"]["tde"] == rows["frozen"]["tde"] == 1
    assert 1 <= rows["vqgan"]["codes_used"] <= 64 and rows["vqgan"]["q_loss"] > 0 and rows["dvae"]["q_loss"] is None
    assert result["config"]["seed"] == 3 and result["config"]["training"]["steps"] == 20
    assert len(result["data_sha256"]) == 64 and result["seconds"] > 0 and result["data"] == "synthetic people"

    before = result["rows"]
    again = run(tmp_path, ("kind", "3d"), ("seed", 3), ("steps", 20), ("out", tmp_path/"again"))
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path/"again"/"result.json").read_text())["rows"] == before, "same seed, same data: same bits"


@pytest.mark.parametrize("parameter,message", [
    (("sede", 1), "unknown parameter 'sede'"), (("kind", "4d"), "'exo', '3d'"), (("scale", "huge"), "'smoke'"),
    (("seed", "one"), "type int"), (("compression", 12), "power of two"), (("data", "nowhere"), "nowhere")])
def test_what_does_not_fit_stops_the_report_before_it_trains(tmp_path, parameter, message):
    done = run(tmp_path, parameter, ("out", tmp_path/"run"))
    assert done.returncode != 0 and message in done.stderr
    assert not list(tmp_path.glob("run/result.json")) and not list(tmp_path.rglob("*.safetensors"))


def test_parameters_are_checked_by_name_and_type():
    check_parameters(dict(a=1, b=1, _c=object(), In=[], f=len), a=int, b=float)
    with pytest.raises(ConfigError, match="'kind'"): check_parameters(dict(knid="2d"), kind=str)
    with pytest.raises(ConfigError, match="seed is True"): check_parameters(dict(seed=True), seed=int)
