"Motion to tokens and back: unit, place, rate and skeleton return, files are whole or refused, and nothing depends on company."
import hashlib
import json
import shutil
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from motion_vq import tokens as tokens_module
from motion_vq.clips import load_clips
from motion_vq.core import CheckpointError, ConfigError, DataError, MotionVQError
from motion_vq.entropy import sizes
from motion_vq.joint_errors import mpjpe
from motion_vq.networks import preset
from motion_vq.recordings import Recording, read_array, read_recordings
from motion_vq.skeletons import COCO17, H36M17, PANOPTIC19, SMPL22, Skeleton, convert
from motion_vq.synthetic import motion, write_dataset
from motion_vq.tokens import SHIPPED, UP, Tokenizer, Tokens, load_tokens, upright
from motion_vq.vqgan import VQGAN
from motion_vq.windows import SCALE_STEPS

WALK = motion("gait", 90, seed=3)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A tokenizer for each number of coordinates: basis and codebook fitted, nothing trained."
    root, made = write_dataset(tmp_path_factory.mktemp("tokens")/"people", train=4, validation=2, frames=60, seed=0), {}
    for kind in ("2d", "3d"):
        clips = load_clips(root, kind, 16, 32)[0]
        torch.manual_seed(0)
        model = VQGAN(preset("cpu", kind, codebook_size=64, corrections=0))
        model.start(torch.from_numpy(clips.draw(np.random.default_rng(0), 600)))
        made[kind] = Tokenizer(model)
    return made


@pytest.fixture
def tokenizer(made): return made["3d"]


@pytest.fixture
def tokens(tokenizer): return tokenizer.encode(WALK)


# --- there and back ---

@pytest.mark.parametrize("frames", [1, 2, 15, 16, 17, 30, 31, 90])
def test_every_length_comes_back(tokenizer, frames):
    tokens = tokenizer.encode(WALK[:frames])
    again = tokenizer.joints(tokens)
    assert again.shape == (frames, 19, 3) and mpjpe(WALK[:frames], again) < 12
    assert len(tokens.indices) == len(tokens.placed) == 1 + max(0, -(-(frames - 16) // 14))


@settings(max_examples=20, deadline=None)
@given(st.integers(-64, 64))
def test_another_unit_changes_the_placing_alone(made, steps):
    unit = 2.0**(steps / SCALE_STEPS)
    a, b = made["3d"].encode(WALK[:40]), made["3d"].encode(WALK[:40].astype(np.float64) * unit)
    assert (b.placed[:, 0] - a.placed[:, 0] == -steps).all() and (a.indices == b.indices).mean() > 0.95
    np.testing.assert_allclose(made["3d"].joints(b) / unit, made["3d"].joints(a), atol=10)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3))
def test_another_place_is_the_same_motion_there(made, away):
    back = made["3d"].joints(made["3d"].encode(WALK[:40] + np.array(away))) - np.array(away)
    assert mpjpe(WALK[:40], back) < 12


@pytest.mark.parametrize("fps", [12, 25, 30, 50, 120])
def test_every_rate_comes_back(tokenizer, fps):
    x = motion("gait", 3 * fps, seed=3, fps=fps, noise=0)
    tokens = tokenizer.encode(x, fps)
    assert tokenizer.joints(tokens).shape == x.shape and mpjpe(x, tokenizer.joints(tokens)) < 12
    assert len(tokens.indices) == 7, "three seconds are three seconds"


@pytest.mark.parametrize("up", UP)
def test_up_is_turned_there_and_back(tokenizer, tokens, up):
    turned = upright(WALK, up, back=True)
    t = tokenizer.encode(turned, up=up)
    assert (t.indices == tokens.indices).mean() > 0.95
    np.testing.assert_allclose(upright(tokenizer.joints(t), up), tokenizer.joints(tokens), atol=20)
    with pytest.raises(ConfigError, match="up"): tokenizer.encode(WALK, up="x")


def test_two_dimensions_in_another_skeleton(made):
    pixels = convert(WALK[..., :2] * 3 + 900, PANOPTIC19, COCO17)
    tokens = made["2d"].encode(Recording("film", pixels, COCO17, 30))
    again = made["2d"].joints(tokens)
    assert again.shape == pixels.shape and mpjpe(pixels, again) < 30 and tokens.skeleton == "coco17"
    with pytest.raises(ConfigError, match="h36m17 cannot give .*left_eye"): made["2d"].encode(np.zeros((9, 17, 2)), skeleton=H36M17)


@pytest.mark.parametrize("skeleton, lacks", [("smpl22", "nose, left_eye"), ("h36m17", "left_eye")])
def test_people_without_a_face_are_refused_or_guessed_on_demand(made, skeleton, lacks):
    "What the model knows comes back nearly as from its own skeleton; what it does not know is not seen, and its own joints can be had."
    body = convert(WALK, PANOPTIC19, skeleton, blank=True)
    if skeleton == "smpl22": body[:, SMPL22.index("head")] = WALK[:, [PANOPTIC19.index("left_ear"), PANOPTIC19.index("right_ear")]].mean(1)
    body = np.where(np.isnan(body), WALK[:, :1], body)
    with pytest.raises(ConfigError, match=f"{skeleton} cannot give {lacks}.*guess=True"): made["3d"].encode(body, skeleton=skeleton)
    tokens = made["3d"].encode(body, skeleton=skeleton, guess=True)
    back, known = made["3d"].joints(tokens), np.isfinite(made["3d"].joints(tokens)).all((0, 2))
    assert tokens.skeleton == skeleton and back.shape == body.shape and known.sum() == dict(smpl22=13, h36m17=17)[skeleton]
    assert mpjpe(body[:, known], back[:, known]) < 1.3 * mpjpe(WALK, made["3d"].joints(made["3d"].encode(WALK)))
    assert made["3d"].joints(tokens, skeleton="panoptic19").shape == WALK.shape


def test_a_skeleton_of_ones_own_is_given_again(made):
    mine = Skeleton("mine", PANOPTIC19.joints[::-1], ())
    tokens = made["3d"].encode(WALK[:, ::-1], skeleton=mine)
    with pytest.raises(ConfigError, match="unknown skeleton 'mine'"): made["3d"].joints(tokens)
    assert np.array_equal(made["3d"].joints(tokens, skeleton=mine)[:, ::-1], made["3d"].joints(tokens, skeleton="panoptic19"))


def test_the_seams_are_little_worse_than_the_rest(tokenizer, monkeypatch):
    "The error of the movement in the steps in and beside overlaps, against that of the others, of four walks together; and if windows do not meet half way."
    hop, seams = tokenizer.frames - tokenizer.overlap, np.zeros(89, bool)
    for start in range(hop, 90, hop): seams[start - 1:start + tokenizer.overlap] = True
    def worse():
        walks = [motion("gait", 90, seed=seed) for seed in range(4)]
        errors = [np.linalg.norm(np.diff(tokenizer.joints(tokenizer.encode(walk)) - walk, axis=0), axis=-1).mean(1) for walk in walks]
        return np.mean([e[seams] for e in errors]) / np.mean([e[~seams] for e in errors])
    met = worse()
    monkeypatch.setattr(tokens_module, "meet", lambda windows, overlap: windows)
    assert met < 1.4 and met < 0.9 * worse()


def test_heatmaps_are_of_the_whole_recording(made, tokens, tokenizer):
    maps = tokenizer.decode(tokens)
    assert maps.shape == (3, 90, 32, 32) and maps.dtype == torch.float32 and 0 <= maps.min() and maps.max() <= 1
    assert tokenizer.decode(tokens, size=48).shape == (3, 90, 48, 48)
    assert made["2d"].decode(made["2d"].encode(WALK[:20, :, :2])).shape == (1, 20, 32, 32)


def test_a_model_of_pixels_gives_heatmaps_and_no_joints():
    torch.manual_seed(0)
    t = Tokenizer(VQGAN(preset("smoke", "3d")), frames=16, size=32)
    tokens = t.encode(WALK[:40])
    assert t.decode(tokens).shape == (3, 40, 32, 32) and (tokens.placed == tokens.placed[0]).all(), "one box for all"
    with pytest.raises(ConfigError, match="describe pixels"): t.joints(tokens)
    with pytest.raises(ConfigError, match="32 on a side"): t.decode(tokens, size=64)


def test_windows_do_not_depend_on_their_company(tokenizer):
    "The first windows of a long recording are those of a short one, to the last bit."
    long, short = tokenizer.encode(WALK), tokenizer.encode(WALK[:44])   # three whole windows
    assert np.array_equal(long.indices[:3], short.indices) and np.array_equal(long.placed[:3], short.placed)
    assert np.array_equal(tokenizer.joints(long)[:35], tokenizer.joints(short)[:35]), "up to the middle of the last one"


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_how_much_is_in_memory_makes_no_difference(made, monkeypatch, at_once):
    "Windows a few at a time, or all at once: the same tokens and joints to the last bit, with gaps, another rate, and one box for a model of pixels."
    seen = motion("gait", 200, seed=3, fps=50)
    seen[20:38, 5] = np.nan; seen[:7, 8] = np.nan; seen[-9:, 0] = np.nan
    torch.manual_seed(0)
    for t in (made["3d"], Tokenizer(VQGAN(preset("smoke", "3d")), frames=16, size=32)):
        monkeypatch.setattr(tokens_module, "AT_ONCE", 10_000)
        whole = t.encode(seen, 50)
        joints, maps = t.joints(whole) if t.model.motion else None, t.decode(whole)
        monkeypatch.setattr(tokens_module, "AT_ONCE", at_once)
        piece = t.encode(seen, 50)
        assert np.array_equal(piece.indices, whole.indices) and np.array_equal(piece.placed, whole.placed) and len(whole.indices) == 9
        if joints is not None: assert np.array_equal(t.joints(piece), joints) and len(list(t.pieces(piece))) >= 9 / at_once
        assert torch.equal(t.decode(piece), maps) and maps.shape[1] == t.frames_of(200, 50) and len(list(t.map_pieces(piece))) > 1


def test_a_long_recording_costs_no_more_memory(tmp_path, made, monkeypatch):
    "Of NumPy's, at its peak while encoding a file, and decoding piece by piece: ten times the length, less than twice the memory."
    monkeypatch.setattr(tokens_module, "AT_ONCE", 8)
    monkeypatch.setattr(tokens_module, "window_tokens", lambda model, clip, size: np.zeros((2, 4, 4), np.int64))
    monkeypatch.setattr(tokens_module, "window_joints", lambda model, indices: np.zeros((16, 19, 3), np.float32))
    def peak(frames):
        np.save(tmp_path/"long.npy", np.resize(WALK, (frames, 19, 3)).astype(np.float32))
        tracemalloc.start()
        tokens = made["3d"].encode(read_array(tmp_path/"long.npy", fps=30))
        for _ in made["3d"].pieces(tokens): pass
        try: return tracemalloc.get_traced_memory()[1]
        finally: tracemalloc.stop()
    peak(100)
    short, long = peak(600), peak(6000)
    assert long < 6000 * 19 * 3 * 4 and long < 3 * short, (short, long)


def test_a_run_is_a_tokenizer(tmp_path, made):
    from motion_vq.trainer import train_preset
    from motion_vq.training import train
    train_clips, validation, _ = load_clips(write_dataset(tmp_path/"people", train=2, validation=2, frames=40, seed=0), "2d", 16, 32)
    run = train("vqgan", preset("smoke", "2d"), train_preset("smoke", steps=1, batch=2, eval_every=1), train_clips, validation, tmp_path/"run", progress=False)
    t = Tokenizer.from_run(tmp_path/"run")
    assert (t.frames, t.size, t.dims, t.name) == (16, 32, 2, "vqgan") and t.model_id == Tokenizer(run.tokenizer).model_id == Tokenizer.from_pretrained(tmp_path/"run").model_id
    with pytest.raises(CheckpointError, match="best.json"): Tokenizer.from_run(tmp_path/"people")


def test_bits_are_counted_exactly(tokenizer, tokens):
    b = tokens.bits()
    assert tokens.indices.shape == (7, 2, 4, 4) and b["tokens"] == 7 * 32 * 6 and b["total"] == b["tokens"] + b["placing"]
    assert b["per_second"] == b["total"] / 3
    for coder in ("unigram", "context"): assert tokens.bits(coder)["tokens"] == sizes(tokens.indices, 64)[coder] == tokens.bits(coder)["total"] - b["placing"]
    assert tokens.bits("context", training=[tokens.indices])["tokens"] < 0.8 * b["tokens"], "tokens that are known cost little"
    with pytest.raises(ConfigError, match="coder"): tokens.bits("zip")


# --- what is refused ---

@pytest.mark.parametrize("joints, error, said", [
    (np.zeros((0, 19, 3)), DataError, "none of them 0"), (np.zeros((9, 18, 3)), DataError, "18 joints"), (np.zeros((9, 19, 2)), ConfigError, "2 coordinates"),
    (np.where(np.arange(60)[:, None, None] < 30, np.nan, motion("gait", 60, seed=0)), DataError, "not seen for 30 frames"),
    (np.full((9, 19, 3), np.inf), DataError, "infinite"), (np.full((9, 19, 3), 1e9), DataError, "beyond")])
def test_what_is_no_motion_is_refused(tokenizer, joints, error, said):
    with pytest.raises(error, match=said): tokenizer.encode(joints)


@pytest.mark.parametrize("place", [0.0, 5.0, -4e4, 1e-3])
def test_all_joints_in_one_point_stay_there(tokenizer, place):
    for t in (tokenizer, Tokenizer.from_pretrained("motion-3d")):
        again = t.joints(t.encode(np.full((20, 19, 3), place)))
        assert again.shape == (20, 19, 3) and np.abs(again - place).max() <= 1e-3 * max(abs(place), 1)


@pytest.mark.parametrize("joints", [[["a"]], [[[1, 2, 3]], [[1, 2]]], None, object()])
def test_what_is_no_array_is_refused(tokenizer, joints):
    with pytest.raises(DataError, match="the recording: joints"): tokenizer.encode(joints)


def test_whole_numbers_tensors_and_numpys_rates_are_taken(tokenizer, tokens):
    assert np.array_equal(tokenizer.encode(torch.tensor(WALK), np.float64(30)).indices, tokens.indices)
    assert tokenizer.encode(np.rint(10 * WALK).astype(int), np.int64(25)).fps == 25.0


def test_who_leaves_the_view_is_not_made_up(tmp_path, made):
    "Out of it for a second: refused with the frame, or bridged if that is asked for; out of it for good: the recording is shorter."
    seen = convert(WALK[..., :2] * 3 + 900, PANOPTIC19, COCO17)
    def detected(frames): (tmp_path/"film.json").write_text(json.dumps([dict(image_id=i, keypoints=np.concatenate([seen[i], np.ones((17, 1))], 1).ravel().tolist()) for i in frames]))
    detected([*range(30), *range(60, 90)])
    r, = read_recordings(tmp_path/"film.json", fps=30)
    with pytest.raises(DataError, match=r"not seen for 30 frames .1.00 s. from frame 30"): made["2d"].encode(r)
    assert made["2d"].joints(made["2d"].encode(r, gap=1.0)).shape == (90, 17, 2)
    detected(range(30))
    assert made["2d"].joints(made["2d"].encode(read_recordings(tmp_path/"film.json", fps=30)[0])).shape == (30, 17, 2)


def test_tokens_of_another_shape_are_refused(tokenizer, tokens):
    for wrong in (replace(tokens, indices=tokens.indices[:, :1]), replace(tokens, placed=tokens.placed[:, :3])):
        with pytest.raises(DataError, match="this model has .2, 4, 4. and 4"): tokenizer.joints(wrong)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dims", [2, 3])
def test_cuda_makes_the_same_tokens_but_for_rounding(made, tmp_path, dims):
    for t in (made[f"{dims}d"], Tokenizer.from_pretrained(SHIPPED[dims])):
        t.save_pretrained(tmp_path/"t")
        there = Tokenizer.from_pretrained(tmp_path/"t", device="cuda")
        a, b = t.encode(WALK[..., :dims]), there.encode(WALK[..., :dims])
        assert (a.indices == b.indices).mean() > 0.98 and there.decode(b).shape == t.decode(a).shape
        np.testing.assert_allclose(there.joints(a), t.joints(a), atol=0.1)


def test_tokens_of_another_model_or_out_of_range_are_refused(made, tokens):
    with pytest.raises(CheckpointError, match=f"made by the model {tokens.model}, and this is {made['2d'].model_id}"): made["2d"].joints(tokens)
    tokens.indices[0, 0, 0, 0] = 64
    with pytest.raises(DataError, match=r"\[0, 63\]"): made["3d"].joints(tokens)
    tokens.indices = tokens.indices[:3]
    with pytest.raises(DataError, match="3 windows, and 90 frames need 7"): made["3d"].joints(tokens)


@pytest.mark.parametrize("name", ["no/such-model", "no such name!", "nowhere/at/all"])
def test_a_name_that_leads_nowhere_is_told(monkeypatch, name):
    with pytest.raises(CheckpointError, match="neither a folder with a tokenizer"): Tokenizer.from_pretrained(name, local_files_only=True)


def test_three_views_are_no_recording():
    with pytest.raises(ConfigError, match="three cameras"): Tokenizer(VQGAN(preset("cpu", "exo")))


# --- files ---

def test_a_file_holds_all_of_it(tmp_path, tokens):
    tokens.save(tmp_path/"t.safetensors")
    again = load_tokens(tmp_path/"t.safetensors")
    assert np.array_equal(again.indices, tokens.indices) and np.array_equal(again.placed, tokens.placed) and again.indices.dtype == np.int64
    assert {k: v for k, v in vars(again).items() if not isinstance(v, np.ndarray)} == {k: v for k, v in vars(tokens).items() if not isinstance(v, np.ndarray)}


def test_every_cut_and_a_flip_in_every_byte_of_a_token_file_is_noticed(tmp_path, made):
    made["3d"].encode(WALK[:16]).save(tmp_path/"t.safetensors")
    whole, path, silent = (tmp_path/"t.safetensors").read_bytes(), tmp_path/"damaged", 0
    def refused(content):
        path.write_bytes(content)
        try: load_tokens(path)
        except DataError as e: return str(path) in str(e)
    assert all(refused(whole[:n]) for n in range(len(whole)))
    for i, bit in enumerate(np.random.default_rng(0).integers(8, size=len(whole))):
        b = bytearray(whole); b[i] ^= 1 << int(bit)
        silent += not refused(bytes(b))
    assert silent == 0
    assert refused(b"") and refused(whole + b"\0") and refused(b"\x80\x04K\x01.") and refused((8).to_bytes(8, "little") + b"{}      ")
    with pytest.raises(DataError, match="cannot be read"): load_tokens(tmp_path/"nothing")


def test_the_model_card_says_what_it_is_and_how_to_use_it(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    card = (tmp_path/"README.md").read_text()
    assert card.startswith("---") and "license: apache-2.0" in card and "Tokenizer.from_pretrained" in card and "2509.19252" in card and "{{" not in card


def test_it_is_pushed_and_pulled_by_the_hubs_own_mixin(tmp_path, tokenizer, tokens, monkeypatch):
    "The Hub is played by a folder: what is uploaded there is weights, configuration and card, and loads from there by its name."
    class Api:
        def __init__(self, **how): pass
        def create_repo(self, repo_id, **how): return type("Repo", (), dict(repo_id=repo_id))
        def upload_folder(self, repo_id, folder_path, **how): shutil.copytree(folder_path, tmp_path/repo_id)
    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    tokenizer.push_to_hub("me/walks", token="t")
    assert sorted(path.name for path in (tmp_path/"me"/"walks").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    def pulled(name, **how): assert how["revision"] == "v1"; return tmp_path/name
    monkeypatch.setattr("motion_vq.hub.snapshot_download", pulled)
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", lambda repo_id, filename, **how: str(tmp_path/repo_id/filename))
    there = Tokenizer.from_pretrained("me/walks", revision="v1")
    assert there.model_id == tokenizer.model_id and np.array_equal(there.joints(tokens), tokenizer.joints(tokens))


def test_a_bar_is_shown_if_asked_for(tokenizer, capsys):
    tokenizer.decode(tokens := tokenizer.encode(WALK), progress=False)
    assert capsys.readouterr().err == ""
    tokenizer.joints(tokenizer.encode(WALK, progress=True), progress=True)
    said = capsys.readouterr().err
    assert "encode: 100%" in said and "decode: 100%" in said and "7/7" in said
    tokenizer.decode(tokens, progress=True)
    assert capsys.readouterr().err.count("decode: 100%") == 1


def test_a_file_of_another_version_of_the_format_is_refused(tmp_path, tokens, monkeypatch):
    monkeypatch.setattr("motion_vq.token_files.FORMAT", "motion_vq tokens 3")
    tokens.save(tmp_path/"t.safetensors")
    monkeypatch.undo()
    with pytest.raises(DataError, match="of another format than 'motion_vq tokens 2'"): load_tokens(tmp_path/"t.safetensors")


ELSEWHERE = """
import sys, hashlib
from motion_vq.tokens import Tokenizer, load_tokens
t = Tokenizer.from_pretrained(sys.argv[1])
print(hashlib.sha256(t.joints(load_tokens(sys.argv[2])).tobytes()).hexdigest())
"""


def test_another_process_makes_the_same_joints_of_it(tmp_path, tokenizer, tokens):
    tokenizer.save_pretrained(tmp_path/"model"); tokens.save(tmp_path/"t.safetensors")
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, tmp_path/"model", tmp_path/"t.safetensors"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == hashlib.sha256(tokenizer.joints(tokens).tobytes()).hexdigest()


@pytest.mark.parametrize("spoil, said", [
    (lambda f: (f/"config.json").unlink(), "config"), (lambda f: (f/"model.safetensors").unlink(), "model.safetensors"),
    (lambda f: (f/"model.safetensors").write_bytes((f/"model.safetensors").read_bytes()[:-9]), "no tokenizer"),
    (lambda f: (f/"config.json").write_text("{}"), "no tokenizer"), (lambda f: (f/"config.json").write_text("[" * 9), "neither a folder with a tokenizer"),
    (lambda f: (f/"config.json").write_text((f/"config.json").read_text().replace('"codebook_size": 64', '"codebook_size": 65')), "no tokenizer"),
    (lambda f: (f/"model.safetensors").write_bytes(bytes(b ^ (i == 90_000) for i, b in enumerate((f/"model.safetensors").read_bytes()))), "not the weights")])
def test_a_damaged_tokenizer_is_not_loaded(tmp_path, tokenizer, spoil, said):
    tokenizer.save_pretrained(tmp_path/"model")
    spoil(tmp_path/"model")
    with pytest.raises(MotionVQError, match=said): Tokenizer.from_pretrained(tmp_path/"model")
