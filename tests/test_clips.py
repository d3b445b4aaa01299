"""Windows and batches: which frames a model sees, and that they stay the same."""
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import motion_vq.clips
from motion_vq import panoptic
from motion_vq.clips import Clips, batch, batches, check_manifest, clip_maps, data_sha256, load_clips, share, usable_starts
from motion_vq.core import ConfigError, DataError, write_json
from motion_vq.panoptic import Track, read_sequence, read_split, write_sequence
from motion_vq.synthetic import cameras, motion, write_dataset

MOCAP = Path(__file__).parents[2]/"shared"/"mocap"


@pytest.fixture(scope="module")
def root(tmp_path_factory): return write_dataset(tmp_path_factory.mktemp("data")/"people", train=3, validation=2, frames=48, seed=1)


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 12))
@settings(deadline=None)
def test_usable_starts_are_those_whose_every_frame_counts(counts, frames):
    naive = [all(counts[s:s + frames]) for s in range(len(counts) - frames + 1)]
    assert usable_starts(np.array(counts, bool), frames).tolist() == naive


def test_windows_never_cross_a_gap_nor_two_people(tmp_path):
    joints = motion("gait", 50, seed=0).astype(np.float32)
    sure = np.ones(joints.shape[:2], np.float32)
    tracks = [Track("s", 0, 100, joints[:20], sure[:20]), Track("s", 0, 121, joints[20:], sure[20:]),
              Track("s", 1, 120, joints[:10], sure[:10])]
    sequence = read_sequence(write_sequence(tmp_path, "s", tracks, cameras()))
    clips = Clips([sequence], "3d", frames=8, size=32)
    covered = [(w.person, f) for w in clips.windows for f in range(w.start, w.start + 8)]
    assert len(covered) == len(set(covered)), "windows of a person do not overlap"
    assert {(p, f) for p, f in covered} <= {(0, f) for f in [*range(100, 120), *range(121, 151)]} | {(1, f) for f in range(120, 130)}
    assert [w.start for w in clips.windows if w.person == 0] == [100, 108, 121, 129, 137]
    lengths = {len(t.joints) for t, _ in clips.tracks}
    assert lengths == {20, 30, 10}


def test_a_tar_and_its_extracted_folder_are_the_same_data(root, tmp_path):
    sequence = next((root/"train").iterdir())
    shutil.copytree(sequence, tmp_path/sequence.name)
    tar = tmp_path/sequence.name/"hdPose3d_stage1_coco19.tar"
    with tarfile.open(tar) as t: t.extractall(tmp_path/sequence.name, filter="data")
    tar.unlink()
    a, b = read_sequence(sequence), read_sequence(tmp_path/sequence.name)
    assert data_sha256([a]) == data_sha256([b])
    with pytest.raises(ValueError): b.tracks[0].joints[3, 4, 1] += 0.01    # what is known of a track stays true
    b.tracks[0].joints = b.tracks[0].joints.copy()
    b.tracks[0].joints[3, 4, 1] += 0.01
    assert data_sha256([a]) != data_sha256([b])


def test_frozen_windows_do_not_depend_on_other_sequences(root):
    sequences = read_split(root, "train")
    for kind in ("2d", "exo", "3d"):
        together = Clips(sequences, kind, 16, 32)
        alone = [w for s in reversed(sequences) for w in Clips([s], kind, 16, 32).windows]
        assert sorted(together.windows, key=str) == sorted(alone, key=str)


@pytest.mark.parametrize("kind,views,dims", [("2d", 1, 2), ("exo", 3, 2), ("3d", 1, 3)])
def test_batches_are_a_pure_function_of_seed_step_and_number(root, kind, views, dims):
    clips = Clips(read_split(root, "train"), kind, 16, 32)
    assert clips[0].shape == (views, 16, 19, dims) and clips[0].dtype == np.float32
    fresh = Clips(read_split(root, "train"), kind, 16, 32)
    assert torch.equal(batch(clips, 3, 7, 2)[0], batch(fresh, 3, 7, 2)[0])
    others = [batch(clips, *key)[1] for key in ((3, 7, 2), (4, 7, 2), (3, 8, 2))]
    drawn = {clip.numpy().tobytes() for maps in others for clip in maps}
    assert len(drawn) == 6, "each clip of each batch is another"


@settings(max_examples=25, deadline=None)
@given(kind=st.sampled_from(["2d", "exo", "3d"]), seed=st.integers(0, 2**40), step=st.integers(0, 10**6),
       each=st.integers(1, 3), world=st.integers(1, 4))
def test_the_shares_of_the_processes_are_the_batch_of_one(root, kind, seed, step, each, world):
    clips = Clips(read_split(root, "train"), kind, 16, 16)
    whole = batch(clips, seed, step, each * world)
    shares = [batch(clips, seed, step, each * world, rank=r, world=world) for r in range(world)]
    for one, parts in zip(whole, zip(*shares), strict=True): assert torch.equal(one, torch.cat(parts))
    assert whole[2].shape[0] == each * world


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_it_does_not_matter_who_draws(root, workers):
    clips = Clips(read_split(root, "train"), "2d", 16, 32)
    ahead = list(batches(clips, 3, range(4, 10), 4, rank=1, world=2, workers=workers))
    assert len(ahead) == 6 and not list(batches(clips, 3, range(4, 4), 4, workers=workers))
    for step, drawn in enumerate(ahead, 4):
        for a, b in zip(drawn, batch(clips, 3, step, 4, rank=1, world=2), strict=True): assert torch.equal(a, b)


@pytest.mark.parametrize("n,world,way_out", [(5, 2, "4"), (1, 2, "2"), (0, 1, "1"), (-3, 1, "1")])
def test_a_batch_that_cannot_be_shared_is_refused(n, world, way_out):
    with pytest.raises(ConfigError, match=f"{n} clips .* {world} processes: take {way_out}$"): share(n, 0, world)


def test_cameras_are_the_papers_and_see_the_whole_window(root):
    for kind, nodes, n in (("2d", panoptic.EGO_NODES, 1), ("exo", panoptic.EXO_NODES, 3)):
        clips = Clips(read_split(root, "train"), kind, 16, 32)
        for w in clips.windows:
            assert len(set(w.cameras)) == n and set(w.cameras) <= set(nodes)
            track = next(t for t, _ in clips.tracks if (t.sequence, t.person) == (w.sequence, w.person) and t.start <= w.start)
            seen = panoptic.views(track, clips.cameras[w.sequence], w.cameras)
            assert seen[:, w.start - track.start:w.start - track.start + 16].all()


@pytest.mark.parametrize("kind, nodes, n", [("2d", panoptic.EGO_NODES, 1), ("exo", panoptic.EXO_NODES, 3)])
def test_cameras_are_frozen_for_validation_and_drawn_from_the_seed_in_training(root, monkeypatch, kind, nodes, n):
    clips, validation, manifest = load_clips(root, kind, 16, 32)
    frozen = [w.cameras for w in validation.windows]
    assert [w[3] for w in manifest["windows"]["validation"]] == [list(c) for c in frozen] and len(set(frozen)) > 1
    drawn = []
    chosen = motion_vq.clips.draw_cameras
    monkeypatch.setattr(motion_vq.clips, "draw_cameras", lambda *args: drawn.append(chosen(*args)) or drawn[-1])
    for seed in (3, 3, 4): batch(clips, seed, 0, 12)
    first, again, other = drawn[:12], drawn[12:24], drawn[24:]
    assert first == again != other and len(set(first)) > 1 and {len(set(c)) for c in drawn} == {n} and {node for c in drawn for node in c} <= set(nodes)
    validation[0], validation[1]
    assert len(drawn) == 36 and frozen == [w.cameras for w in validation.windows], "nothing is drawn for validation"


def test_targets_are_the_maximum_over_limbs(root):
    clips = Clips(read_split(root, "train"), "2d", 16, 32)
    x, target = clip_maps(clips[0][None], "2d", 32)
    assert x.shape == (1, 17, 16, 32, 32) and torch.equal(target, x.amax(1, keepdim=True)) and target.max() > 0.9


def test_manifest_is_repeatable_and_checked(root, tmp_path):
    a, b = (load_clips(root, "2d", 16, 32)[2] for _ in range(2))
    assert a == b
    write_json(tmp_path/"m.json", a)
    check_manifest(tmp_path/"m.json", b)
    b["windows"]["validation"][0][2] += 1
    with pytest.raises(DataError, match="m.json"): check_manifest(tmp_path/"m.json", dict(b, sha256="0" * 64))


def test_errors_name_what_would_do(root, tmp_path):
    sequences = read_split(root, "train")
    longest = max(len(t) for s in sequences for t in s.tracks)
    with pytest.raises(DataError, match=f"at most {longest}"): Clips(sequences, "3d", frames=longest + 1)
    with pytest.raises(ConfigError, match="exo"): Clips(sequences, "4d")
    (tmp_path/"train").mkdir()
    with pytest.raises(DataError, match=str(tmp_path)): load_clips(tmp_path)
    missing = Clips(sequences, "3d", 16, 32)
    missing.windows[0] = missing.windows[0].__class__("nowhere", 0, 0, ())
    with pytest.raises((DataError, KeyError)): missing[0]


@pytest.mark.skipif(not MOCAP.is_dir(), reason="no real motion beside the project")
@pytest.mark.parametrize("kind", ["2d", "exo", "3d"])
def test_real_motion_fits_the_image(kind):
    clips = Clips(read_split(MOCAP, "validation"), kind, 16, 32, split="validation")
    assert len(clips) > 100
    for i in range(0, len(clips), 7):
        span = np.ptp(clips[i].reshape(clips[i].shape[0], -1, clips[i].shape[-1]), axis=1).max(-1)
        np.testing.assert_allclose(span, 0.9 * 32, rtol=1e-4)
