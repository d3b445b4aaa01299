"Recordings of any length as windows: nothing is lost, nothing jumps, and the whole numbers that place them cost what is said."
import numpy as np
import pytest
from hypothesis import given, strategies as st

from motion_vq.core import ConfigError, DataError
from motion_vq.windows import blend, cut, from_box, meet, n_windows, placement_bits, placements, to_box

shapes = st.tuples(st.integers(1, 200), st.integers(2, 40), st.integers(0, 12)).filter(lambda s: 2 * s[2] < s[1])


@given(shapes, st.integers(0, 99))
def test_what_is_cut_is_blended_back(shape, seed):
    frames, length, overlap = shape
    x = np.random.default_rng(seed).normal(size=(frames, 3, 2))
    windows = cut(x, length, overlap)
    assert windows.shape == (n_windows(frames, length, overlap), length, 3, 2)
    np.testing.assert_allclose(blend(windows, frames, overlap), x, atol=1e-12)
    covered = (length - overlap) * (len(windows) - 1) + length
    assert covered >= frames and (len(windows) == 1 or covered - (length - overlap) < frames), "none too few, none too many"


@given(shapes.filter(lambda s: s[0] > s[1]), st.integers(0, 99))
def test_no_step_is_larger_than_a_share_of_the_difference(shape, seed):
    "Windows that are constant but different: the blend never steps by more than 1 / (overlap + 1) of the largest difference."
    frames, length, overlap = shape
    values = np.random.default_rng(seed).normal(size=n_windows(frames, length, overlap))
    x = blend(np.repeat(values[:, None], length, 1), frames, overlap)
    assert np.abs(np.diff(x)).max() <= np.abs(np.diff(values)).max() / (overlap + 1) + 1e-12
    assert values.min() - 1e-12 <= x.min() and x.max() <= values.max() + 1e-12


@given(st.integers(6, 40), st.integers(1, 4), st.integers(2, 5), st.integers(0, 99))
def test_neighbours_meet_half_way_and_their_middles_stay(length, overlap, n, seed):
    overlap = min(overlap, (length - 1) // 2)
    windows = np.random.default_rng(seed).normal(size=(n, length, 2))
    bent, t = meet(windows, overlap), np.arange(overlap)[:, None] - (overlap - 1) / 2
    for a, b, old, new in zip(bent[:-1], bent[1:], windows[:-1], windows[1:]):
        np.testing.assert_allclose(a[-overlap:].mean(0), b[:overlap].mean(0), atol=1e-12)
        np.testing.assert_allclose(a[-overlap:].mean(0), (old[-overlap:].mean(0) + new[:overlap].mean(0)) / 2, atol=1e-12)
        apart, left = new[:overlap] - old[-overlap:], b[:overlap] - a[-overlap:]
        np.testing.assert_allclose((t * left).sum(0), 0, atol=1e-9, err_msg="a slope is left")
    reach = min(4 * overlap, length // 2)
    assert np.array_equal(bent[:, reach:length - reach], windows[:, reach:length - reach]) and np.array_equal(bent[0, :-reach], windows[0, :-reach])


@pytest.mark.parametrize("call, error, said", [
    (lambda: n_windows(0, 16, 4), DataError, "no frame"), (lambda: n_windows(9, 16, 8), ConfigError, "less than half"),
    (lambda: n_windows(9, 16, -1), ConfigError, "less than half"), (lambda: blend(np.zeros((2, 16)), 16, 4), DataError, "do not make 16"),
    (lambda: placements(np.full((1, 4, 3, 2), 1e14) + np.arange(3)[:, None], 32), DataError, "far from the origin")])
def test_what_cannot_be_is_refused(call, error, said):
    with pytest.raises(error, match=said): call()


@given(st.integers(0, 999), st.sampled_from([2, 3]), st.floats(1e-3, 1e3), st.floats(-1e4, 1e4))
def test_every_window_lies_in_the_box_and_comes_back(seed, dims, unit, away):
    x = unit * (np.random.default_rng(seed).normal(size=(3, 8, 5, dims)) + away)
    placed = placements(x, 64)
    inside = to_box(x, placed, 64)
    extent = np.ptp(inside, axis=(1, 2)).max(-1)
    assert (extent <= 0.9 * 64 + 1e-6).all() and (extent >= 0.9 * 64 / 2**(1 / 8) - 1e-6).all()
    middle = (inside.min((1, 2)) + inside.max((1, 2))) / 2
    np.testing.assert_allclose(middle, 31.5, atol=1 + 1e-5)
    np.testing.assert_allclose(from_box(inside, placed, 64), x, atol=1e-6 * unit * (1 + abs(away)))


def test_one_point_has_a_place():
    x = np.full((1, 4, 3, 2), 7.0)
    np.testing.assert_allclose(from_box(to_box(x, p := placements(x, 32), 32), p, 32), x)
    np.testing.assert_allclose(to_box(x, p, 32), 15.5, atol=1 / 2)


def exp_golomb(d, order=2):
    "The code itself, as H.264 writes it: an independent count of its bits."
    u = 2 * d - 1 if d > 0 else -2 * d
    head, tail = divmod(u, 2**order)
    binary = bin(head + 1)[2:]
    return "0" * (len(binary) - 1) + binary + format(tail, f"0{order}b")


@given(st.lists(st.lists(st.integers(-5000, 5000), min_size=3, max_size=3), min_size=1, max_size=6))
def test_the_bits_are_those_of_the_code(placed):
    d = np.diff(np.array(placed), axis=0, prepend=0)
    assert placement_bits(np.array(placed)) == sum(len(exp_golomb(int(v))) for v in d.ravel())
