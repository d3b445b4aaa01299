"Foreign motion: what files say is read, what they do not say is asked for, and damage is only ever the library's own error."
import json
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from motion_vq import recordings
from motion_vq.core import ConfigError, DataError, MotionVQError
from motion_vq.recordings import Recording, fill_gaps, read_array, read_detections, read_recordings
from motion_vq.skeletons import COCO17, H36M17, PANOPTIC19, SMPL22, Skeleton
from motion_vq.synthetic import write_dataset

TWO = Skeleton("two", ("left_hand", "right_hand"), ())
examples = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


# --- gaps ---

@given(st.integers(3, 40), st.data())
def test_what_moves_evenly_comes_back_and_what_was_seen_is_not_touched(frames, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    line = (rng.normal(size=(1, 2, 3)) + np.arange(frames)[:, None, None] * rng.normal(size=(1, 2, 3))).astype(np.float32)
    lost = np.array(data.draw(st.lists(st.booleans(), min_size=frames, max_size=frames)))
    lost[[0, -1]] = False
    holes = line.copy(); holes[lost, 0] = np.nan
    filled = fill_gaps(Recording("line", holes, TWO, 30), longest=60)
    np.testing.assert_allclose(filled, line, atol=1e-4)
    assert np.array_equal(filled[~lost], line[~lost]) and np.array_equal(filled[:, 1], line[:, 1])
    assert np.isnan(holes[lost, 0]).all(), "what was given is not changed"


@pytest.mark.parametrize("lost, said", [(slice(4, 10), "6 frames .0.60 s. from frame 4"), (slice(0, 6), "from frame 0"), (slice(24, 30), "from frame 24"),
                                        (slice(0, 30), "left_hand is never seen")])
def test_a_long_gap_is_named(lost, said):
    joints = np.zeros((30, 2, 2), np.float32); joints[lost, 0] = np.nan
    with pytest.raises(DataError, match=said): fill_gaps(Recording("me", joints, TWO, 10.0))


def test_a_gap_of_just_the_limit_is_filled():
    joints = np.arange(60, dtype=np.float32).reshape(30, 2, 1).repeat(2, 2); whole = joints.copy()
    joints[4:9, 0] = np.nan                                           # 5 frames at 10 a second
    np.testing.assert_allclose(fill_gaps(Recording("me", joints, TWO, 10.0)), whole)
    assert (fill_gaps(Recording("me", np.where(np.arange(30)[:, None, None] < 3, np.nan, whole), TWO, 10.0))[:3] == whole[3]).all()


# --- arrays ---

@pytest.mark.parametrize("skeleton, shape", [(PANOPTIC19, (9, 19, 3)), (SMPL22, (9, 22, 3)), (COCO17, (9, 17, 2)), (H36M17, (9, 17, 3))])
def test_arrays_come_back(tmp_path, skeleton, shape):
    joints = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.save(tmp_path/"a.npy", joints); np.savez(tmp_path/"b.npz", joints=joints, fps=20.0, skeleton=skeleton.name)
    np.savez_compressed(tmp_path/"c.npz", joints=joints.astype(np.float64))
    for r in (read_array(tmp_path/"a.npy", skeleton, 50), read_array(tmp_path/"b.npz"), read_array(tmp_path/"c.npz", skeleton.name, 25)):
        assert np.array_equal(r.joints, joints) and r.skeleton is skeleton and r.joints.dtype == np.float32
    assert [read_array(tmp_path/"b.npz", fps=f).fps for f in (None, 50)] == [20, 50], "what is given goes before what the file says"


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16])
def test_a_joint_of_confidence_zero_or_none_was_not_seen(tmp_path, kind):
    joints, confidence = np.arange(3 * 19 * 3).reshape(3, 19, 3).astype(kind), np.ones((3, 19))
    confidence[1, 5], confidence[2, 7], confidence[0, 0] = 0, np.nan, -1
    np.savez(tmp_path/"it.npz", joints=joints, confidence=confidence, fps=30)
    read = read_array(tmp_path/"it.npz").joints
    assert [*zip(*np.nonzero(np.isnan(read).all(-1)))] == [(0, 0), (1, 5), (2, 7)]
    assert np.array_equal(read[confidence > 0], joints[confidence > 0])


@pytest.mark.parametrize("content, said", [
    (dict(joints=np.zeros((3, 19, 3))), "frames a second"), (dict(joints=np.zeros((3, 17, 3)), fps=30), "coco17 or h36m17"),
    (dict(joints=np.zeros((3, 19, 4)), fps=30), r"\(3, 19, 4\)"), (dict(joints=np.zeros((0, 19, 3)), fps=30), "none of them 0"),
    (dict(joints=np.zeros((3, 19, 3), complex), fps=30), "complex"), (dict(joints=np.full((3, 19, 3), np.inf), fps=30), "infinite"),
    (dict(joints=np.zeros((3, 19, 3)), fps=0), "positive"), (dict(joints=np.zeros((3, 19, 3)), fps="fast"), "'fast' frames a second"),
    (dict(joints=np.zeros((3, 19, 3)), fps=np.nan), "nan frames a second"), (dict(joints=np.zeros((3, 19, 3)), fps=30, skeleton="cat"), "cat"),
    (dict(joints=np.zeros((3, 19, 3)), fps=30, skeleton="smpl22"), "19 joints, and smpl22 has 22"), (dict(poses=np.zeros(3)), "poses"), (dict(fps=30), "no 'joints'"),
    (dict(joints=np.zeros((3, 19, 3)), fps=30, confidence=np.zeros(3)), "does not fit"), (dict(joints=np.array([{}]), fps=30), "safely")])
def test_what_is_wrong_with_an_array_is_said(tmp_path, content, said):
    np.savez(tmp_path/"it.npz", **content)
    with pytest.raises((DataError, ConfigError), match=said) as e: read_recordings(tmp_path/"it.npz")
    assert "it" in str(e.value)


def test_every_cut_and_many_flips_of_array_files_are_the_librarys_errors(tmp_path):
    joints, rng = np.random.default_rng(0).normal(size=(2, 19, 2)).astype(np.float32), np.random.default_rng(1)
    np.save(tmp_path/"a.npy", joints); np.savez(tmp_path/"a.npz", joints=joints, fps=30)
    refused = read = 0
    for name in ("a.npy", "a.npz"):
        whole, path = (tmp_path/name).read_bytes(), tmp_path/f"damaged{name[1:]}"
        damaged = [whole[:n] for n in range(len(whole))]
        for _ in range(500):
            b = bytearray(whole); b[rng.integers(len(b))] ^= 1 << rng.integers(8); damaged.append(bytes(b))
        for content in damaged:
            path.write_bytes(content)
            try: read += isinstance(read_array(path, "panoptic19", 30), Recording)
            except MotionVQError: refused += 1
    assert refused > 1500 and read > 0, "cuts are always noticed; a flip in a place is a place"


def test_a_pickle_is_not_opened_and_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    class Bomb:
        def __reduce__(self): return (open, (str(tmp_path/"pwned"), "w"))
    np.save(tmp_path/"p.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="safely"): read_recordings(tmp_path/"p.npy", fps=30)
    assert not (tmp_path/"pwned").exists()
    header = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 19, 3), }".ljust(117) + b"\n"
    (tmp_path/"huge.npy").write_bytes(header + bytes(100))
    with pytest.raises(DataError, match="huge"): read_recordings(tmp_path/"huge.npy", fps=30)
    monkeypatch.setattr(recordings, "MOST_BYTES", 2**20)
    with zipfile.ZipFile(tmp_path/"z.npz", "w", zipfile.ZIP_DEFLATED) as z: z.writestr("joints.npy", bytes(2**20 + 1))
    assert (tmp_path/"z.npz").stat().st_size < 2000
    with pytest.raises(DataError, match="claims 1048577 bytes"): read_recordings(tmp_path/"z.npz", fps=30)


# --- detections ---

def entry(i, x=1.0, **more): return dict(image_id=i, category_id=1, score=0.5, keypoints=[x, 2.0, 1.0] * 17) | more


def read(tmp_path, content, fps=30):
    (tmp_path/"d.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return read_detections(tmp_path/"d.json", fps)


def test_the_best_of_a_frame_is_followed_and_joints_without_score_are_missing(tmp_path):
    keypoints = [1.0, 2.0, 1.0] * 17; keypoints[3 * 9 + 2] = 0
    person, = read(tmp_path, [entry(0, 1.0), entry(0, 5.0, score=0.9), entry(1, 7.0), entry(1, 8.0, score=0.1), entry(2, keypoints=keypoints)])
    assert person.joints[:2, 0, 0].tolist() == [5, 7] and np.isnan(person.joints[2, 9]).all() and np.isnan(person.joints).sum() == 2
    assert person.skeleton is COCO17 and person.fps == 30


def test_tracks_are_persons_and_steps_between_frames_are_found(tmp_path):
    people = read(tmp_path, [entry(i, float(i + 100 * t), track_id=t) for t in (1, 2) for i in range(0, 12, 3) if (t, i) != (2, 6)])
    assert [p.name for p in people] == ["d 1", "d 2"] and [len(p) for p in people] == [4, 4]
    assert people[0].joints[:, 0, 0].tolist() == [100, 103, 106, 109]
    assert np.isnan(people[1].joints[2]).all() and fill_gaps(people[1])[2, 0, 0] == pytest.approx(206)


@pytest.mark.parametrize("content, said", [
    ("[", "not valid JSON"), ("[]", "neither"), ("{}", "neither"), ("3", "neither"), ([3], "entry 0"), ([dict(keypoints=[1] * 51)], "image_id"),
    ([entry("a")], "image_id"), ([entry(0, keypoints=[1] * 50)], "17 keypoints"), ([entry(0, keypoints=["x"] * 51)], "finite"), ([entry(0, keypoints=None)], "finite"),
    ([entry(0, score="good")], "score"), ([entry(0, track_id=[1])], "track_id"), ([entry(0, track_id=1), entry(0, track_id=1)], "there twice"),
    ([entry(0, track_id=1), entry(1)], "some do not"), ([entry(0), entry(1), entry(10**12)], "frame numbers"), ([dict(instances=[])], "nobody"), ([dict(instances=3)], "instances"),
    ([dict(instances=[dict(keypoints=[[1, 2]] * 16)])], "17 x 2"), ('[{"image_id": 0, "keypoints": [NaN]}]', "not valid JSON")])
def test_what_is_wrong_with_detections_is_said(tmp_path, content, said):
    with pytest.raises(DataError, match=said) as e: read(tmp_path, content)
    assert "d.json" in str(e.value)


def test_detections_need_their_rate(tmp_path):
    with pytest.raises(ConfigError, match="fps=30"): read(tmp_path, [entry(0)], fps=None)


anything = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                        lambda x: st.lists(x, max_size=5) | st.dictionaries(st.sampled_from(
                            ["image_id", "keypoints", "score", "track_id", "instances", "instance_info", "frame_id", "keypoint_scores", "annotations"]), x, max_size=5), max_leaves=25)


@examples
@given(anything | st.lists(st.fixed_dictionaries(dict(image_id=anything, keypoints=anything | st.lists(st.floats(), min_size=51, max_size=51), score=anything, track_id=anything)), max_size=3))
def test_whatever_a_file_holds_it_is_read_or_refused(tmp_path, content):
    try: people = read(tmp_path, content)
    except MotionVQError: return
    assert people and all(not np.isinf(p.joints).any() for p in people)


# --- any file ---

def test_a_panoptic_sequence_is_a_recording_for_each_person(tmp_path):
    folder = next((write_dataset(tmp_path/"people", train=2, validation=2, frames=12, seed=0)/"train").iterdir())
    for r in read_recordings(folder):
        assert r.skeleton is PANOPTIC19 and r.fps == 29.97 and r.joints.shape[1:] == (19, 3) and folder.name in r.name


@pytest.mark.parametrize("name, said", [("a.bvh", "angles"), ("a.BVH", "angles"), ("a.mp4", "is not read here"), ("a", "without ending"), ("a.npy", "no such file"), ("a.json", "no such file")])
def test_what_is_not_read_says_what_to_do(tmp_path, name, said):
    with pytest.raises(DataError, match=said): read_recordings(tmp_path/name, fps=30)
