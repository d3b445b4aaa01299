"""Poses: properties of resample, yaw, mirror and fit; the camera against a loop, numbers by hand and its own inverse."""
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize_scalar
from scipy.spatial.transform import Rotation

from motion_vq.core import ConfigError, DataError
from motion_vq.poses import Camera, check, fit, fit_params, mirror, resample, unfit, visible, yaw
from motion_vq.skeletons import COCO17, PANOPTIC19

MOCAP = Path(__file__).parents[2] / "shared" / "mocap"
several = settings(deadline=None, max_examples=40)
numbers = st.floats(-500, 500, width=32)
clips = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(2, 3)).flatmap(lambda s: arrays(np.float64, s, elements=numbers))
clips3d = st.tuples(st.integers(1, 4), st.just(19), st.just(3)).flatmap(lambda s: arrays(np.float64, s, elements=numbers))


def lens(dist=(0, 0, 0, 0, 0), **kwargs):
    "300 cm from the origin, looking along z."
    values = dict(K=[[1500, 0, 960], [0, 1400, 540], [0, 0, 1]], R=np.eye(3), t=(0, 0, 300), resolution=(1920, 1080))
    return Camera("00_07", 0, 7, dist=dist, **(values | kwargs))


def tilted(dist=(-0.28, 0.21, 0.0007, -0.0004, 0.012)):
    "A camera as in Panoptic's calibrations, turned about all three axes, with a skewed sensor."
    return lens(dist, R=Rotation.from_euler("yxz", [40, 12, -3], degrees=True).as_matrix(), t=(12, 90, 280),
                K=[[1484.4, 1.5, 963.2], [0, 1479.2, 524.9], [0, 0, 1]])


def by_hand(camera, point):
    "OpenCV's formula for one point in Python's own numbers."
    X, Y, Z = (math.fsum([*(camera.R[i, j] * point[j] for j in range(3)), camera.t[i]]) for i in range(3))
    x, y = X / Z, Y / Z
    k1, k2, p1, p2, k3 = camera.dist
    r2 = x**2 + y**2
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    xd, yd = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2), y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y
    (fx, skew, cx), (_, fy, cy), _ = camera.K
    return fx * xd + skew * yd + cx, fy * yd + cy, Z


# --- check ---

def test_good_clips_pass():
    check(np.zeros((4, 19, 3)), np.zeros((4, 19)), "here")
    check(np.zeros((2, 4, 19, 2), np.float32))
    check(np.full((1, 1, 2), 99_999))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1.01e5, -1e9])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_bad_numbers_are_named(bad, axis):
    clip = np.zeros((6, 19, 3))
    clip[4, 11, axis] = clip[5, 2, axis] = bad
    with pytest.raises(DataError, match="seq/x.tar: frame 4, joint 11: .*") as error: check(clip, where="seq/x.tar")
    assert str(bad) in str(error.value).replace("100000", "") or str(float(bad)) in str(error.value)


def test_bad_numbers_in_a_batch_and_in_confidence():
    clips = np.zeros((2, 6, 19, 3))
    clips[1, 3, 7] = np.nan
    with pytest.raises(DataError, match=r"^clip \(1,\), frame 3, joint 7"): check(clips)
    confidence = np.ones((6, 19))
    confidence[2, 5] = np.nan
    with pytest.raises(DataError, match="^f: frame 2, joint 5: its confidence is nan"): check(clips[0], confidence, "f")


@pytest.mark.parametrize("shape", [(19, 3), (4, 19, 4), (4, 19, 1), (0, 19, 3), (4, 0, 3), ()])
def test_wrong_shapes(shape):
    with pytest.raises(DataError, match="there: joints have shape"): check(np.zeros(shape), where="there")


def test_wrong_types_and_confidence_shapes():
    with pytest.raises(DataError, match="type"): check(np.full((4, 19, 3), "1"))
    with pytest.raises(DataError, match=r"\(19, 4\).*\(4, 19\)"): check(np.zeros((4, 19, 3)), np.zeros((19, 4)))


# --- resample ---

@several
@given(clips, st.integers(1, 12))
def test_resample_keeps_the_ends_and_stays_within(clip, frames):
    out = resample(clip, frames)
    assert out.shape == (frames, *clip.shape[1:]) and (out[0] == clip[0]).all()
    if frames > 1: assert (out[-1] == clip[-1]).all()
    assert (out >= clip.min(0) - 1e-9).all() and (out <= clip.max(0) + 1e-9).all()
    assert (resample(clip, len(clip)) == clip).all()
    assert (resample(np.stack([clip, 2 * clip]), frames)[0] == out).all()


@several
@given(clips.filter(lambda c: len(c) > 1), st.integers(2, 12))
def test_resample_is_numpys_interp(clip, frames):
    flat = clip.reshape(len(clip), -1)
    at = np.linspace(0, len(clip) - 1, frames)
    expected = np.stack([np.interp(at, np.arange(len(clip)), series) for series in flat.T], -1)
    np.testing.assert_allclose(resample(clip, frames).reshape(frames, -1), expected, atol=1e-9)


def test_resample_by_hand():
    assert resample(np.array([0, 10, 40]), 5, axis=0).tolist() == [0, 5, 10, 25, 40]
    assert resample(np.float32([[0, 1], [2, 3]]), 3, axis=-2).tolist() == [[0, 1], [1, 2], [2, 3]]
    assert resample(np.ones((1, 2, 3), np.float32), 4).dtype == np.float32
    with pytest.raises(ConfigError, match="0 frames"): resample(np.ones((1, 2, 3)), 0)
    with pytest.raises(DataError, match="no frame"): resample(np.ones((0, 2, 3)), 4)


# --- yaw and mirror ---

@several
@given(clips3d, st.floats(-7, 7))
def test_yaw_keeps_heights_and_lengths(clip, angle):
    out = yaw(clip, angle)
    assert (out[..., 1] == clip[..., 1]).all()
    between = lambda x: np.linalg.norm(x[:, :, None] - x[:, None], axis=-1)
    np.testing.assert_allclose(between(out), between(clip), atol=1e-4)
    np.testing.assert_allclose(out.mean((0, 1)), clip.mean((0, 1)), atol=1e-9)
    np.testing.assert_allclose(yaw(out, -angle), clip, atol=1e-9)
    expected = Rotation.from_rotvec([0, angle, 0]).apply(clip.reshape(-1, 3)).reshape(clip.shape)
    np.testing.assert_allclose(yaw(clip, angle, centre=(0, 0, 0)), expected, atol=1e-9)


def test_yaw_by_hand():
    "A quarter turn about (1, ., 1): one step along x becomes one step along minus z. Clips turn each by its own angle."
    point = np.array([2., 5, 1]).reshape(1, 1, 3)
    np.testing.assert_allclose(yaw(point, np.pi / 2, centre=(1, 0, 1)), [[[1, 5, 0]]], atol=1e-12)
    clips = np.random.default_rng(0).normal(size=(3, 4, 19, 3))
    angles, centres = np.array([0.1, 2, -1]), np.arange(9.0).reshape(3, 3)
    together = yaw(clips, angles, centres)
    for i in range(3): np.testing.assert_allclose(together[i], yaw(clips[i], angles[i], centres[i]), atol=1e-12)
    assert yaw(clips.astype(np.float32), 0.3).dtype == np.float32


@several
@given(clips3d)
def test_mirror_twice_is_nothing(clip):
    there = mirror(clip, PANOPTIC19)
    assert (mirror(there, "panoptic19") == clip).all()
    for k, name in enumerate(PANOPTIC19.joints):
        other = PANOPTIC19.index(name.replace("left", "?").replace("right", "left").replace("?", "right"))
        assert (there[:, k] == clip[:, other] * [-1, 1, 1]).all()


def test_mirror_leaves_its_input_alone_and_wants_the_right_skeleton():
    clip = np.random.default_rng(0).normal(size=(2, 4, 17, 2)).astype(np.float32)
    before = clip.copy()
    assert mirror(clip, COCO17).dtype == np.float32 and (clip == before).all()
    with pytest.raises(ConfigError, match="panoptic19"): mirror(clip, PANOPTIC19)


# --- fit ---

wide = clips.filter(lambda c: (c.max((0, 1)) - c.min((0, 1))).max() > 0.1)


@several
@given(wide, st.integers(1, 300), st.floats(0.1, 1))
def test_fit_fills_the_box_and_is_isotropic(clip, size, margin):
    out = fit(clip, size, margin)
    low, high, middle = out.min((0, 1)), out.max((0, 1)), (size - 1) / 2
    np.testing.assert_allclose((low + high) / 2, middle, atol=1e-6)               # centred, on every axis
    assert math.isclose((high - low).max(), margin * size, rel_tol=1e-6)           # the longest side fills the margin
    assert (out >= -0.5 - 1e-6).all() and (out <= size - 0.5 + 1e-6).all()         # inside the picture
    k = np.argmax(clip.max((0, 1)) - clip.min((0, 1)))                             # one scale for all axes
    scale = (high - low)[k] / np.ptp(clip[..., k])
    np.testing.assert_allclose(out - out[0, 0], scale * (clip - clip[0, 0]), atol=1e-6)


@several
@given(wide, st.lists(st.floats(-1000, 1000), min_size=3, max_size=3), st.floats(0.01, 100))
def test_fit_forgets_place_and_size(clip, move, scale):
    moved = scale * clip + np.array(move)[:clip.shape[-1]]
    np.testing.assert_allclose(fit(moved, 128), fit(clip, 128), atol=1e-4)


@several
@given(clips)
def test_fit_of_a_batch_is_the_fit_of_each(clip):
    batch = np.stack([clip, -3 * clip, np.zeros_like(clip), clip + 9]).reshape(2, 2, *clip.shape)
    out = fit(batch, 64)
    for i in np.ndindex(2, 2): assert (out[i] == fit(batch[i], 64)).all()


@several
@given(clips, st.integers(1, 300))
def test_unfit_undoes_fit(clip, size):
    batch = np.stack([clip, 2 * clip - 5])
    scale, centre = fit_params(batch, size)
    assert scale.shape == (2,) and centre.shape == (2, clip.shape[-1])
    np.testing.assert_allclose(unfit(fit(batch, size), scale, centre, size), batch, atol=1e-6)


def test_fit_by_hand():
    "The paper's 0.9 * min(size / extent): extents 10, 40, 20 in a box of 128 give 0.9 * 128 / 40 = 2.88 pixels a unit."
    clip = np.array([[[0, 0, 0], [10, 0, 0]], [[0, 40, 0], [0, 0, 20]]])
    scale, centre = fit_params(clip, 128)
    assert scale == pytest.approx(2.88) and centre.tolist() == [5, 20, 10]
    np.testing.assert_allclose(fit(clip, 128)[1, 0], [63.5 - 5 * 2.88, 63.5 + 20 * 2.88, 63.5 - 10 * 2.88])
    assert fit(clip.astype(np.float32), 128).dtype == np.float32


def test_fit_of_a_point_is_the_middle():
    for value in (0.0, 7.3, -1e-310, 123456.7): assert (fit(np.full((4, 19, 3), value), 128) == 63.5).all()
    jitter = 1000 + 1e-13 * np.random.default_rng(0).normal(size=(4, 19, 3))
    np.testing.assert_allclose(fit(jitter, 128), 63.5, atol=1e-6)  # rounding error is not blown up to a person


def test_fit_refuses():
    clip = np.random.default_rng(0).normal(size=(4, 19, 3))
    for size, margin in ((0, 0.9), (128, 0), (128, 1.1)):
        with pytest.raises(ConfigError, match="size"): fit(clip, size, margin)
    clip[2, 3, 1] = np.nan
    with pytest.raises(DataError, match="nan"): fit(clip, 128)
    for shape in ((19, 3), (0, 19, 3), (4, 0, 2)):
        with pytest.raises(DataError, match="shape"): fit(np.zeros(shape), 128)


# --- cameras ---

@several
@given(arrays(np.float64, (2, 3, 3), elements=st.floats(-150, 150)))
def test_project_is_opencvs_formula(points):
    camera = tilted()
    pixels, depth = camera.project(points)
    assert pixels.shape == (2, 3, 2) and depth.shape == (2, 3) and pixels.dtype == np.float64
    for i in np.ndindex(2, 3):
        u, v, z = by_hand(camera, points[i])
        assert depth[i] == pytest.approx(z, abs=1e-9)
        x = camera.R @ points[i] + camera.t
        if z > 1 and np.hypot(x[0], x[1]) / z < camera.reach: np.testing.assert_allclose(pixels[i], (u, v), rtol=1e-9, atol=1e-7)
        elif z <= 0: assert np.isnan(pixels[i]).all()


@pytest.mark.parametrize("k, expected", [
    (None, (960, 540)), (0, (1010, 516.8)), (1, (1010, 516.8)), (2, (1010, 516.8)), (3, (1010, 516.8)), (4, (1010, 516.8))])
def test_project_by_hand(k, expected):
    "x = 1/3 and y = -1/6 without a lens; then each coefficient by itself, in its place."
    if k is None:
        pixels, depth = lens((-0.3, 0.2, 0.01, 0.01, 0.1)).project((0, 0, 50))
        assert pixels.tolist() == [960, 540] and depth == 350  # the optical axis: the lens changes nothing
        return
    x, y, c = 1 / 3, -1 / 6, 0.1
    r2 = x * x + y * y
    moved = [(x * c * r2, y * c * r2), (x * c * r2**2, y * c * r2**2), (2 * c * x * y, c * (r2 + 2 * y * y)),
             (c * (r2 + 2 * x * x), 2 * c * x * y), (x * c * r2**3, y * c * r2**3)][k]
    pixels, _ = lens(np.eye(5)[k] * c).project((100, -50, 0))
    np.testing.assert_allclose(pixels, (960 + 1500 * (x + moved[0]), 540 + 1400 * (y + moved[1])), rtol=1e-12)


def test_pinhole_in_round_numbers():
    "5 pixels a centimetre across and 14 / 3 down, at 300 cm; half of it at 600 cm."
    pixels, depth = lens().project([(10, 30, 0), (10, 30, 300)])
    np.testing.assert_allclose(pixels, [(1010, 680), (985, 610)])
    assert depth.tolist() == [300, 600]


def test_behind_and_beside_the_camera():
    pixels, depth = lens().project([(0, 0, -301), (0, 0, -300), (10, 0, -300), (1e-200, 0, -300 + 1e-13)])
    assert (depth[:1] < 0).all() and depth[1] == 0 and np.isnan(pixels[:3]).all()
    assert lens().project(np.zeros((0, 19, 3)))[0].shape == (0, 19, 2)
    with np.errstate(all="raise"):  # no warning on the way to nan either
        assert np.isnan(lens(t=(0, 0, 1e-300)).project((1, 1, 0))[0]).all()


def test_camera_stands_where_it_stands():
    camera = tilted()
    np.testing.assert_allclose(camera.R @ camera.position + camera.t, 0, atol=1e-9)
    assert camera.project(camera.position + 100 * camera.R[2])[1] == pytest.approx(100)  # a metre along its axis
    assert lens(t=[[1], [2], [3]]).t.tolist() == [1, 2, 3]  # a column, as in Panoptic's files


@pytest.mark.parametrize("dist", [(-0.3, 0, 0, 0, 0), (-0.4, 0.05, 0, 0, 0), (0.1, -0.2, 0, 0, 0), (-0.1, 0.05, 0, 0, -0.02)])
def test_reach_is_where_the_radius_peaks(dist):
    k1, k2, _, _, k3 = dist
    radius = lambda r: r * (1 + k1 * r**2 + k2 * r**4 + k3 * r**6)
    camera = lens(dist)
    r = np.linspace(0, camera.reach, 2000)
    assert (np.diff(radius(r)) > 0).all() and radius(camera.reach * 1.01) < radius(camera.reach)
    peak = minimize_scalar(lambda r: -radius(r), bounds=(0.8 * camera.reach, 1.05 * camera.reach), method="bounded").x
    assert camera.reach == pytest.approx(peak, abs=1e-3)


def test_beyond_the_reach_there_is_no_picture():
    camera = lens((-0.3, 0, 0, 0, 0))
    near, far = (300 * camera.reach * s for s in (0.999, 1.001))
    assert np.isfinite(camera.project((near, 0, 0))[0]).all() and np.isnan(camera.project((far, 0, 0))[0]).all()
    assert lens().reach == lens((0.1, 0.1, 0, 0, 0)).reach == math.inf
    u, _, _ = by_hand(camera, (450, 0, 0))
    assert 0 < u < 1920 and not visible(np.full((1, 19, 3), (450, 0, 0)), None, camera)[0]


@pytest.mark.parametrize("key, value", [("K", np.eye(2)), ("K", "focal"), ("dist", (0, 0, 0, 0)), ("t", (0, 0, np.nan)),
                                        ("R", 2 * np.eye(3)), ("R", np.diag([1, 1, -1])), ("resolution", (1920,)), ("R", None)])
def test_a_wrong_calibration_is_refused(key, value):
    with pytest.raises(DataError, match=f"'00_07': {key} is"): lens(**{key: value})


# --- visible ---

def crowd(n_inside, n=19):
    "One frame of n joints: so many in the middle of the picture, the others just left of it."
    joints = np.zeros((1, n, 3))
    joints[:, n_inside:, 0] = -193  # u = 960 - 5 * 193 = -5
    return joints


@pytest.mark.parametrize("n_inside, n, seen", [(19, 19, True), (18, 19, True), (17, 19, False), (0, 19, False),
                                               (18, 20, False), (19, 20, True), (9, 10, False)])
def test_more_than_nine_in_ten(n_inside, n, seen):
    assert visible(crowd(n_inside, n), None, lens()).tolist() == [seen]
    confidence = np.full((1, n), 0.5)
    confidence[0, n_inside:] = 0.1  # 0.1 itself is not above 0.1
    assert visible(np.zeros((1, n, 3)), confidence, lens()).tolist() == [seen]
    confidence[0, n_inside:] = 0.11
    assert visible(np.zeros((1, n, 3)), confidence, lens()).all()


def test_the_images_edges():
    "0 is inside and the width is not, on either axis."
    for axis, last, per_cm in ((0, 1920, 5), (1, 1080, 14 / 3)):
        for pixel, inside in ((0.01, True), (-0.01, False), (last - 0.01, True), (last + 0.01, False)):
            joints = np.zeros((1, 19, 3))
            joints[..., axis] = (pixel - (960, 540)[axis]) / per_cm
            assert visible(joints, None, lens())[0] == inside


def test_one_joint_behind_the_camera_is_enough():
    joints = np.zeros((2, 3, 19, 3))
    joints[1, 2, 0] = (0, 0, -400)
    confidence = np.ones((2, 3, 19))
    confidence[1, 2, 0] = 0
    assert visible(joints, confidence, lens()).tolist() == [[True] * 3, [True, True, False]]


@several
@given(arrays(np.float64, (4, 19, 3), elements=st.floats(-250, 250)), arrays(np.float64, (4, 19), elements=st.floats(0.05, 1)))
def test_visible_is_the_rule_read_aloud(joints, confidence):
    camera = tilted()
    pixels, _ = camera.project(joints)
    for f, seen in enumerate(visible(joints, confidence, camera)):
        good = sum(c > 0.1 and 0 <= u < 1920 and 0 <= v < 1080 for (u, v), c in zip(pixels[f], confidence[f]))
        assert seen == (good / 19 > 0.9 and bool(np.isfinite(pixels[f]).all()))


def test_the_module_is_light():
    "NumPy only: no torch, no SciPy, no plotting."
    code = "import sys, motion_vq.poses; print(*{'torch', 'scipy', 'matplotlib', 'pandas', 'fastcore'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_on_measured_motion():
    "Real people, as the recordings have them: every step of the way keeps what it promises."
    folder = MOCAP / "validation"
    if not folder.is_dir(): pytest.skip(f"the motion-capture recordings are not beside the project ({folder.name})")
    from motion_vq.panoptic import read_sequence
    sequence = read_sequence(sorted(folder.iterdir())[0])
    joints, confidence = sequence.tracks[0].joints, sequence.tracks[0].confidence
    check(joints, confidence)
    for camera in sequence.cameras.values():
        pixels, depth = camera.project(joints)
        if not (seen := visible(joints, confidence, camera)).any(): continue
        assert np.isfinite(pixels[seen]).all() and (depth[seen] > 0).all()
        out = fit(pixels[seen], 128)
        assert out.min() >= 5.9 - 1e-6 and out.max() <= 121.1 + 1e-6
    height = joints[..., 1].max() - joints[..., 1].min()
    assert 100 < height < 400 and np.isclose(np.ptp(yaw(joints, 1.0)[..., 1]), height)
