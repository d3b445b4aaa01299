"Procedural people: bodies, motion, cameras, and the dataset on disk."
import hashlib
import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motion_vq import synthetic
from motion_vq.core import ConfigError, DataError
from motion_vq.movements import ACTIONS, Pose, forward, perform, person
from motion_vq.panoptic import read_split
from motion_vq.poses import visible
from motion_vq.synthetic import cameras, motion, write_dataset

# pairs of joints that a bone or the rigid head holds together, by number
BONES = [(3, 4), (4, 5), (9, 10), (10, 11), (6, 7), (7, 8), (12, 13), (13, 14), (0, 2), (0, 3), (0, 9), (2, 6), (2, 12),
         (0, 1), (1, 15), (1, 17), (15, 16), (17, 18), (16, 18)]
SMALL = dict(train=8, validation=7, frames=12)
actions, seeds = st.sampled_from(ACTIONS), st.integers(0, 10**9)


def lengths(joints): return np.stack([np.linalg.norm(joints[:, a] - joints[:, b], axis=-1) for a, b in BONES], -1)


def facing(joints):
    "Unit vectors on the floor to where the hips face: with y down, the cross product of down and rightward."
    right = joints[:, 12] - joints[:, 6]
    ahead = np.cross(right, [0, 1, 0])
    return ahead / np.linalg.norm(ahead, axis=-1, keepdims=True)


def tree(root): return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()}


@given(seeds)
@settings(deadline=None, max_examples=50)
def test_bodies_are_human(seed):
    b = person(seed)
    assert b == person(seed) and 150 <= b.height <= 195
    # Winter's table, 4th ed., fig. 4.1, with the 8 % that a segment may deviate
    for value, fraction in ((b.thigh, 0.245), (b.shank, 0.246), (b.upper_arm, 0.186), (b.forearm, 0.146), (b.ankle, 0.039), (b.trunk, 0.288)):
        assert abs(value / b.height / fraction - 1) < 0.0801


def test_bodies_differ():
    heights = [person(s).height for s in range(300)]
    assert 170 < np.mean(heights) < 174 and 7 < np.std(heights) < 10 and len(set(heights)) > 280


def test_forward_kinematics_by_hand():
    b = person(0)
    n = np.zeros((1, 3))
    pose = Pose(np.array([[0, -b.thigh - b.shank - b.ankle + 1, 0.]]), np.zeros(1), n, n, n, np.zeros((1, 2, 4)),
                np.array([[[-b.hip, -b.ankle, 0], [b.hip, -b.ankle, 0.]]]))
    j = forward(b, pose)[0]
    np.testing.assert_allclose(j[0] - j[2], [0, -b.trunk, 0], atol=1e-9)
    np.testing.assert_allclose(j[5] - j[3], [0, b.upper_arm + b.forearm, 0], atol=1e-9)        # arms hang
    np.testing.assert_allclose([j[3, 0], j[9, 0]], [-b.shoulder, b.shoulder], atol=1e-9)      # left is -x
    np.testing.assert_allclose(j[[8, 14]], [[-b.hip, -b.ankle, 0], [b.hip, -b.ankle, 0]], atol=1e-9)
    assert j[7, 2] > 1 and j[13, 2] > 1                                                        # knees bend to +z
    pose.heading = np.array([90.])                                                            # to the right: faces +x
    assert forward(b, pose)[0, 1, 0] > 5
    pose.heading, pose.arms = np.zeros(1), np.array([[[90, 0, 0, 0], [0, 90, 0, 90.]]])        # left forward, right sideways
    j = forward(b, pose)[0]
    np.testing.assert_allclose(j[5] - j[3], [0, 0, b.upper_arm + b.forearm], atol=1e-9)
    np.testing.assert_allclose(j[10] - j[9], [b.upper_arm, 0, 0], atol=1e-9)
    np.testing.assert_allclose(j[11] - j[10], [0, 0, b.forearm], atol=1e-9)                    # the elbow bends forward


def test_a_leg_that_is_too_short_keeps_its_length():
    b = person(0)
    n = np.zeros((1, 3))
    j = forward(b, Pose(np.array([[0, -300., 0]]), np.zeros(1), n, n, n, np.zeros((1, 2, 4)), np.zeros((1, 2, 3))))
    assert np.isclose(np.linalg.norm(j[0, 7] - j[0, 6]), b.thigh) and np.isclose(np.linalg.norm(j[0, 8] - j[0, 7]), b.shank)


@given(actions, seeds)
@settings(deadline=None, max_examples=40)
def test_motion_is_human(action, seed):
    b, j = person(seed), motion(action, 120, seed, noise=0)
    assert j.shape == (120, 19, 3) and np.isfinite(j).all()
    assert np.ptp(lengths(j), axis=0).max() < 1e-6                             # bones are rigid
    np.testing.assert_allclose(lengths(j)[0, :8], [b.upper_arm, b.forearm] * 2 + [b.thigh, b.shank] * 2)
    hip, knee, ankle = j[:, [6, 12]], j[:, [7, 13]], j[:, [8, 14]]
    line = (ankle - hip) / np.linalg.norm(ankle - hip, axis=-1, keepdims=True)
    off = knee - hip - ((knee - hip) * line).sum(-1, keepdims=True) * line
    assert (off * facing(j)[:, None]).sum(-1).min() > 0                        # knees point forward, so shins go back
    for shoulder in (3, 9):                                                    # elbows bend, and never past straight
        upper, lower = j[:, shoulder + 1] - j[:, shoulder], j[:, shoulder + 2] - j[:, shoulder + 1]
        assert ((upper * lower).sum(-1) / b.upper_arm / b.forearm).min() > np.cos(np.deg2rad(160))
    assert j[..., 1].max() < 0                                                 # nothing under the floor
    ankles = -j[:, [8, 14], 1]
    assert ankles.min() > b.ankle - 0.01                                       # feet neither
    assert ankles.min(1).max() < b.ankle + (60 if action == "jump" else 5)     # and only jumpers leave it
    assert (j[:, 0, 1] < j[:, 2, 1]).all()                                     # the neck is above the hips
    speed = np.linalg.norm(np.diff(j, axis=0), axis=-1) * 30
    assert speed.max() < 1300 and np.abs(j[..., [0, 2]]).max() < 260           # cm/s; on the stage


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_moves_what_it_should(action):
    moved = {}
    for seed in range(6):
        j = motion(action, 150, seed, noise=0)
        path = np.linalg.norm(np.diff(j, axis=0), axis=-1).sum(0)              # cm in five seconds
        moved.setdefault("wrist", []).append(path[[5, 11]].max())
        moved.setdefault("pelvis", []).append(path[2])
        moved.setdefault("rise", []).append(np.ptp(j[:, 2, 1]))
        moved.setdefault("turn", []).append(np.ptp(np.unwrap(np.arctan2(*facing(j)[:, [0, 2]].T))))
        half = [np.linalg.norm(np.diff(h, axis=0), axis=-1).sum(0).max() for h in (j[:75], j[75:])]
        assert min(half) > 15, (action, seed)                                  # no half of a clip is frozen
    least = dict(gait=("pelvis", 250), reach=("wrist", 250), wave=("wrist", 250), talk=("wrist", 120), turn=("turn", 1), sit=("rise", 30), jump=("rise", 30))
    what, value = least[action]
    assert min(moved[what]) > value, moved


@pytest.mark.parametrize("action", ACTIONS)
def test_standing_feet_do_not_slide(action):
    for seed in range(8):
        b, j = person(seed), motion(action, 150, seed, fps=60, noise=0)
        for ankle in (8, 14):
            rests = -j[:, ankle, 1] < b.ankle + 0.02
            both = rests[1:] & rests[:-1]
            slide = np.linalg.norm(np.diff(j[:, ankle], axis=0), axis=-1)[both]
            assert rests.mean() > 0.15 and slide.max(initial=0) < 0.05, (action, seed)  # cm in 1/60 s


def test_a_jump_obeys_gravity():
    b, j = person(2), motion("jump", 600, 2, fps=120, noise=0)
    flies = (-j[:, [8, 14], 1]).min(1) > b.ankle + 0.031 * b.height + 1
    inside = flies[:-2] & flies[1:-1] & flies[2:]
    fall = np.diff(j[:, 2, 1], n=2)[inside] * 120**2                           # y points down
    assert inside.sum() > 40 and abs(np.median(fall) - 981) < 25


def test_noise():
    clean, noisy = (motion("reach", 4000, 5, noise=n) for n in (0, 0.4))
    e = noisy - clean
    assert abs(e.std() - 0.4) < 0.01 and abs(e.mean()) < 0.02
    assert abs((e[1:] * e[:-1]).mean() / e.var() - np.exp(-1 / 4.5)) < 0.02    # 0.15 s at 30 Hz
    assert abs(np.corrcoef(e[:, 0, 0], e[:, 5, 2])[0, 1]) < 0.15


@given(actions, seeds, st.integers(1, 40))
@settings(deadline=None, max_examples=30)
def test_seeds_and_short_clips(action, seed, frames):
    a = motion(action, frames, seed)
    assert a.shape == (frames, 19, 3) and np.array_equal(a, motion(action, frames, seed))
    assert not np.allclose(a, motion(action, frames, seed + 1), atol=1)


def test_facing_and_place():
    for facing_to, ahead in ((0, [0, 0, 1]), (90, [1, 0, 0]), (180, [0, 0, -1])):
        j = motion("talk", 60, 3, noise=0, facing=facing_to, at=(50, -20))
        assert (facing(j) @ ahead).min() > 0.9
        assert np.abs(j[:, 2, [0, 2]].mean(0) - [50, -20]).max() < 8


def test_motion_is_the_movement_turned_and_placed():
    rng = np.random.default_rng([3, 2, ACTIONS.index("sit")])
    moved = perform("sit", person(3), np.arange(40) / 30, rng)
    np.testing.assert_allclose(motion("sit", 40, 3, noise=0, facing=90, at=(5, 7)), moved[..., [2, 1, 0]] * [1, 1, -1] + [5, 0, 7], atol=1e-9)  # +z becomes +x
    with pytest.raises(ConfigError, match="fly"): perform("fly", person(3), np.arange(2) / 30, rng)


@pytest.mark.parametrize("wrong", [dict(action="fly"), dict(frames=0), dict(seed=-1), dict(fps=0), dict(fps=float("nan"))])
def test_wrong_settings(wrong):
    with pytest.raises(ConfigError): motion(**(dict(action="wave", frames=5, seed=0) | wrong))


def test_cameras():
    ring = cameras()
    assert list(ring) == list(range(31)) and len(cameras(5)) == 5
    for node, c in ring.items():
        assert (c.node, c.panel, c.name, c.resolution) == (node, 0, f"00_{node:02d}", (1920, 1080))
        np.testing.assert_allclose(c.R @ c.R.T, np.eye(3), atol=1e-12)
        assert np.isclose(np.linalg.det(c.R), 1) and 1300 < c.K[0, 0] < 1500 and -0.3 < c.dist[0] < -0.2
        assert np.isclose(np.linalg.norm(-c.R.T @ c.t - [0, -88, 0]), 350)
        pixels, depth = c.project(np.array([[0, -88., 0], [0, -150., 0], [0, -20., 0]]))
        assert np.allclose(pixels[0], c.K[:2, 2]) and pixels[1, 1] < pixels[0, 1] < pixels[2, 1] and (depth > 0).all()  # upright
    seen = [visible(motion(a, 60, 1), np.ones((60, 19)), c).mean() for a in ACTIONS for c in ring.values()]
    assert np.mean(seen) > 0.8


def test_dataset_round_trip(tmp_path):
    root = write_dataset(tmp_path/"data", **SMALL)
    splits = {s: read_split(root, s, progress=False) for s in ("train", "validation")}
    assert [len(v) for v in splits.values()] == [8, 7]
    for sequences in splits.values(): assert {s.name.split("_")[1] for s in sequences} == set(ACTIONS)
    names = [s.name for v in splits.values() for s in v]
    assert len(set(names)) == 15 and {len(s.tracks) for v in splits.values() for s in v} == {1, 2}
    plan = list(synthetic._plan(8, 7, 0))
    people = {split: {p for s, _, _, group in plan for p in group if s == split} for split in splits}
    assert not people["train"] & people["validation"] and sum(map(len, people.values())) == sum(len(g) for *_, g in plan)
    for split, name, action, group in plan:
        sequence = next(s for s in splits[split] if s.name == name)
        for track, wanted in zip(sequence.tracks, synthetic._tracks(name, action, group, 12), strict=True):
            assert np.array_equal(track.joints, wanted.joints) and np.array_equal(track.confidence, wanted.confidence)
            hundredths = track.joints.astype(float) * 100
            assert np.abs(hundredths - hundredths.round()).max() < 0.01 and (np.abs(track.joints % 1 - 0.5) < 0.45).mean() > 0.8  # 0.1 mm
            assert track.joints.dtype == np.float32 and track.person == wanted.person and track.start == 100
            assert 0.1 < track.confidence.min() and track.confidence.max() <= 0.95
        assert sequence.cameras.keys() == cameras().keys() and np.allclose(sequence.cameras[4].t, cameras()[4].t)
        if len(group) == 2:  # two people face each other at a distance
            a, b = (t.joints.astype(float) for t in sequence.tracks)
            if action in ("talk", "wave"):
                assert min(((b - a)[:, 2] * facing(a)).sum(-1).min(), ((a - b)[:, 2] * facing(b)).sum(-1).min()) > 100
            assert np.linalg.norm(a[:, 2] - b[:, 2], axis=-1).min() > 60


def test_same_seed_same_bytes(tmp_path):
    a, b, c = (tree(write_dataset(tmp_path/n, 2, 1, 6, seed)) for n, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert a == b and a.keys() == c.keys() and len(a) == 7
    for name in a:
        if not name.startswith(("train/synth_gait_1/calib", "train/synth_reach_1/calib")) and name.endswith("tar"): assert a[name] != c[name]


def stamps(root): return {p: p.stat().st_mtime_ns for p in root.rglob("*")}


def test_what_is_there_is_not_written_again(tmp_path):
    root = write_dataset(tmp_path, 1, 1, 5)
    before = stamps(root)
    assert write_dataset(root, 1, 1, 5) == root and stamps(root) == before
    assert not list(root.glob(".*"))


def ruin_tar(root): p = next(root.glob("train/*/*.tar")); p.write_bytes(p.read_bytes()[:-2000])
def no_manifest(root): (root/synthetic.MANIFEST).unlink()
def half_manifest(root): (root/synthetic.MANIFEST).write_bytes((root/synthetic.MANIFEST).read_bytes()[:40])
def no_split(root): shutil.rmtree(root/"validation")
def no_calibration(root): next(root.glob("validation/*/calib*")).unlink()
def one_more(root): shutil.copytree(root/"train"/"synth_gait_1", root/"train"/"synth_gait_9"); (root/"train"/"synth_gait_9"/"calibration_synth_gait_1.json").rename(root/"train"/"synth_gait_9"/"calibration_synth_gait_9.json")
def leftovers(root): no_manifest(root); next(root.glob("train/*/*.tar")).rename(root/"train"/"synth_gait_1"/".x.tar.1234.part")


@pytest.mark.parametrize("damage", [ruin_tar, no_manifest, half_manifest, no_split, no_calibration, one_more, leftovers])
def test_a_damaged_or_half_written_dataset_is_replaced(tmp_path, damage):
    root = write_dataset(tmp_path/"d", 2, 1, 5)
    good = tree(root)
    damage(root)
    assert tree(root) != good
    write_dataset(root, 2, 1, 5)
    assert tree(root) == good


@pytest.mark.parametrize("stop_at", [0, 1, 3])
def test_interrupted_writing(tmp_path, monkeypatch, stop_at):
    whole, calls, real = tree(write_dataset(tmp_path/"whole", 3, 1, 5)), [], synthetic.write_sequence
    def stop(*args):
        calls.append(args)
        if len(calls) > stop_at: raise KeyboardInterrupt
        return real(*args)
    monkeypatch.setattr(synthetic, "write_sequence", stop)
    with pytest.raises(KeyboardInterrupt): write_dataset(tmp_path/"d", 3, 1, 5)
    assert not list((tmp_path/"d").rglob("*")) if (tmp_path/"d").exists() else True  # nothing half is left
    monkeypatch.undo()
    assert tree(write_dataset(tmp_path/"d", 3, 1, 5)) == whole


def test_killed_between_the_moves(tmp_path, monkeypatch):
    "The manifest is written last: until then nothing counts as complete."
    root, real = write_dataset(tmp_path/"d", 1, 1, 5, seed=1), synthetic.write_json
    monkeypatch.setattr(synthetic, "write_json", lambda *a: (_ for _ in ()).throw(OSError("power cut")))
    with pytest.raises(OSError): write_dataset(root, 1, 1, 5, seed=2)
    assert not (root/synthetic.MANIFEST).exists()
    monkeypatch.setattr(synthetic, "write_json", real)
    assert tree(write_dataset(root, 1, 1, 5, seed=2)) == tree(write_dataset(tmp_path/"e", 1, 1, 5, seed=2))


def test_remains_of_killed_runs(tmp_path):
    for name, age in ((".write-0000dead", 7200), (".write-0000beef", 5)):
        (tmp_path/name/"train").mkdir(parents=True)
        then = (tmp_path/name).stat().st_mtime - age
        os.utime(tmp_path/name, (then, then))
    write_dataset(tmp_path, 1, 1, 5)
    assert not (tmp_path/".write-0000dead").exists() and (tmp_path/".write-0000beef").exists()  # perhaps another run is at work


def test_other_settings_replace_our_own_dataset(tmp_path):
    root = write_dataset(tmp_path, 3, 1, 5)
    (root/"windows.json").write_text("{}")  # beside the splits: not touched
    write_dataset(root, 1, 1, 5)
    assert len(list((root/"train").iterdir())) == 1 and (root/"windows.json").exists()


@pytest.mark.parametrize("path", ["thesis.txt", "train/171204_pose1/calibration_171204_pose1.json", "train/synth_gait_1/notes.txt", "train",
                                  "validation/synth_fly_1/a.json", "train/synth_gait_1/hdPose3d_stage1_coco19.tar/mine", ".git/config"])
def test_nothing_foreign_is_deleted(tmp_path, path):
    (tmp_path/path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path/path).write_text("mine")
    with pytest.raises(DataError, match="nothing was changed"): write_dataset(tmp_path, 1, 1, 5)
    assert (tmp_path/path).read_text() == "mine" and len([p for p in tmp_path.rglob("*") if p.is_file()]) == 1


def test_a_file_in_the_way(tmp_path):
    (tmp_path/"f").write_text("mine")
    with pytest.raises(DataError, match="is a file"): write_dataset(tmp_path/"f")


@pytest.mark.parametrize("wrong", [dict(train=0), dict(validation=0), dict(frames=0), dict(seed=-1)])
def test_wrong_counts(tmp_path, wrong):
    with pytest.raises(ConfigError): write_dataset(tmp_path/"d", **wrong)
    assert not (tmp_path/"d").exists()
