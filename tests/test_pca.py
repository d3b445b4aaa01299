"The linear floor: bits where they help most, levels that fit, codes that come back."
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from motion_vq.clips import batch, load_clips
from motion_vq.core import ConfigError
from motion_vq.pca import PCACode, allot, fit_levels, nearest
from motion_vq.synthetic import write_dataset


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=4), st.integers(1, 6))
def test_no_other_way_to_give_the_bits_away_has_a_smaller_error(variances, bits):
    error = lambda given: sum(v * 4.0**-b for v, b in zip(variances, given))
    others = [o for o in itertools.product(range(bits + 1), repeat=len(variances)) if sum(o) == bits]
    given = allot(np.array(variances), bits)
    assert given.sum() == bits and error(given) <= min(map(error, others)) * (1 + 1e-9)


def test_no_bits_are_no_code():
    with pytest.raises(ConfigError, match="0 bits"): allot(np.ones(3), 0)


@settings(max_examples=50)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=60), st.sampled_from([1, 2, 4, 16]))
def test_levels_ascend_and_the_nearest_is_the_nearest(values, count):
    values = np.array(values)
    levels = fit_levels(values, count)
    assert (np.diff(levels) >= -1e-9).all()
    got = np.abs(levels[nearest(values, levels)] - values)
    np.testing.assert_allclose(got, np.abs(values[:, None] - levels).min(1), atol=1e-9)
    assert (got**2).sum() <= ((values - np.median(values))**2).sum() + 1e-6 or count == 1


def test_one_level_is_the_mean(): assert fit_levels(np.array([0.0, 1.0, 5.0]), 1) == [2.0]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = write_dataset(tmp_path_factory.mktemp("pca")/"people", train=2, validation=2, frames=40, seed=0)
    return load_clips(root, "3d", 16, 32)[:2]


def test_components_are_orthonormal_and_kept_in_the_order_of_their_variance(clips):
    code = PCACode(clips[0], 60, samples=40)
    torch.testing.assert_close(code.axes @ code.axes.T, torch.eye(len(code.axes)), atol=1e-4, rtol=0)
    x = torch.cat([batch(clips[0], 0, 0, 40)[1]]).flatten(1)
    spread = ((x - code.mean) @ code.axes.T).var(0)
    assert (spread.diff() <= 1e-3 * spread[0]).all() and (np.diff(code.given) <= 0).all()


def test_a_code_names_a_clip_whatever_it_is_batched_with(clips):
    code = PCACode(clips[0], 100, samples=30)
    target = batch(clips[1], 0, 0, 6)[1]
    together, alone = code.encode(target), np.concatenate([code.encode(t[None]) for t in target])
    assert (together == alone).all() and together.shape == (6, len(code.given))
    made = code.decode(together)
    assert made.shape == target.shape and made.min() >= 0 and made.max() <= 1
    assert (code.encode(made) == together).mean() > 0.9, "what was decoded is near its own levels"


def test_more_bits_cost_less_error(clips):
    target = batch(clips[0], 0, 0, 30)[1]
    errors = [float(((PCACode(clips[0], bits, samples=30)(None, target)[0] - target)**2).mean()) for bits in (4, 40, 400)]
    assert errors[0] > errors[1] > errors[2]
