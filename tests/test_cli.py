"The command: verbs do what they say, say it in words or JSON, and end in a sentence and a status whatever they are given."
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from motion_vq.cli import cli
from motion_vq.exports import load_npz, load_parquet, token_digest
from motion_vq.joint_errors import acceleration_error, mpjpe, pck
from motion_vq.recordings import read_recordings
from motion_vq.skeletons import convert
from motion_vq.synthetic import motion, write_dataset
from motion_vq.tokens import Tokenizer, load_tokens

WALK = motion("gait", 60, seed=3)
COMMAND = [sys.executable, "-m", "motion_vq.cli"]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    "A folder with a data set, a run of a few steps, and recordings."
    folder = tmp_path_factory.mktemp("cli")
    write_dataset(folder/"people", train=3, validation=2, frames=48, seed=0)
    np.savez(folder/"walk.npz", joints=WALK, fps=30, skeleton="panoptic19")
    np.save(folder/"jump.npy", motion("jump", 40, seed=1))
    done = CliRunner().invoke(cli, f"train --data {folder/'people'} --kind 3d --steps 2 --batch 2 --eval-every 2 --out {folder/'run'}".split())
    assert done.exit_code == 0, done.output
    return folder


def call(line, status=0):
    "What a line prints; `stderr` where it fails."
    done = CliRunner().invoke(cli, line.split(), prog_name="motion-vq")
    assert done.exit_code == status, (line, done.output, done.exception)
    assert "Traceback" not in done.output and (status == 0 or done.stderr.strip()), line
    return done.stderr if status else done.stdout


def says(line): return json.loads(call(f"{line} --json"))


# --- the verbs ---

def test_there_and_back_through_every_kind_of_file(here):
    found = says(f"encode {here/'walk.npz'} -m {here/'run'} -o {here/'t.safetensors'}")[0]
    tokens = load_tokens(here/"t.safetensors")
    assert found["name"] == "walk" and found["bits"] == tokens.bits()["total"] and found["model"] == tokens.model and found["frames"] == 60
    call(f"encode {here/'walk.npz'} -m {here/'run'} -o {here/'t.npz'}")
    call(f"encode {here/'walk.npz'} {here/'jump.npy'} --fps 30 -m {here/'run'} -o {here/'t.parquet'}")
    call(f"encode {here/'walk.npz'} {here/'jump.npy'} --fps 30 -m {here/'run'} -o {here/'folder'}")
    several = load_parquet(here/"t.parquet")
    assert [t.name for t in several] == ["walk", "jump"] and sorted(p.name for p in (here/"folder").iterdir()) == ["jump.safetensors", "walk.safetensors"]
    assert token_digest(load_npz(here/"t.npz")) == token_digest(tokens) == token_digest(several[0]) == token_digest(load_tokens(here/"folder"/"walk.safetensors"))
    assert token_digest(load_tokens(here/"folder"/"jump.safetensors")) == token_digest(several[1])

    found = says(f"decode {here/'t.npz'} -m {here/'run'} -o {here/'again.npz'}")[0]
    again, = read_recordings(here/"again.npz")
    assert found["shape"] == [60, 19, 3] and again.fps == 30 and again.skeleton.name == "panoptic19" and mpjpe(WALK, again.joints) < 25
    call(f"decode {here/'t.safetensors'} -m {here/'run'} -o {here/'again.npy'}")
    assert np.array_equal(np.load(here/"again.npy"), again.joints)
    call(f"decode {here/'t.parquet'} -m {here/'run'} -o {here/'both'}")
    assert np.array_equal(np.load(here/"both"/"walk.npz")["joints"], again.joints) and np.load(here/"both"/"jump.npz")["joints"].shape == (40, 19, 3)
    call(f"decode {here/'t.npz'} -m {here/'run'} --heatmaps --size 24 -o {here/'maps.npy'}")
    assert np.array_equal(np.load(here/"maps.npy"), Tokenizer.from_run(here/"run").decode(tokens, 24)) and np.load(here/"maps.npy").shape == (3, 60, 24, 24)


def test_what_things_are(here):
    assert says(f"info {here/'walk.npz'}") == [dict(what="recording", name="walk", frames=60, fps=30.0, seconds=2.0, skeleton="panoptic19", coordinates=3, unseen=0.0)]
    run, data = says(f"info {here/'run'}"), says(f"info {here/'people'}")
    assert (run["what"], run["steps"], run["saved"], run["running"]) == ("training run", 2, 2, False) and 0 < run["ssim"] < 1
    assert data == dict(what="data set", train=3, validation=2)
    call(f"encode {here/'walk.npz'} -m {here/'run'} -o {here/'i.npz'}")
    fixed, context = (says(f"info {here/'i.npz'} --coder {coder}")[0] for coder in ("fixed", "context"))
    assert fixed["what"] == "tokens" and fixed["grid"] == [5, 2, 4, 4] and context["bits"] != fixed["bits"]
    assert "frames:           60" in call(f"info {here/'walk.npz'}")


def test_a_saved_tokenizer_is_a_model_too(here):
    Tokenizer.from_run(here/"run").save_pretrained(here/"saved")
    a, b = (says(f"encode {here/'walk.npz'} -m {here/name} -o {here/f'{name}.npz'}")[0]["model"] for name in ("run", "saved"))
    assert a == b == says(f"info {here/'saved'}")["model_id"] and token_digest(load_npz(here/"run.npz")) == token_digest(load_npz(here/"saved.npz"))


def test_pictures(here):
    from PIL import Image
    from motion_vq.heatmaps import render
    from motion_vq.poses import fit
    for name in ("w.npy", "w.gif", "w.png"): call(f"render {here/'walk.npz'} -o {here/name} --size 32 --frames 5")
    assert np.array_equal(np.load(here/"w.npy"), render(fit(WALK.astype(np.float32), 32), 32, kind="triplane"))
    shown = (255 * np.concatenate(list(np.load(here/"w.npy")), -1)).round()
    with Image.open(here/"w.gif") as film:
        assert film.n_frames == 60 and film.size == (96, 32) and film.info["loop"] == 0 and film.info["duration"] == 30, "hundredths of a second are all that there is"
        for i in (0, 1, 31, 59): film.seek(i); assert np.array_equal(np.asarray(film.convert("L")), shown[i])
    with Image.open(here/"w.png") as strip: assert strip.size == (5 * 96, 32)


def test_a_long_recording_is_judged_as_if_at_once(tmp_path, monkeypatch):
    "By the tokenizer that comes with the library; windows three at a time."
    monkeypatch.setattr("motion_vq.tokens.AT_ONCE", 3)
    joints, tokenizer = motion("gait", 700, seed=3).astype(np.float32), Tokenizer.from_pretrained("motion-3d")
    np.save(tmp_path/"long.npy", joints)
    said, again, box = says(f"evaluate {tmp_path/'long.npy'} --fps 30")[0], tokenizer.joints(tokenizer.encode(joints)), float(np.ptp(joints, axis=(0, 1)).max())
    assert said["box"] == box and len(list(tokenizer.pieces(tokenizer.encode(joints)))) == 4
    for name, value in dict(mpjpe=mpjpe(joints, again), pck_5_percent=pck(joints, again, 0.05 * box), acceleration_error=acceleration_error(joints, again)).items():
        assert said[name] == pytest.approx(value, rel=1e-9), name


def test_a_model_is_judged_on_recordings_and_on_windows(here):
    back, windows = says(f"evaluate {here/'walk.npz'} -m {here/'run'}")[0], says(f"evaluate {here/'people'} -m {here/'run'}")
    assert 0 < back["mpjpe"] < 25 and 0 < back["pck_5_percent"] <= 1 and back["frames"] == 60 and back["bits_per_second"] > 100
    assert windows["windows"] == windows["clips"] > 0 and 0 < windows["ssim"] < 1


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_report_is_executed_with_what_was_set(tmp_path, monkeypatch):
    import nbformat
    v4 = nbformat.v4
    cells = [v4.new_code_cell('n: int = 1  # how many', metadata=dict(tags=["parameters"])), v4.new_code_cell('assert n < 9; open("said", "w").write(str(n));')]
    (tmp_path/"nbs"/"analysis").mkdir(parents=True)
    nbformat.write(v4.new_notebook(cells=cells, metadata=dict(kernelspec=dict(name="python3", display_name="python3", language="python"))), tmp_path/"nbs"/"analysis"/"small.ipynb")
    monkeypatch.chdir(tmp_path)
    call("report small -o out.ipynb --set n=3")
    assert Path("said").read_text() == "3" and nbformat.read("out.ipynb", 4).cells[-1].execution_count
    assert "AssertionError" in call("report small -o failed.ipynb --set n=9", 1) and Path("failed.ipynb").exists()
    assert "unknown parameter 'm'" in call("report small -o x.ipynb --set m=3", 2)
    assert "git clone" in call("report nothing -o x.ipynb", 2) and not Path("x.ipynb").exists()


# --- help, completion ---

def test_every_verb_has_help_with_an_example():
    assert set(cli.commands) == {"info", "render", "encode", "decode", "train", "evaluate", "report", "sweep", "download"}
    for verb in cli.commands:
        said = call(f"{verb} --help") + (call("sweep run --help") if verb == "sweep" else "")
        assert f"motion-vq {verb} " in said and "python -m" not in said, verb
        assert any(line.strip().startswith(("motion-vq " + verb, "motion-vq sweep run")) for line in said.splitlines()), f"{verb} has no example"


@pytest.mark.parametrize("words, offered", [("motion-vq en", "encode"), ("motion-vq encode --sk", "--skeleton"), ("motion-vq train --ki", "--kind"), ("motion-vq sweep ta", "table")])
def test_the_shell_completes(words, offered):
    env = dict(_MOTION_VQ_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1))
    done = CliRunner().invoke(cli, [], prog_name="motion-vq", env=env)
    assert f"plain,{offered}" in done.output.splitlines()


# --- bad input ---

NAN = np.where(np.arange(60)[:, None, None] < 30, np.nan, WALK)


@pytest.mark.parametrize("content, line, status, said", [
    (NAN, "", 1, "not seen for 30 frames"), (WALK[:, :18], "--skeleton panoptic19", 1, "18 joints"), (WALK[:, :18], "", 2, "18 joints, which fits none"), (WALK[:0], "", 1, "none of them 0"),
    (WALK[..., 0], "", 1, "expected numbers"), (WALK[..., :2], "", 2, "2 coordinates"), (np.full((9, 19, 3), 1e9), "", 1, "beyond"), (np.full((9, 19, 3), np.inf), "", 1, "infinite"),
    (WALK, "--skeleton dog", 2, "unknown skeleton 'dog'"), (WALK, "--up x", 2, "unknown up 'x'"), (WALK, "--fps 0", 2, "frames a second"), (b"\x93NUMPY nothing", "", 1, "read safely"),
    (b"", "", 1, "read safely"), (None, "", 1, "no such file")])
def test_what_cannot_be_encoded_is_a_sentence(here, tmp_path, content, line, status, said):
    path = tmp_path/"it.npy"
    if isinstance(content, bytes): path.write_bytes(content)
    elif content is not None: np.save(path, content)
    line = line if "--fps" in line else f"{line} --fps 30"
    error = call(f"encode {path} -m {here/'run'} -o {tmp_path/'t.npz'} {line}", status)
    assert said in error and len(error.splitlines()) == 1 and not (tmp_path/"t.npz").exists()


def test_one_frame_and_one_point_come_back(here, tmp_path):
    for name, joints in dict(frame=WALK[:1], point=np.full((20, 19, 3), 5.0)).items():
        np.save(tmp_path/f"{name}.npy", joints)
        call(f"encode {tmp_path/name}.npy --fps 30 -m {here/'run'} -o {tmp_path/'t.npz'}")
        call(f"decode {tmp_path/'t.npz'} -m {here/'run'} -o {tmp_path/'again.npy'}")
        assert np.load(tmp_path/"again.npy").shape == joints.shape and np.isfinite(np.load(tmp_path/"again.npy")).all()


def test_mixed_rates_stay_apart(tmp_path):
    "Each recording keeps its own; a rate that is given goes before what a file says."
    for fps in (25, 50): np.savez(tmp_path/f"at{fps}.npz", joints=motion("gait", 2 * fps, seed=3, fps=fps), fps=fps)
    files = f"{tmp_path/'at25.npz'} {tmp_path/'at50.npz'}"
    made = says(f"encode {files} -o {tmp_path/'both'}")
    assert [(t["fps"], t["frames"], t["grid"][0]) for t in made] == [(25, 50, 1), (50, 100, 1)]
    for fps in (25, 50): assert says(f"decode {tmp_path/'both'/f'at{fps}.safetensors'} -o {tmp_path/'a.npz'}")[0]["fps"] == fps == np.load(tmp_path/"a.npz")["fps"]
    assert [t["fps"] for t in says(f"encode {files} --fps 30 -o {tmp_path/'forced'}")] == [30, 30]


def test_what_cannot_be_written_or_is_damaged_is_a_sentence(here, tmp_path):
    (tmp_path/"file").write_text("in the way")
    assert "file" in call(f"encode {here/'walk.npz'} -m {here/'run'} -o {tmp_path/'file'/'t.npz'}", 1)
    call(f"encode {here/'walk.npz'} -m {here/'run'} -o {tmp_path/'t.safetensors'}")
    whole = (tmp_path/"t.safetensors").read_bytes()
    for content in (whole[:-5], whole[:300] + bytes([whole[300] ^ 1]) + whole[301:], b""):
        (tmp_path/"t.safetensors").write_bytes(content)
        assert "t.safetensors" in call(f"decode {tmp_path/'t.safetensors'} -m {here/'run'} -o {tmp_path/'a.npy'}", 1)
    assert not (tmp_path/"a.npy").exists()
    assert "takes one recording, and these are 2" in call(f"encode {here/'walk.npz'} {here/'jump.npy'} --fps 30 -m {here/'run'} -o {tmp_path/'t.npz'}", 2)
    for line in (f"encode {here/'walk.npz'} -m {here/'run'} -o t.csv", f"render {here/'walk.npz'} -o w.mp4", f"decode x.npz -m {here/'run'} -o a.csv", "encode", "dance", f"info {here/'i.npz'} --speed 3"): call(line, 2)


def test_tokens_of_another_model_are_refused_by_its_name(here, tmp_path):
    from dataclasses import replace
    from motion_vq.exports import save_npz
    call(f"encode {here/'walk.npz'} -m {here/'run'} -o {tmp_path/'t.npz'}")
    tokens = load_npz(tmp_path/"t.npz")
    save_npz(replace(tokens, model="feedfeedfeedfeed"), tmp_path/"other.npz")
    assert f"made by the model feedfeedfeedfeed, and this is {tokens.model}" in call(f"decode {tmp_path/'other.npz'} -m {here/'run'} -o {tmp_path/'a.npy'}", 1)


@pytest.mark.parametrize("line, status, said", [
    ("train", 2, "motion-vq train: error: the following arguments are required: --data, --out"), ("sweep", 2, "usage: motion-vq sweep"), ("sweep run", 2, "motion-vq sweep run: error"),
    ("download", 2, "motion-vq download: error"), ("encode {}/walk.npz -o t.txt", 2, "unknown kind of token file"), ("encode {}/walk.npz --device cuda:99 -o t.npz", 2, "take cpu or auto"),
    ("encode {}/walk.npz --device banana -o t.npz", 2, "'banana' cannot be used"), ("encode {}/walk.npz -m nothing -o t.npz", 1, "motion-2d or motion-3d"), ("info {}/nowhere", 1, "is not read here"),
    ("info {}", 1, "neither a tokenizer, a training run, a data set nor"), ("evaluate {}/people", 2, "a codec sees none"), ("encode {}/jump.npy -o t.npz", 2, "--fps 30")])
def test_what_a_newcomer_mistypes_is_told_in_the_words_that_they_typed(here, tmp_path, monkeypatch, line, status, said):
    monkeypatch.chdir(tmp_path)
    error = call(line.format(here), status)
    assert said in error and "python -m" not in error and not list(tmp_path.iterdir())


def test_humanml3d_goes_there_and_back(tmp_path):
    "SMPL's 22 joints at 20 frames a second, y up, in metres: its face is guessed if asked for, its feet come back unseen."
    walk = motion("gait", 60, seed=3, fps=20) / 100 * [1, -1, -1]
    joints = convert(walk, "panoptic19", "smpl22", blank=True)
    np.save(tmp_path/"000001.npy", np.where(np.isnan(joints), walk[:, 15:16], joints))
    line = f"encode {tmp_path/'000001.npy'} --fps 20 --up y -o {tmp_path/'t.safetensors'}"
    assert "smpl22 cannot give nose" in call(line, 2) and "--guess" in call(line, 2)
    call(f"{line} --guess")
    call(f"decode {tmp_path/'t.safetensors'} -o {tmp_path/'again.npz'}")
    again = np.load(tmp_path/"again.npz")["joints"]
    seen = np.isfinite(again).all((0, 2))
    assert again.shape == (60, 22, 3) and seen.sum() == 13 and mpjpe(joints[:, seen], again[:, seen]) < 0.08
    assert says(f"evaluate {tmp_path/'000001.npy'} --fps 20 --up y --guess")[0]["joints"] == 13
    call(f"decode {tmp_path/'t.safetensors'} --skeleton panoptic19 -o {tmp_path/'own.npz'}")
    assert np.load(tmp_path/"own.npz")["joints"].shape == (60, 19, 3) and str(np.load(tmp_path/"own.npz")["skeleton"]) == "panoptic19"


def test_tokenizers_that_come_with_the_library_go_by_their_names(here, tmp_path):
    assert says("info motion-2d")["kind"] == "2d" and says("info motion-3d")["what"] == "tokenizer"
    said = says(f"encode {here/'walk.npz'} -o {tmp_path/'t.npz'}")[0]
    assert said["model"] == says("info motion-3d")["model_id"]
    assert f"by the model {said['model']} (motion-3d), and this is" in call(f"decode {tmp_path/'t.npz'} -m {here/'run'} -o {tmp_path/'a.npy'}", 1)


# --- real processes ---

def test_a_process_ends_with_its_status_and_keeps_the_streams_apart(here):
    good = subprocess.run([*COMMAND, "info", here/"walk.npz", "--json"], capture_output=True, text=True)
    assert good.returncode == 0 and json.loads(good.stdout)[0]["frames"] == 60 and good.stderr == ""
    bad = subprocess.run([*COMMAND, "info", here/"nobody.npz", "--json"], capture_output=True, text=True)
    assert bad.returncode == 1 and bad.stdout == "" and bad.stderr.endswith("no such file\n") and len(bad.stderr.splitlines()) == 1
    closed = subprocess.run(f"{sys.executable} -m motion_vq.cli --help | head -c 1", shell=True, capture_output=True, text=True)
    assert closed.stderr == ""


def test_an_interrupt_ends_with_130_and_leaves_nothing(here, tmp_path):
    "The recording is a pipe into which nothing is written: the process waits for it, and is interrupted there."
    os.mkfifo(tmp_path/"pipe.json")
    process = subprocess.Popen([*COMMAND, "encode", tmp_path/"pipe.json", "--fps", "30", "-m", here/"run", "-o", tmp_path/"t.npz"], stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))    # a shell's background jobs inherit that it is ignored
    with open(tmp_path/"pipe.json", "w"):    # returns when the process reads
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert process.stderr.read().startswith("interrupted") and not (tmp_path/"t.npz").exists()
