"""The report's contract: its parameters, its result, its refusals."""
import json
import os
import subprocess
import sys
from pathlib import Path

import papermill as pm
import pytest

from motion_vq.core import ConfigError, check_parameters, write_json

ROOT = Path(__file__).parents[1]
REPORT = ROOT/"nbs"/"analysis"/"vqgan_vs_dvae.ipynb"
PARAMETERS = {"data": "", "kind": "2d", "scale": "smoke", "seed": 0, "compression": 8, "codebook_size": 0, "steps": 0,
              "data_name": "", "out": ""}


def run(folder, *parameters, report=REPORT):
    "papermill's command line, as a user types it."
    command = [sys.executable, "-m", "papermill", str(report), str(folder/"out.ipynb"), "-k", "python3", "--no-progress-bar"]
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


# --- reports of a published sweep: results, and no models ---

def result(kind, model, K, seed, skill, tde):
    "What `tokenizer.ipynb` would have written: four recordings, the third and fourth harder, of a blank picture's SSIM 0.2."
    frames, sequences = 160.0, {}
    for i, harder in enumerate((0, 0, 0.01, 0.02)):
        error = 1 - skill + harder + 0.001 * seed
        sequences[f"take{i}"] = dict(frames=frames, ssim=frames * (0.2 + 0.8 * (1 - error)), ssim_blank=0.2 * frames, mse=error, l1=error, fg=1e4, fg_se=1e4 * error,
                                     fg_ae=1e4 * error, bg=9e4, bg_ae=9e3 * error, change=1e3, change_error=1e3 * (tde + harder))
    row = dict(model=model, psnr=20.0, l1=0.1, t_std=0.22, bits_per_second=480.0, codes_used=K, perplexity=float(K), joint_error=1.0)
    config = dict(kind=kind, compression=8, codebook_size=K, model=model, seed=seed, architecture={}, training=dict(frames=16, size=32, steps=1000))
    return dict(rows=[row], by_sequence=sequences, config=config, data="nobody", data_sha256="0" * 64, version="1")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    "The vocabularies saturate at 128 in 2D; the plain dVAE has 0.2 less skill, and twice the TDE."
    folder, points = tmp_path_factory.mktemp("published"), []
    for seed in (0, 1):
        for K, skill in {16: 0.7, 128: 0.895, 256: 0.9, 1024: 0.9}.items(): points.append(result("2d", "vqgan", K, seed, skill, 0.5))
        for K, skill in {256: 0.8, 1024: 0.85}.items(): points.append(result("3d", "vqgan", K, seed, skill, 0.6))
        for model, skill, tde in (("plain dvae", 0.7, 1.0), ("no adversary", 0.9, 0.5), ("continuous", 0.95, 0.4)):
            points.append(result("2d", model, 256, seed, skill, tde))
    for i, point in enumerate(points): write_json(folder/"points"/str(i)/"out"/"result.json", point)
    return folder


def test_the_claims_are_judged_by_pairs(published, tmp_path):
    done = run(tmp_path, ("results", published), ("out", tmp_path/"run"), report=REPORT.with_name("claims.ipynb"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path/"run"/"result.json").read_text())
    plain, adversary = ({p["against"]: p for p in found["pairs"]}[rival] for rival in ("plain dvae", "no adversary"))
    assert plain["verdicts"] == dict(ssim="holds", tde="holds") and plain["seeds"] == [0, 1] and plain["recordings"] == 4
    value, low, high = plain["tde"]["change"]
    assert value == pytest.approx(0.5075 / 1.0075 - 1) and low <= value <= high
    assert plain["ssim_skill"]["difference"] == pytest.approx([0.2] * 3)
    assert adversary["ssim_skill"]["difference"] == adversary["tde"]["change"] == [0, 0, 0] and adversary["verdicts"] == dict.fromkeys(("ssim", "tde"), "does not hold")
    assert {v["kind"]: (v["needed"], v["verdict"]) for v in found["vocabularies"]} == {"2d": (128, "holds"), "3d": (1024, "holds")}
    assert {row["model"] for row in found["rows"]} == {"vqgan", "plain dvae", "no adversary", "continuous"}
    words = [o["data"]["text/markdown"] for c in json.loads((tmp_path/"out.ipynb").read_text())["cells"] for o in c.get("outputs", []) if "text/markdown" in o.get("data", {})]
    assert "Data: **nobody**" in "".join(words[-1]) and "no larger one was tried" in "".join(words[-1])
    assert {p.name for p in (tmp_path/"run").iterdir()} == {"ladder.pdf", "ladder.png", "result.json"}


def test_figures_that_need_a_model_are_left_out_without_one(published, tmp_path):
    done = run(tmp_path, ("results", published), ("out", tmp_path/"run"), report=REPORT.with_name("paper_figures.ipynb"))
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path/"run").iterdir() if p.is_file()} == {"quality.pdf", "quality.png", "result.json"}
    assert "figures that need one are left out" in (tmp_path/"out.ipynb").read_text()
