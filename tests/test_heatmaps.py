"""The renderer: numbers by hand, an independent float64 oracle, projections, round trips and errors."""
import ast
import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from motion_vq import heatmaps
from motion_vq.core import ConfigError, DataError
from motion_vq.heatmaps import joints_from_heatmaps, paper_confidence, render
from motion_vq.skeletons import COCO17, PANOPTIC19, Skeleton

STICK = Skeleton("stick", ("tail", "head"), (("tail", "head"),))
DOT = Skeleton("dot", ("only",), ())


def stick(a, b, size=24, sigma=1.0, **more):
    "One limb in one frame, (size, size)."
    return render(np.array([[a, b]], float), size, sigma, skeleton=STICK, **more)[0, 0]


def oracle(points, size, sigma, pairs, peaks=None):
    "(L, F, *sizes) values and distances in float64, straight from the definition; image axes run backwards (y, x)."
    F, K, D = points.shape
    grid = np.stack(np.meshgrid(*[np.arange(size)] * D, indexing="ij")[::-1], -1).astype(float)  # (..., x, y[, z])
    values, distances = np.zeros((2, len(pairs), F, *[size] * D))
    for l, (i, j) in enumerate(pairs):
        for f in range(F):
            a, u = points[f, i], points[f, j] - points[f, i]
            t = np.clip((grid - a) @ u / (u @ u), 0, 1) if u @ u > 0 else np.zeros(grid.shape[:-1])
            d = np.linalg.norm(grid - a - t[..., None] * u, axis=-1)
            peak = 1 if peaks is None else min(peaks[f, i], peaks[f, j])
            values[l, f], distances[l, f] = peak * np.exp(-d**2 / (2 * sigma**2)) * (d <= 3 * sigma), d
    return values, distances


def assert_renders(joints, size, sigma, kind, draw, peaks=None, atol=2e-5):
    "The renderer's separate channels against the oracle, wherever rounding cannot move the cut."
    K = joints.shape[1]
    pairs = PANOPTIC19.limb_index if draw == "limbs" else np.stack([np.arange(K)] * 2, 1)
    planes = {"2d": [[0, 1]], "triplane": [[2, 1], [0, 2], [0, 1]], "volume": [[0, 1, 2]]}[kind]  # columns, rows(, slices)
    got = render(joints, size, sigma, kind, draw, combine=False, confidence=peaks)
    want, distance = (np.concatenate(x) for x in zip(*[oracle(joints[..., p], size, sigma, pairs, peaks) for p in planes]))
    clear = np.abs(distance - 3 * sigma) > 1e-4
    assert got.shape == want.shape and got.dtype == np.float32
    np.testing.assert_allclose(got[clear], want[clear], atol=atol, rtol=0)
    L = len(pairs)
    combined = render(joints, size, sigma, kind, draw, confidence=peaks)
    np.testing.assert_array_equal(combined, got.reshape(-1, L, *got.shape[1:]).max(1))


# ---- by hand

def test_peak_is_one_at_joints_and_along_the_limb():
    image = stick((8, 10), (12, 10))
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image[10, 8:13], 1)
    assert (image == 1).sum() == 5


@pytest.mark.parametrize("d", [1, 2, 3])
def test_profile_across_and_past_the_ends(d):
    image = stick((8, 10), (12, 10))
    places = [(10 + d, 10), (10 - d, 10), (10, 8 - d), (10, 12 + d)]
    np.testing.assert_allclose([image[p] for p in places], math.exp(-d * d / 2), rtol=1e-5)


def test_exactly_three_sigma_is_drawn_and_beyond_is_zero():
    image = stick((8, 10), (12, 10))
    assert image[13, 10] > 0.0111 and image[14, 10] == 0 and image[10, 16] == 0
    assert image[image > 0].min() >= np.float32(math.exp(-4.5)) * (1 - 1e-5)
    small = stick((8, 10), (12, 10), sigma=0.75)  # 3 sigma = 2.25
    assert small[12, 10] > 0 and small[13, 10] == 0


def test_ends_are_round():
    image = stick((8, 10), (12, 10))
    assert image[12, 14] == pytest.approx(math.exp(-8 / 2), rel=1e-5)  # sqrt 8 from the end
    assert image[13, 14] == 0                                          # sqrt 13 is beyond 3


def test_row_is_y_and_column_is_x():
    image = stick((3, 17), (3, 17))
    assert np.unravel_index(image.argmax(), image.shape) == (17, 3)


def test_limb_of_no_length_is_a_point():
    yy, xx = np.mgrid[:24, :24]
    d2 = (yy - 9) ** 2 + (xx - 10) ** 2
    np.testing.assert_allclose(stick((10, 9), (10, 9)), np.exp(-d2 / 2) * (d2 <= 9), atol=1e-6)
    np.testing.assert_allclose(stick((10, 9), (10 + 1e-12, 9)), stick((10, 9), (10, 9)), atol=1e-6)


@pytest.mark.parametrize("a, b", [((3.3, 4.1), (15.2, 20.7)), ((10, 3), (10, 19)), ((10, 4), (10, 20)), ((3, 10), (19, 10)), ((4, 10), (20, 10))])
def test_any_direction_and_ends_may_be_exchanged(a, b):
    image = stick(a, b)
    np.testing.assert_allclose(image, oracle(np.array([[a, b]], float), 24, 1, [(0, 1)])[0][0, 0], atol=1e-5)
    np.testing.assert_allclose(stick(b, a), image, atol=1e-6)


@pytest.mark.parametrize("far", [30, 1e3, 1e6, 1e8])
def test_joint_outside_draws_what_falls_inside(far):
    image = stick((20, 10), (far, 10))
    np.testing.assert_array_equal(image[10, 20:], 1)
    assert image[10, 19] == pytest.approx(math.exp(-0.5), rel=1e-4)
    assert not image[14:].any() and not image[:, :17].any()
    np.testing.assert_allclose(stick((far, 10), (20, 10)), image, atol=1e-6)


def test_limb_through_the_image_with_both_ends_far_outside():
    image = stick((-1e6, -1e6), (1e6, 1e6))
    np.testing.assert_allclose(np.diag(image), 1, atol=1e-5)
    assert image[10, 11] == pytest.approx(math.exp(-0.25), rel=1e-4)


@pytest.mark.parametrize("shift", [(100, 0), (-100, 0), (0, 100), (0, -100), (27.5, 0)])
def test_wholly_outside_is_blank(shift):
    assert not stick((8 + shift[0], 10 + shift[1]), (12 + shift[0], 10 + shift[1])).any()


def test_peak_is_the_smaller_confidence():
    full = stick((8, 10), (12, 10))
    for c in ((0.9, 0.3), (0.3, 0.9), (0.3, 0.3)):
        np.testing.assert_allclose(stick((8, 10), (12, 10), confidence=np.array([c])), np.float32(0.3) * full, atol=1e-7)
    for c in ((0, 1), (1, 0), (-1, 1)): assert not stick((8, 10), (12, 10), confidence=np.array([c])).any()
    for c in (1, 2): np.testing.assert_array_equal(stick((8, 10), (12, 10), confidence=np.full((1, 2), c)), full)


def test_confidence_by_frame_and_joint():
    joints = np.tile([[[8.0, 10], [16, 10]]], (2, 1, 1))
    maps = render(joints, 24, 1, draw="joints", combine=False, skeleton=STICK, confidence=np.array([[0.2, 0.4], [0.6, 0.8]]))
    np.testing.assert_allclose(maps[0, :, 10, 8], [0.2, 0.6], rtol=1e-6)
    np.testing.assert_allclose(maps[1, :, 10, 16], [0.4, 0.8], rtol=1e-6)


def test_the_dim_limb_does_not_shine_beyond_its_cut_nor_hide_a_bright_one():
    pair = Skeleton("pair", ("a", "b", "left_c", "right_c"), (("a", "b"), ("left_c", "right_c")))
    joints = np.array([[[4, 10], [20, 10], [4, 12], [20, 12]]], float)
    image = render(joints, 24, 1, skeleton=pair, confidence=np.array([[1, 1, 0.01, 0.01]]))[0, 0]
    assert image[12, 10] == pytest.approx(math.exp(-2), rel=1e-5)           # the bright one, two sigmas off, wins
    assert image[14, 10] == pytest.approx(0.01 * math.exp(-2), rel=1e-4)    # the bright one is cut here


def test_paper_confidence():
    c = paper_confidence((2000, 19), np.random.default_rng(0))
    assert c.shape == (2000, 19) and c.dtype == np.float32 and c.min() >= 0 and c.max() == 1
    assert abs(np.median(c) - 0.65) < 0.005 and abs(c.std() - 0.16) < 0.005
    np.testing.assert_array_equal(c, paper_confidence((2000, 19), np.random.default_rng(0)))
    assert abs(np.corrcoef(c[:-1, 0], c[1:, 0])[0, 1]) < 0.1 and abs(np.corrcoef(c[:, 0], c[:, 1])[0, 1]) < 0.1


# ---- against the oracle

@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.floats(0.3, 4), st.sampled_from(["limbs", "joints"]),
       st.sampled_from(["2d", "triplane"]), st.booleans())
def test_planes_against_the_oracle(seed, size, sigma, draw, kind, unsure):
    rng = np.random.default_rng(seed)
    joints = rng.uniform(-0.3 * size - 3, 1.3 * size + 3, (2, 19, 2 if kind == "2d" else 3))
    joints[0, 1] = joints[0, 3]  # the first limb has no length in the first frame
    assert_renders(joints, size, sigma, kind, draw, rng.uniform(0, 1, (2, 19)) if unsure else None)


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 2**32 - 1), st.floats(0.5, 2), st.sampled_from(["limbs", "joints"]), st.booleans())
def test_volume_against_the_oracle(seed, sigma, draw, unsure):
    rng = np.random.default_rng(seed)
    assert_renders(rng.uniform(-3, 13, (2, 19, 3)), 10, sigma, "volume", draw, rng.uniform(0, 1, (2, 19)) if unsure else None)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(-3, 3), st.integers(-3, 3))
def test_whole_pixel_shifts_move_the_picture(seed, dx, dy):
    joints = np.random.default_rng(seed).uniform(12, 19, (1, 19, 2))
    moved = render(joints + [dx, dy], 32)
    np.testing.assert_allclose(moved, np.roll(render(joints, 32), (dy, dx), (-2, -1)), atol=1e-4)


# ---- tri-plane and volume

def project(volume):
    "Maximum of (C, F, z, y, x) along x (rows y, columns z), y (rows z, columns x), z (rows y, columns x)."
    return np.concatenate([volume.max(-1).swapaxes(-1, -2), volume.max(-2), volume.max(-3)])


def test_triplane_of_whole_points_is_the_projected_volume():
    joints = np.random.default_rng(1).integers(0, 20, (3, 19, 3)).astype(float)
    for sigma in (0.75, 1.5):
        args = dict(size=20, sigma=sigma, draw="joints", confidence=np.random.default_rng(2).uniform(0, 1, (3, 19)))
        np.testing.assert_allclose(render(joints, kind="triplane", **args), project(render(joints, kind="volume", **args)), atol=1e-6)


def test_triplane_of_a_limb_at_whole_depth_is_the_projected_volume():
    joints = np.array([[[3, 4, 9], [15, 13, 9]]], float)  # depth z = 9 throughout
    flat = render(joints, 20, kind="triplane", skeleton=STICK)[2]
    np.testing.assert_allclose(flat, project(render(joints, 20, kind="volume", skeleton=STICK))[2], atol=1e-5)


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.75, 1.0, 2.0]))
def test_triplane_bounds_the_projected_volume(seed, sigma):
    joints = np.random.default_rng(seed).uniform(1, 18, (1, 19, 3))
    flat, deep = render(joints, 20, sigma, "triplane"), project(render(joints, 20, sigma, "volume"))
    assert (deep <= flat + 1e-5).all()
    safe = flat > math.exp(-4.5 + 1 / (8 * sigma**2)) * 1.001  # half a voxel off in depth does not reach the cut
    assert safe.any() and (deep[safe] >= flat[safe] * math.exp(-1 / (8 * sigma**2)) - 1e-5).all()


def test_views_in_order_with_their_axes():
    point = np.array([[[3.0, 5.0, 7.0]]])
    views = render(point, 12, kind="triplane", draw="joints", skeleton=DOT)
    assert [np.unravel_index(v[0].argmax(), v[0].shape) for v in views] == [(5, 7), (7, 3), (5, 3)]
    volume = render(point, 12, kind="volume", draw="joints", skeleton=DOT)
    assert np.unravel_index(volume.argmax(), volume.shape) == (0, 0, 7, 5, 3)


# ---- shapes, batches, kinds of array

@pytest.mark.parametrize("lead", [(), (2,), (2, 3), (0,)])
def test_shapes(lead):
    F, L, K = 4, 17, 19
    flat, deep = np.full((*lead, F, K, 2), 3.0), np.full((*lead, F, K, 3), 3.0)
    assert render(flat, 8).shape == (*lead, 1, F, 8, 8)
    assert render(flat, 8, combine=False).shape == (*lead, L, F, 8, 8)
    assert render(flat, 8, draw="joints", combine=False).shape == (*lead, K, F, 8, 8)
    assert render(deep, 8, kind="triplane").shape == (*lead, 3, F, 8, 8)
    assert render(deep, 8, kind="triplane", combine=False).shape == (*lead, 3 * L, F, 8, 8)
    assert render(deep, 8, kind="volume").shape == (*lead, 1, F, 8, 8, 8)
    assert render(deep, 8, kind="volume", combine=False).shape == (*lead, L, F, 8, 8, 8)
    assert render(flat, 8, confidence=np.ones((*lead, F, K))).shape == (*lead, 1, F, 8, 8)
    assert render(flat[..., :0, :, :], 8).shape == (*lead, 1, 0, 8, 8)


@pytest.mark.parametrize("kind", ["2d", "triplane", "volume"])
@pytest.mark.parametrize("combine", [True, False])
def test_batched_is_one_by_one(kind, combine):
    rng = np.random.default_rng(3)
    joints, c = rng.uniform(0, 12, (2, 2, 3, 19, 2 if kind == "2d" else 3)), rng.uniform(0, 1, (2, 2, 3, 19))
    batch = render(joints, 12, kind=kind, combine=combine, confidence=c)
    for i in np.ndindex(2, 2):
        np.testing.assert_array_equal(batch[i], render(joints[i], 12, kind=kind, combine=combine, confidence=c[i]))


def test_frames_are_independent_across_groups():
    joints = np.random.default_rng(4).uniform(0, 255, (18, 19, 2))  # 18 frames of 256 x 256 are drawn in two groups
    film = render(joints, 256)
    for f in (0, 15, 16, 17): np.testing.assert_array_equal(film[:, f], render(joints[f:f + 1], 256)[:, 0])


def test_triplane_channels_are_view_by_view():
    joints = np.random.default_rng(5).uniform(0, 12, (2, 19, 3))
    apart = render(joints, 12, kind="triplane", combine=False)
    np.testing.assert_array_equal(apart[34:], render(joints[..., :2], 12, combine=False))
    np.testing.assert_array_equal(apart.reshape(3, 17, 2, 12, 12).max(1), render(joints, 12, kind="triplane"))


def test_numpy_and_torch_agree():
    joints = np.random.default_rng(6).uniform(0, 16, (3, 19, 2)).astype(np.float32)
    c = np.random.default_rng(7).uniform(0, 1, (3, 19)).astype(np.float32)
    array = render(joints, 16, confidence=c)
    tensor = render(torch.from_numpy(joints), 16, confidence=torch.from_numpy(c))
    assert isinstance(array, np.ndarray) and isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32
    np.testing.assert_array_equal(array, tensor.numpy())
    np.testing.assert_array_equal(array, render(torch.from_numpy(joints), 16, confidence=c).numpy())
    np.testing.assert_array_equal(array, render(joints, 16, confidence=torch.from_numpy(c)))


def test_input_is_left_alone_and_needs_no_gradient():
    joints = torch.rand(2, 19, 2, generator=torch.Generator().manual_seed(0)).mul_(15).requires_grad_()
    before = joints.detach().clone()
    out = render(joints, 16)
    assert not out.requires_grad and torch.equal(joints, before)
    array = np.random.default_rng(8).uniform(0, 15, (2, 19, 2))
    array.flags.writeable = False
    np.testing.assert_array_equal(render(array[::-1], 16), render(array, 16)[:, ::-1])  # negative strides, read-only


def test_skeletons():
    joints = np.random.default_rng(9).uniform(0, 16, (2, 17, 2))
    np.testing.assert_array_equal(render(joints, 16, skeleton="coco17"), render(joints, 16, skeleton=COCO17))
    assert render(joints, 16, skeleton=COCO17, combine=False).shape[0] == len(COCO17.limbs)


# ---- other devices: the tensor code, which a GPU runs, on the CPU

@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.floats(0.3, 4), st.sampled_from(["limbs", "joints"]),
       st.sampled_from(["2d", "triplane", "volume"]), st.booleans())
def test_tensor_code_draws_the_same(seed, size, sigma, draw, kind, combine):
    rng = np.random.default_rng(seed)
    joints = rng.uniform(-0.3 * size - 3, 1.3 * size + 3, (2, 2, 19, 2 if kind == "2d" else 3))
    joints[0, 0, 1] = joints[0, 0, 3]
    joints[1, 1, 5] *= 1e6
    c = rng.uniform(0, 1, (2, 2, 19))
    pairs = PANOPTIC19.limb_index if draw == "limbs" else np.stack([np.arange(19)] * 2, 1)
    C = 1 if combine else len(pairs)
    maps = heatmaps._scatter(torch.from_numpy(joints), torch.from_numpy(c), pairs, heatmaps.VIEWS[kind], C, size, sigma, torch.device("cpu")).numpy()
    ours = render(joints, size, sigma, kind, draw, combine, confidence=c)
    maps, low = maps.reshape(ours.shape), math.exp(-4.5) * 1.001  # rounding may move a pixel across the cut
    both = (maps > 0) == (ours > 0)
    np.testing.assert_allclose(maps[both], ours[both], atol=1e-5, rtol=0)
    assert (np.maximum(maps, ours)[~both] <= low).all() and (~both).sum() <= 2


@pytest.mark.parametrize("kind, shape", [("2d", (17, 2, 24, 24)), ("triplane", (51, 2, 24, 24)), ("volume", (17, 2, 24, 24, 24))])
def test_nothing_is_read_back_from_the_device(kind, shape):
    "A meta tensor holds no numbers: whoever asks it for one fails."
    joints = np.random.default_rng(0).uniform(0, 24, (2, 19, 2 if kind == "2d" else 3))
    with pytest.raises(RuntimeError): torch.ones(1, device="meta").tolist()
    maps = render(joints, 24, kind=kind, combine=False, confidence=np.ones((2, 19)), device="meta")
    assert maps.is_meta and maps.shape == shape


def test_a_named_device_gives_a_tensor():
    joints = np.random.default_rng(0).uniform(0, 16, (2, 19, 2))
    maps = render(joints, 16, device="cpu")
    assert isinstance(maps, torch.Tensor) and (maps.numpy() == render(joints, 16)).all()


@pytest.mark.parametrize("kind", ["2d", "triplane", "volume"])
def test_threads_change_no_bit(kind):
    joints, before, maps = np.random.default_rng(0).uniform(0, 16, (2, 3, 19, 2 if kind == "2d" else 3)), torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            maps.append(render(joints, 16, kind=kind))
    finally: torch.set_num_threads(before)
    np.testing.assert_array_equal(*maps)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", ["2d", "triplane", "volume"])
def test_cuda_agrees_with_cpu(kind):
    joints = torch.rand(2, 5, 19, 2 if kind == "2d" else 3, generator=torch.Generator().manual_seed(0)) * 24
    c = torch.rand(2, 5, 19, generator=torch.Generator().manual_seed(1))
    out = render(joints.cuda(), 24, kind=kind, confidence=c.cuda())
    assert out.is_cuda
    close = (out.cpu() - render(joints, 24, kind=kind, confidence=c)).abs() < 1e-5
    assert close.float().mean() > 0.9999


# ---- back to joints

@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.floats(0.6, 3))
def test_joints_come_back(seed, sigma):
    rng = np.random.default_rng(seed)
    joints, c = rng.uniform(1, 22, (2, 3, 19, 2)), rng.uniform(0.05, 1, (2, 3, 19))
    found, peak = joints_from_heatmaps(render(joints, 24, sigma, draw="joints", combine=False, confidence=c))
    assert found.shape == joints.shape and peak.shape == c.shape and found.dtype == peak.dtype == np.float32
    np.testing.assert_allclose(found, joints, atol=0.01)
    np.testing.assert_allclose(peak, c, rtol=0.01)


@pytest.mark.parametrize("sigma", [0.5, 0.75, 1, 2])
def test_every_sub_pixel_offset(sigma):
    offsets = np.linspace(-0.5, 0.5, 21)
    joints = 8 + np.stack(np.meshgrid(offsets, offsets), -1).reshape(-1, 1, 2)
    found, _ = joints_from_heatmaps(render(joints, 17, sigma, draw="joints", combine=False, skeleton=DOT))
    assert np.abs(found - joints).max() < 0.05


def test_parabola_by_hand():
    maps = np.zeros((1, 1, 5, 7), np.float32)
    maps[0, 0, 2, 2:5] = np.exp([-1.25**2 / 2, -0.25**2 / 2, -0.75**2 / 2])  # vertex a quarter to the right of column 3
    maps[0, 0, 1, 3] = maps[0, 0, 3, 3] = np.exp(-0.25**2 / 2 - 0.5)
    joints, peak = joints_from_heatmaps(maps)
    np.testing.assert_allclose(joints, [[[3.25, 2]]], atol=1e-5)
    np.testing.assert_allclose(peak, [[1]], atol=1e-5)


def test_blank_maps_and_borders():
    joints, peak = joints_from_heatmaps(np.zeros((2, 3, 5, 7)))
    assert joints.shape == (3, 2, 2) and (joints == [3, 2]).all() and (peak == 0).all()
    joints, peak = joints_from_heatmaps(np.full((1, 1, 5, 7), -0.5))
    assert (joints == [3, 2]).all() and peak == 0
    corners = np.array([[[0.0, 0]], [[6, 6]], [[0, 6]], [[0.3, 3.25]]])
    joints, _ = joints_from_heatmaps(render(corners, 7, draw="joints", combine=False, skeleton=DOT))
    np.testing.assert_allclose(joints, [[[0, 0]], [[6, 6]], [[0, 6]], [[0, 3.25]]], atol=1e-4)
    joints, peak = joints_from_heatmaps(np.full((1, 1, 5, 7), 0.4))  # flat, not blank: finite and inside
    assert np.isfinite(joints).all() and peak == pytest.approx(0.4)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6))
def test_any_map_gives_a_place_near_its_maximum(seed, H, W):
    maps = np.random.default_rng(seed).normal(0, 1, (2, 3, H, W)).astype(np.float32)
    joints, peak = joints_from_heatmaps(maps)
    assert np.isfinite(joints).all() and (joints >= 0).all() and (joints <= [W - 1, H - 1]).all()
    assert (peak >= 0).all() and (peak <= 1).all()
    row, column = np.divmod(maps.reshape(2, 3, -1).argmax(-1).T, W)
    seen = peak > 0
    np.testing.assert_array_equal(seen, maps.max((-1, -2)).T > 0)
    assert (np.abs(joints - np.stack([column, row], -1))[seen] <= 0.5 + 1e-6).all()


def test_joints_from_tensors_and_batches():
    maps = np.random.default_rng(0).uniform(0, 1, (2, 19, 3, 8, 9)).astype(np.float32)
    array, tensor = joints_from_heatmaps(maps), joints_from_heatmaps(torch.from_numpy(maps))
    for a, t in zip(array, tensor):
        assert isinstance(a, np.ndarray) and isinstance(t, torch.Tensor)
        np.testing.assert_array_equal(a, t.numpy())
    np.testing.assert_array_equal(array[0][1], joints_from_heatmaps(maps[1])[0])
    half = joints_from_heatmaps(torch.from_numpy(maps).half())[0]
    assert half.dtype == torch.float32


def test_joints_from_bad_maps():
    with pytest.raises(ConfigError, match=r"\(5, 7\)"): joints_from_heatmaps(np.zeros((5, 7)))
    maps = np.zeros((2, 3, 5, 7))
    maps[1, 2, 0, 0] = np.nan
    with pytest.raises(DataError, match="frame 2, joint 1"): joints_from_heatmaps(maps)


# ---- errors

@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e12])
def test_bad_joints_are_named(value):
    joints = np.full((2, 5, 19, 3), 4.0)
    joints[1, 3, 7, 2] = value
    with pytest.raises(DataError, match="clip 1, frame 3, joint 'left_knee'"): render(joints, 8, kind="triplane")
    with pytest.raises(DataError, match="^frame 3, joint 'left_knee'"): render(torch.from_numpy(joints[1]), 8, kind="volume")


def test_bad_confidence_is_named():
    c = np.ones((5, 19))
    c[2, 0] = np.nan
    with pytest.raises(DataError, match="frame 2, joint 'neck': the confidence"): render(np.ones((5, 19, 2)), 8, confidence=c)
    with pytest.raises(ConfigError, match=r"\(5, 18\)"): render(np.ones((5, 19, 2)), 8, confidence=np.ones((5, 18)))


@pytest.mark.parametrize("shape, kind", [((5, 19, 3), "2d"), ((5, 19, 2), "triplane"), ((5, 19, 2), "volume"), ((5, 17, 2), "2d"),
                                         ((19, 2), "2d"), ((2,), "2d")])
def test_wrong_shapes(shape, kind):
    with pytest.raises(ConfigError, match="panoptic19"): render(np.zeros(shape), 8, kind=kind)


@pytest.mark.parametrize("setting, word", [
    (dict(size=0), "size 0"), (dict(size=8.5), "size 8.5"), (dict(sigma=0), "sigma 0"), (dict(sigma=-1), "sigma -1"),
    (dict(sigma=math.nan), "sigma nan"), (dict(kind="3d"), "'triplane'"), (dict(draw="bones"), "'joints'"), (dict(skeleton="dog"), "'dog'"),
])
def test_wrong_settings(setting, word):
    with pytest.raises(ConfigError, match=word): render(np.ones((2, 19, 2)), **setting)


def test_the_module_stays_light():
    tree = ast.parse(inspect.getsource(heatmaps))
    names = {n.module if isinstance(n, ast.ImportFrom) else a.name for n in ast.walk(tree)
             if isinstance(n, (ast.Import, ast.ImportFrom)) for a in n.names}
    assert names == {"math", "numpy", "torch", "compiled", "core", "skeletons"}
