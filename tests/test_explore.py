"""The explorers without a browser: their pictures, whose pixels can be worked out, and what their controls do."""
import json
import sys
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import colormaps

from motion_vq.checkpoints import append_line
from motion_vq.clips import load_clips
from motion_vq.core import ConfigError, DataError, sha256_file, write_json
from motion_vq.dvae import PlainDVAE
from motion_vq.explore import Explorer, choice, slider
from motion_vq.explore_poses import explore_poses, pose_picture, three
from motion_vq.explore_reconstruction import (CURSOR, Rebuilt, explore_reconstruction, finished_runs, numbers_picture, opened, rebuild,
                                              reconstruction_picture)
from motion_vq.explore_runs import explore_run, explore_sweep
from motion_vq.explore_tokens import block_of, explore_tokens, nearest_codes, occurrences, outlined, replaced, token_picture, tokens_of, with_codes
from motion_vq.grid import point_id
from motion_vq.networks import preset
from motion_vq.panoptic import Sequence, Track
from motion_vq.plots import COLOURS, colours, png, skeletons
from motion_vq.skeletons import PANOPTIC19
from motion_vq.synthetic import cameras, motion, write_dataset
from motion_vq.trainer import train_preset
from motion_vq.training import only_writer, train
from motion_vq.vqgan import VQGAN

NBS = Path(__file__).parents[1]/"nbs"
NOSE, NECK = PANOPTIC19.index("nose"), PANOPTIC19.index("neck")


@pytest.fixture(scope="module")
def people(tmp_path_factory): return write_dataset(tmp_path_factory.mktemp("explore")/"people", train=2, validation=2, frames=40)


@pytest.fixture(scope="module")
def runs(people):
    "A VQ-GAN and a dVAE that were finished after two steps, and one that was not."
    clips, validation, _ = load_clips(people, "2d", 16, 32, cache=None)
    folder, settings = people.parent/"runs", train_preset("smoke", steps=2, eval_every=2, batch=2)
    for name, K in (("vqgan", 16), ("dvae", 64)): train(name, preset("smoke", codebook_size=K), settings, clips, validation, folder/name, progress=False)
    write_json(folder/"begun"/"last.json", dict(json.loads((folder/"dvae"/"last.json").read_bytes()), step=1))
    return folder


# --- pictures ---

def test_a_joint_is_where_arithmetic_puts_it():
    "A nose 90 cm above everything else and 30 cm to the right: 0.9 * 64 pixels for 90 cm, the middle of both at 31.5."
    joints = np.zeros((1, 19, 3))
    joints[0, NOSE] = 30, -90, 0
    picture = pose_picture(joints, {}, 0, "tri-plane", size=64, draw="joints", side=64)
    maps, x0, y0 = picture[-64:, -64:], 31.5 + 0.64 * 15, 31.5 - 0.64 * 45    # along z, not enlarged
    value = lambda x, y: np.exp(-((x - x0)**2 + (y - y0)**2) / (2 * 0.75**2))
    table = (colormaps["magma"](np.arange(256))[:, :3] * 255).round()
    for x, y in ((41, 3), (42, 3), (41, 2), (40, 3), (41, 4)): assert (np.abs(maps[y, x] - table[round(255 * value(x, y))]) <= 3).all(), (x, y)
    assert (maps[10:50] == table[0]).all()
    along_x, along_z = picture[18:82, :64].min(-1), picture[18:82, -64:].min(-1)    # the skeletons above
    assert along_z[3, 41] < 200 and along_z[3, 32] == 255 and along_x[3, 32] < 200 and along_x[3, 41] == 255


def test_a_limb_has_the_colour_of_its_side():
    joints = np.full((1, 19, 2), 5.0)
    joints[0, PANOPTIC19.index("left_knee")], joints[0, PANOPTIC19.index("left_ankle")] = (20, 40), (40, 40)
    drawn = skeletons(joints, 64)[0]
    assert drawn[40, 30].tolist() == [0, 114, 178] and drawn[60, 60].tolist() == [255, 255, 255]
    assert skeletons(joints, 64, over=np.zeros((1, 64, 64, 3)))[0, 60, 60].tolist() == [0, 0, 0]


def test_three_cameras_are_three_and_a_blind_one_is_named():
    ring = cameras()
    for first in ring: assert len(set(three(ring, first))) == 3 and three(ring, first)[0] == first
    behind = motion("gait", 8, seed=0) + 2 * (ring[0].position - [0, -88, 0])
    with pytest.raises(DataError, match="camera 0 has no picture"): pose_picture(behind, ring, 0, camera=0)
    with pytest.raises(ConfigError, match="'turning'"): pose_picture(behind, ring, 0, "sideways")


@pytest.mark.parametrize("frame", [0, 7, 15])
def test_the_cursor_is_at_the_frame(frame):
    "Two orange columns in each of the plots, at the share of the axis that the frame has."
    target = torch.rand(1, 16, 32, 32, generator=torch.Generator().manual_seed(0))
    clip = Rebuilt("2d", target, target / 2, torch.zeros(2, 4, 4), None, np.zeros((1, 16, 19, 2)))
    picture = numbers_picture(clip, frame, 7.2)
    columns = (picture == CURSOR).all(-1).sum(0) > 30
    share = (frame + 0.5) / 16    # the axis runs from -0.5 to 15.5
    assert np.flatnonzero(columns).tolist() == [c + i for n in (0, 1) for c in [int(576 * (n + 0.13 + 0.82 * share) / 2)] for i in (0, 1)]


def test_a_reconstruction_stands_beside_its_target_and_its_difference():
    target = torch.zeros(1, 4, 16, 16); target[0, 2, 8, 3] = 1
    prediction = torch.zeros(1, 4, 16, 16); prediction[0, 2, 8, 5] = 1
    picture = reconstruction_picture(Rebuilt("2d", target, prediction, torch.zeros(1, 1, 1), None, np.zeros((1, 4, 19, 2))), 2, side=32)
    left, middle, right = (picture[-108 - 6 - 32:][:32:2, x:x + 32:2].astype(int) for x in (0, 38, 76))
    assert np.argwhere(left.sum(-1) > 100).tolist() == [[8, 3]] and np.argwhere(middle.sum(-1) > 100).tolist() == [[8, 5]]
    assert right[8, 3, 2] > right[8, 3, 0] and right[8, 5, 0] > right[8, 5, 2] and (right[0] > 240).all()


# --- tokens ---

def test_a_token_of_pixels_changes_what_the_decoder_lets_it_reach():
    "The oracle is a code of NaN: whatever it touches is NaN."
    torch.manual_seed(0)
    model = PlainDVAE(preset("plain", code_dim=8, codebook_size=5, widths=(8, 8, 8))).eval()
    indices = torch.randint(5, (2, 12, 12))
    indices[0, 5, 6], cell = 1, 5 * 12 + 6
    with torch.no_grad():
        codes = model.quantizer.lookup(indices[None])
        codes[0, :, 0, 5, 6] = torch.nan
        reach = model._rebuild(codes)[0, 0].isnan().numpy()
    same, new = with_codes(model, indices, cell, [1, 3])
    changed = (np.abs(new - same) > 0)[0]
    assert not (changed & ~reach).any() and reach[block_of(model.config, indices.shape, cell)].all() and not reach.all()
    with torch.no_grad(): raw = [model.decode(torch.where(torch.arange(288) == cell, k, indices.flatten()).view(1, 2, 12, 12)) for k in (1, 3)]
    moved = (raw[0] != raw[1])[0, 0].numpy()
    assert moved.any() and not (moved & ~reach).any()
    assert indices[0, 5, 6] == 1, "the tokens that were given stay"


def test_a_token_of_motion_changes_its_own_numbers_and_every_frame(people):
    torch.manual_seed(0)
    model = VQGAN(preset("cpu", codebook_size=8)).eval()
    clips = load_clips(people, "2d", 16, 32, cache=None)[0]
    model.start(torch.from_numpy(clips.draw(np.random.default_rng(0), 300)))
    indices = torch.zeros(1, 2, 4, 4, dtype=torch.long)
    other = indices.clone(); other[0, 1, 2, 3] = 5
    with torch.no_grad():
        a, b = model.decode_joints(indices), model.decode_joints(other)
        numbers = (model.decoder.analyse(a) - model.decoder.analyse(b)).abs().amax((0, 1))
    assert np.argwhere(numbers.numpy() > 1e-3).tolist() == [[1, 2, 3]]
    assert ((a - b).abs().amax((0, 1, 3, 4)) > 0).all() and block_of(model.config, (2, 4, 4), 27) is None


def test_where_codes_occur_and_what_is_out_of_the_question(runs, people):
    model = opened(finished_runs(runs)[1])
    tokens = tokens_of(model, load_clips(people, "2d", 16, 32, cache=None)[1], most=3)
    assert tokens.shape == (3, 2, 4, 4) and sum(len(occurrences(tokens, k)) for k in range(16)) == tokens.size
    with pytest.raises(ConfigError, match="has 32 tokens"): with_codes(model, tokens[0], 32, [0])
    assert nearest_codes(np.array([[0.0], [5], [2]]), 1) == [(2, 3.0), (0, 5.0)]
    square = outlined(np.zeros((9, 9, 3), np.uint8), slice(2, 8), slice(2, 8))
    assert square.any(-1).sum() == 36 - 4


# --- explorers ---

def test_one_move_is_one_drawing_and_an_error_is_said():
    drawn = []
    def draw(a, b):
        drawn.append((a, b))
        if b == "bad": raise DataError("no <such> thing")
        return np.full((4, 4, 3), 10 * a, np.uint8), f"a < {a}"
    a, b = slider(0, 9, "a", 1), choice(["good", "bad"], "b")
    def adapt(explorer): a.max = 5 if b.value == "good" else 3
    explorer = Explorer(draw, dict(a=a, b=b), [[a, b]], adapt)
    a.value = 5
    assert explorer.image.value == png(np.full((4, 4, 3), 50, np.uint8)) and explorer.words.value == "a &lt; 5"
    b.value = "bad"
    assert drawn == [(1, "good"), (5, "good"), (3, "bad")] and "no &lt;such&gt; thing" in explorer.words.value
    assert explorer.image.value == png(np.full((4, 4, 3), 50, np.uint8)), "the picture stays"
    with explorer.one_redraw(): a.value, b.value = 2, "good"
    assert drawn[3:] == [(2, "good")]
    shown = explorer._repr_mimebundle_()
    assert b64decode(shown["image/png"]) == explorer.image.value and "application/vnd.jupyter.widget-view+json" in shown


def test_without_ipywidgets_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ConfigError, match=r"pip install 'motion_vq\[notebooks\]'"): slider(0, 1, "a")


def test_poses_of_another_person_in_another_view():
    people = [Track("talk", k, 100, motion("talk", 20 + 50 * k, seed=k).astype(np.float32), None) for k in (0, 1)]
    explorer = explore_poses([Sequence("talk", None, people, cameras(), 0, 0)], clip=16)
    c = explorer.controls
    c["frame"].value = 19
    c["person"].value = 1
    assert c["frame"].max == 69 and c["frame"].value == 19 and "frame 119" in explorer.words.value
    for view in ("three cameras", "tri-plane", "turning"):
        c["view"].value = view
        assert explorer.image.value == png(pose_picture(people[1].joints, cameras(), 19, view, camera=0, clip=16)), view
    before = explorer.image.value
    c["angle"].value = 90
    assert explorer.image.value != before
    with pytest.raises(DataError, match="no sequence"): explore_poses([])


def test_a_reconstruction_of_another_model(runs, people):
    assert [(r.label, r.model, r.vocabulary) for r in finished_runs(runs)] == [("dvae", "dvae", 64), ("vqgan", "vqgan", 16)], "not the one that is not done"
    explorer = explore_reconstruction(runs, people)
    c = explorer.controls
    c["vocabulary"].value = 16
    assert (c["model"].value, c["run"].value) == ("vqgan", 1)
    with explorer.one_redraw(): c["window"].value, c["frame"].value = 1, 9
    windows = load_clips(people, "2d", 16, 32, cache=None)[1]
    assert explorer.image.value == png(reconstruction_picture(rebuild(opened(finished_runs(runs)[1]), windows[1], 32), 9))
    assert f"frame {windows.windows[1].start + 9}" in explorer.words.value and "SSIM skill" in explorer.words.value
    with pytest.raises(DataError, match="no finished run"): finished_runs(runs/"begun")


def test_a_clicked_token_is_replaced_and_comes_back(runs, people):
    explorer = explore_tokens(runs, people, most=4)
    c, grid = explorer.controls, explorer.parts["grid"]
    c["model"].value = "vqgan"
    model = opened(finished_runs(runs)[1])
    tokens = tokens_of(model, load_clips(people, "2d", 16, 32, cache=None)[1], most=4)
    assert [b.description for b in grid.buttons] == [str(k) for k in tokens[0, 0].ravel()]
    c["layer"].value = 1
    grid.buttons[6].click()
    assert c["cell"].value == 22 and c["code"].value == tokens[0, 1, 1, 2] and "by 0.00 at most" in explorer.words.value
    before = explorer.image.value
    explorer.parts["near"][2].click()
    assert c["code"].value != tokens[0, 1, 1, 2] and grid.buttons[6].description == str(c["code"].value) and explorer.image.value != before
    clip = replaced(model, tokens, 0, 22, c["code"].value)
    assert explorer.image.value == png(token_picture(clip)) and explorer.words.value == clip.words, "what is shown is what the functions return"
    explorer.parts["back"].click()
    assert explorer.image.value == before
    places = occurrences(tokens, c["code"].value).tolist()
    visited = []
    for _ in places:
        explorer.parts["onward"].click()
        visited.append([c["window"].value, c["cell"].value])
    assert sorted(visited) == places and visited[-1] == [0, 22] and len(places) > 1, "once around"


def test_a_small_vocabulary_offers_no_more_than_it_has(tmp_path, people):
    clips, validation, _ = load_clips(people, "2d", 16, 32, cache=None)
    train("vqgan", preset("smoke", codebook_size=3), train_preset("smoke", steps=1, eval_every=1, batch=2), clips, validation, tmp_path/"vqgan", progress=False)
    near = explore_tokens(tmp_path, people, most=2).parts["near"]
    assert [b.disabled for b in near] == [False, False, True, True, True] and [b.description for b in near[2:]] == [""] * 3


def test_a_run_is_read_while_it_goes_on(tmp_path):
    with pytest.raises(DataError, match="no run has begun"): explore_run(tmp_path)
    log = tmp_path/"a"/"log.jsonl"
    log.parent.mkdir()
    append_line(log, dict(step=0, start=dict(pid=1, steps=20)))
    with only_writer(log.parent):
        explorer = explore_run(tmp_path)
        before = explorer.image.value
        append_line(log, dict(step=10, rec=0.5, perplexity=3.0, seconds_per_step=0.25))
        assert explorer.image.value == before
        explorer.parts["refresh"].click()
        assert explorer.image.value != before and "step 10 of 20" in explorer.words.value and "running" in explorer.words.value
    explorer.controls["timer"].value += 1
    assert "stopped" in explorer.words.value
    append_line(tmp_path/"log.jsonl", dict(step=0, start=dict(pid=1, steps=5)))
    explorer.parts["refresh"].click()
    assert set(explorer.controls["run"].options) == {"a", "this folder"} and explorer.controls["run"].value == "a"


def write_sweep(folder):
    "A sweep of three points, as if it had been run."
    for i, (model, K) in enumerate([("vqgan", 16), ("vqgan", 64), ("dvae", 64)]):
        point = dict(notebook="tokenizer.ipynb", version="0.1.0", code="0" * 64, parameters=dict(model=model, codebook_size=K, seed=0))
        place = folder/"points"/point_id(point)
        write_json(place/"parameters.json", point)
        write_json(place/"out"/"result.json", dict(rows=[dict(ssim_skill=0.25 * i, bits_per_second=100.0 + i)]))
        write_json(place/"status.json", dict(state="done", seconds=1.5, sha256=sha256_file(place/"out"/"result.json")))
        cells = [dict(cell_type="markdown", id="a", metadata={}, source=f"Report of {model} & {K}"),
                 dict(cell_type="code", id="b", metadata={}, source="secret_code()", execution_count=1, outputs=[])]
        write_json(place/"tokenizer.ipynb", dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5))
    return folder


def test_a_sweep_is_filtered_and_a_report_opened(tmp_path):
    with pytest.raises(DataError, match="none of its points is done"):
        (tmp_path/"empty"/"points").mkdir(parents=True)
        explore_sweep(tmp_path/"empty")
    words = write_sweep(tmp_path/"words")
    for place in (words/"points").iterdir():    # results without a number
        write_json(place/"out"/"result.json", dict(rows=[dict(said="well")]))
        write_json(place/"status.json", dict(state="done", seconds=1.5, sha256=sha256_file(place/"out"/"result.json")))
    with pytest.raises(DataError, match="no number is in all of its results"): explore_sweep(words)
    explorer = explore_sweep(write_sweep(tmp_path/"sweep"))
    c = explorer.controls
    assert (c["x"].value, c["y"].value) == ("bits_per_second", "ssim_skill") and explorer.words.value.count("<tr") == 1 + 3
    assert all(control.index is not None for control in c.values() if hasattr(control, "index")), "something is chosen everywhere"
    c["model"].value = "dvae"
    assert explorer.words.value.count("<tr") == 1 + 1 and "<iframe" not in explorer.words.value
    c["report"].value = True
    assert "Report of dvae &amp;amp; 64" in explorer.words.value and "secret_code" not in explorer.words.value
    c["codebook_size"].value = 16
    assert "no point is left" in explorer.words.value
    c["model"].value = "any"
    assert "Report of vqgan &amp;amp; 16" in explorer.words.value


# --- what readers on the web see ---

@pytest.mark.parametrize("path", sorted((NBS/"explore").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_stored_explorer_is_a_picture(path):
    "No widget without a kernel, which would be an error message; `make clean` takes them out."
    nb = json.loads(path.read_text("utf-8"))
    data = [output.get("data", {}) for cell in nb["cells"] for output in cell.get("outputs", [])]
    assert any(d.get("text/plain") == ["an explorer"] and "image/png" in d for d in data), f"{path.name} is not stored as it was executed"
    assert not any("application/vnd.jupyter.widget-view+json" in d for d in data) and "widgets" not in nb["metadata"], "run `make clean`"
    assert path.stat().st_size < 1_000_000
