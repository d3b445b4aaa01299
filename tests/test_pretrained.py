"""The tokenizers that come with the library: there, small, loaded without a network, and near on people that they have not seen"""
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import motion_vq
from motion_vq import tokens as tokens_module
from motion_vq.codec import MotionCodec
from motion_vq.core import ConfigError
from motion_vq.heatmaps import render
from motion_vq.joint_errors import mpjpe
from motion_vq.movements import ACTIONS
from motion_vq.networks import preset
from motion_vq.poses import fit
from motion_vq.recordings import read_recordings
from motion_vq.synthetic import motion
from motion_vq.tokens import SHIPPED, Tokenizer, load_tokens

FOLDER = Path(motion_vq.__file__).parent / "pretrained"
MOCAP = Path(__file__).parents[2] / "shared" / "mocap"    # real motion, where it is


def walk(dims, frames=300):
    "A person in millimetres, or in the pixels of a camera far in front."
    joints = 10 * motion("gait", frames=frames, seed=3).astype(np.float64)
    return joints if dims == 3 else joints[..., :2] / 4 + 800


def test_what_is_shipped_is_small_and_described():
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(SHIPPED.values())
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 10e6
    for name in SHIPPED.values():
        card = (FOLDER / name / "README.md").read_text("utf-8")
        assert all(word in card for word in ("data", "seed", "joints off by", "Limits", "Apache License", "mocap.cs.cmu.edu"))


@pytest.mark.parametrize("dims", SHIPPED)
def test_a_walk_comes_back(dims):
    "In its own unit and place; nearer than a pose that is held, by far."
    joints, tokenizer = walk(dims), Tokenizer.from_pretrained(SHIPPED[dims])
    again = tokenizer.joints(tokenizer.encode(joints, fps=30))
    assert again.shape == joints.shape
    assert mpjpe(joints, again) < 0.1 * mpjpe(joints, np.broadcast_to(joints.mean(0), joints.shape))


def synthetic(): return [motion(action, 300, seed=seed) for action in ACTIONS for seed in (0, 1)]


def mocap():
    if not MOCAP.is_dir(): pytest.skip("needs the real motion in ../shared/mocap")
    return [r.joints[:600] for path in sorted((MOCAP / "validation").iterdir()) for r in read_recordings(path) if len(r) > 64]


def tde_at_seams(tokenizer, recordings):
    "The temporal difference error of the heatmaps in the steps to, in and from the overlaps, over that of all other steps."
    sums, hop = np.zeros((2, 2)), tokenizer.frames - tokenizer.overlap
    for joints in recordings:
        tokens, seam = tokenizer.encode(joints, 30), np.zeros(len(joints) - 1, bool)
        for start in range(hop, hop * len(tokens.indices), hop): seam[start - 1:start + tokenizer.overlap] = True
        both = fit(np.concatenate([joints, tokenizer.joints(tokens)])[None], 64)[0].astype(np.float32)
        a, b = np.split(render(both, 64, kind="triplane" if tokenizer.dims == 3 else "2d"), 2, axis=1)
        error, change = (np.abs(np.diff(x, axis=1)).sum((0, 2, 3)) for x in (b - a, a))
        for i, steps in enumerate((seam, ~seam)): sums[i] += error[steps].sum(), change[steps].sum()
    return (sums[0, 0] / sums[0, 1]) / (sums[1, 0] / sums[1, 1])


@pytest.mark.parametrize("motions", [synthetic, mocap])
@pytest.mark.parametrize("dims", SHIPPED)
def test_a_boundary_of_windows_is_no_worse_than_the_rest(dims, motions, monkeypatch):
    "To within 2 %; and it would be, if neighbours did not meet."
    tokenizer, recordings = Tokenizer.from_pretrained(SHIPPED[dims]), [joints[..., :dims] for joints in motions()]
    met = tde_at_seams(tokenizer, recordings)
    monkeypatch.setattr(tokens_module, "meet", lambda windows, overlap: windows)
    assert met < 1.02 and 1.05 * met < tde_at_seams(tokenizer, recordings)


def test_it_needs_no_network_and_no_network_library(tmp_path):
    "In a process that cannot open a socket, from another folder."
    code = ("import socket\ndef no(*a, **k): raise OSError('no network')\nsocket.socket.connect = no\n"
            "from motion_vq.tokens import Tokenizer\nprint(Tokenizer.from_pretrained('motion-3d').model_id)")
    env = {**os.environ, "PYTHONPATH": str(FOLDER.parents[1]), "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == Tokenizer.from_pretrained("motion-3d").model_id


ELSEWHERE = """
import hashlib, sys
import numpy as np, torch
from motion_vq import tokens as module
name, folder, module.AT_ONCE, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(threads)
t = module.Tokenizer.from_pretrained(name)
made, read = t.encode(np.load(f"{folder}/walk.npy"), 25), module.load_tokens(f"{folder}/walk.safetensors")
assert np.array_equal(made.indices, read.indices) and np.array_equal(made.placed, read.placed), "other tokens"
read.save(f"{folder}/again.safetensors")
print(hashlib.sha256(t.joints(read).tobytes()).hexdigest(), hashlib.sha256(t.decode(read, 32).numpy().tobytes()).hexdigest())
"""


@pytest.mark.parametrize("at_once, threads", [(1, 1), (1000, 2)])
@pytest.mark.parametrize("dims", SHIPPED)
def test_files_and_processes_agree(tmp_path, dims, at_once, threads):
    "Encoded here, written, and read in another process with other numbers of windows at once and of threads: the same tokens, joints, heatmaps and file, to the last bit."
    joints, tokenizer = walk(dims, 700).astype(np.float32), Tokenizer.from_pretrained(SHIPPED[dims])
    tokens = tokenizer.encode(joints, 25)
    np.save(tmp_path / "walk.npy", joints)
    tokens.save(tmp_path / "walk.safetensors")
    env = {**os.environ, "PYTHONPATH": str(FOLDER.parents[1])}
    words = [sys.executable, "-c", ELSEWHERE, SHIPPED[dims], str(tmp_path), str(at_once), str(threads)]
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [hashlib.sha256(a.tobytes()).hexdigest() for a in (tokenizer.joints(tokens), tokenizer.decode(tokens, 32).numpy())]
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "walk.safetensors").read_bytes()
    assert len(tokens.indices) > 10 and np.array_equal(tokenizer.joints(load_tokens(tmp_path / "walk.safetensors")), tokenizer.joints(tokens))


def test_a_codec_has_no_networks():
    with pytest.raises(ConfigError, match="without networks"): MotionCodec(preset("cpu"))
