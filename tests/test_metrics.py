"""The metrics, against scikit-image, against the formulas frame by frame, and against numbers done by hand."""
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from motion_vq import frame_errors, panoptic
from motion_vq.clips import Clips, clip_maps
from motion_vq.core import ConfigError, DataError
from motion_vq.frame_errors import frame_series, ssim_map
from motion_vq.heatmaps import paper_confidence
from motion_vq.joint_errors import acceleration_error, mpjpe, pck
from motion_vq.metrics import (PAPER, RIGOROUS, MeanPredictor, Scores, bits_per_second, blank, code_usage, frozen, mean_map,
                               paired_difference, paper_metrics, psnr, rigorous_metrics, t_std)

MOCAP = Path(__file__).parents[2]/"shared"/"mocap"
modest = settings(deadline=None, max_examples=12)
shapes = st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 4), st.integers(11, 16), st.integers(11, 16))
seeds = st.integers(0, 2**32 - 1)


def lines(shape, seed):
    "Bright moving segments on black, like heatmaps: (B, C, F, H, W) float32."
    rng = np.random.default_rng(seed)
    b, c, f, h, w = shape
    ys, xs = np.mgrid[:h, :w]
    out = np.zeros(shape, np.float32)
    for i in range(b):
        for j in range(c):
            x, slope, speed = rng.uniform(3, w - 3), rng.uniform(-1, 1), rng.uniform(-1, 1)
            for t in range(f):
                d = np.abs(xs - x - slope * (ys - h / 2) - speed * t) / math.hypot(1, slope)
                out[i, j, t] = rng.uniform(.3, 1) * np.exp(-d**2 / (2 * .75**2)) * (d < 3 * .75)
    return out


def noisy(maps, seed, scale=.1):
    return (maps + np.random.default_rng(seed).normal(0, scale, maps.shape)).astype(np.float32)


def skimage_ssim(x, y):
    return structural_similarity(x.astype(np.float64), y.astype(np.float64), gaussian_weights=True, sigma=1.5,
                                 use_sample_covariance=False, data_range=1)


def oracle_paper(target, pred):
    "The paper's protocol in plain loops over scikit-image, without anything from the library."
    x, y = np.clip(target, 0, 1).astype(np.float64), np.clip(pred, 0, 1).astype(np.float64)
    series = {"ssim": [], "psnr": [], "l1": []}
    for t in range(x.shape[2]):
        a, b = x[:, :, t], y[:, :, t]
        series["ssim"].append(np.mean([skimage_ssim(p, q) for u, v in zip(a, b) for p, q in zip(u, v)]))
        series["psnr"].append(10 * math.log10(1 / max(((a - b)**2).mean(), 1e-10)))
        series["l1"].append(np.abs(a - b).mean())
    stds = []
    for v in map(np.array, series.values()):
        spread = v.max() - v.min()
        stds.append(0 if spread < 1e-9 * np.abs(v).max() or len(v) == 1 or spread == 0
                    else np.std((v - v.min()) / spread, ddof=1))
    return {k: np.mean(v) for k, v in series.items()} | {"t_std": np.mean(stds)}


def cases():
    shape = (2, 3, 5, 20, 27)
    rng = np.random.default_rng(0)
    maps = lines(shape, 1)
    yield "random", rng.random(shape, np.float32), rng.random(shape, np.float32)
    yield "outside", rng.normal(.5, 1, shape).astype(np.float32), rng.normal(.5, 1, shape).astype(np.float32)
    yield "constant", np.full(shape, .5, np.float32), np.full(shape, .6, np.float32)
    yield "blank", maps, np.zeros(shape, np.float32)
    yield "of blank", np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    yield "blank of random", rng.random(shape, np.float32), np.zeros(shape, np.float32)
    yield "exact", maps, maps
    yield "frozen", np.repeat(maps[:, :, :1], 5, 2), np.repeat(noisy(maps, 2)[:, :, :1], 5, 2)    # constant series: T-Std is 0
    yield "real-like", maps, noisy(maps, 2, .05)
    yield "bright", 1 - maps, 1 - noisy(maps, 3, .01)
    yield "one frame", maps[:, :, :1], noisy(maps, 2)[:, :, :1]


@pytest.mark.parametrize("target, pred", [pytest.param(t, p, id=n) for n, t, p in cases()])
def test_paper_metrics_equal_the_formulas(target, pred):
    ours, theirs = paper_metrics(target, pred), oracle_paper(target, pred)
    assert tuple(ours) == PAPER == ("ssim", "psnr", "l1", "t_std")
    for k in PAPER: assert ours[k] == pytest.approx(theirs[k], abs=1e-6), k
    assert paper_metrics(torch.from_numpy(target), torch.from_numpy(pred)) == ours


@pytest.mark.parametrize("v", [0, 0.1, 0.25, 1 / 3, 1, 22.2, 100])
def test_a_constant_series_has_no_spread(v):
    "Not even by rounding."
    assert t_std(np.full(64, v)) == 0 == t_std(np.full(64, v, np.float32)) == t_std([v])
    maps = np.full((1, 1, 8, 12, 12), min(v, 1), np.float32)
    assert paper_metrics(maps, maps / 2)["t_std"] == 0


@pytest.mark.skipif(not MOCAP.is_dir(), reason="no real motion beside the project")
@pytest.mark.parametrize("kind", ["2d", "exo", "3d"])
def test_paper_metrics_equal_the_formulas_on_real_motion(kind):
    "A real window with the paper's confidences: against nothing, itself without them, the frame before, noise, its first frame."
    clips = Clips(panoptic.read_split(MOCAP, "validation"), kind, 16, 32, "validation")
    joints = clips[len(clips) // 2][None]
    target = clip_maps(joints, kind, 32, confidence=paper_confidence(joints.shape[:-1], np.random.default_rng(0)))[1].numpy()
    sure = clip_maps(joints, kind, 32)[1].numpy()
    for pred in (0 * target, sure, np.roll(target, 1, 2), noisy(target, 0), np.repeat(target[:, :, :1], 16, 2)):
        ours, theirs = paper_metrics(target, pred), oracle_paper(target, pred)
        for k in PAPER: assert ours[k] == pytest.approx(theirs[k], abs=1e-6), k


@modest
@given(shapes, seeds)
def test_ssim_equals_scikit_image_frame_by_frame(shape, seed):
    x = np.random.default_rng(seed).random(shape)
    y = np.clip(noisy(x, seed), 0, 1)
    maps = ssim_map(x, y)
    assert maps.shape == (*shape[:3], shape[3] - 10, shape[4] - 10)
    theirs = [skimage_ssim(p, q) for p, q in zip(x.reshape(-1, *shape[3:]), y.reshape(-1, *shape[3:]))]
    assert np.allclose(maps.mean((3, 4)).ravel(), theirs, atol=1e-9)
    assert np.allclose(frame_series(x, y)["ssim"], np.mean(np.reshape(theirs, shape[:3]), 1), atol=1e-9)


def test_ssim_of_float32_has_no_cancellation():
    x = np.random.default_rng(0).normal(.98, 1e-3, (1, 1, 1, 32, 32)).astype(np.float32)
    assert frame_series(x, x[..., ::-1])["ssim"].item() == pytest.approx(
        skimage_ssim(x[0, 0, 0], x[0, 0, 0, :, ::-1]), abs=1e-9)


def oracle_rigorous(target, pred):
    "The definitions on whole tensors."
    x, y = np.clip(target, 0, 1).astype(np.float64), np.clip(pred, 0, 1).astype(np.float64)
    pairs = lambda b: [skimage_ssim(p, q) for p, q in zip(x.reshape(-1, *x.shape[3:]), b.reshape(-1, *x.shape[3:]))]
    s, s0, fg = np.mean(pairs(y)), np.mean(pairs(0 * y)), x > .1
    return dict(ssim=s, ssim_blank=s0, ssim_skill=(s - s0) / (1 - s0), fg_psnr=-10 * np.log10(((x - y)[fg]**2).mean()),
                fg_l1=np.abs(x - y)[fg].mean(), bg_l1=np.abs(x - y)[~fg].mean(), fg_share=fg.mean(),
                tde=np.abs(np.diff(y, axis=2) - np.diff(x, axis=2)).sum() / np.abs(np.diff(x, axis=2)).sum())


@modest
@given(seeds, st.sampled_from([.02, .3]))
def test_rigorous_metrics_equal_the_definitions(seed, scale):
    target = lines((2, 2, 3, 13, 17), seed)
    pred = noisy(target, seed, scale)
    ours = rigorous_metrics(target, pred)
    assert tuple(ours) == RIGOROUS
    for k, v in oracle_rigorous(target, pred).items(): assert ours[k] == pytest.approx(v, abs=1e-9), k


@modest
@given(shapes.filter(lambda s: s[2] > 1), seeds)
def test_references_score_what_they_must(shape, seed):
    target = lines(shape, seed)
    for nothing in (blank, frozen): assert rigorous_metrics(target, nothing(target))["tde"] == 1
    assert rigorous_metrics(target, blank(target))["ssim_skill"] == pytest.approx(0, abs=1e-12)
    exact = Scores().update(target, target).result()
    assert exact["ssim_skill"] == pytest.approx(1) and exact["tde"] == 0 == exact["l1"] == exact["fg_l1"]
    assert exact["psnr"] == 100 == exact["fg_psnr"] and exact["ssim"] == pytest.approx(1)
    dim = target / 2
    assert rigorous_metrics(dim, target)["tde"] == pytest.approx(1)       # a doubled motion
    assert rigorous_metrics(dim, dim + .25)["tde"] == pytest.approx(0, abs=1e-5)  # the right motion, the wrong level


def test_by_hand():
    full = lambda v, f=4: torch.full((1, 1, f, 12, 12), v)
    m = paper_metrics(full(.5), full(.6))
    assert m["psnr"] == pytest.approx(20, abs=1e-5) and m["l1"] == pytest.approx(.1) and m["t_std"] == 0
    # two frames, one exact and one off by .1: PSNR (100 + 20) / 2, every series is {0, 1}: std sqrt(1/2)
    m = paper_metrics(full(.5, 2), torch.cat([full(.5, 1), full(.6, 1)], 2))
    assert m["psnr"] == pytest.approx(60, abs=1e-5) and m["t_std"] == pytest.approx(math.sqrt(.5))
    # two clips, one exact and one off by .2, pooled before the logarithm: MSE .02
    m = paper_metrics(torch.cat([full(.5)] * 2), torch.cat([full(.5), full(.7)]))
    assert m["psnr"] == pytest.approx(-10 * math.log10(.02), abs=1e-5)
    assert t_std([3, 1, 2]) == pytest.approx(.5) and t_std([3, 1, 2], [0, 0, 0]) == pytest.approx(.25)
    assert psnr(1e-12) == 100 and np.allclose(psnr(np.array([1, .1])), [0, 10])
    # a pixel lit in the second frame only: target changes by 1, prediction by .25
    target, pred = torch.zeros(1, 1, 2, 11, 11), torch.zeros(1, 1, 2, 11, 11)
    target[0, 0, 1, 5, 5], pred[0, 0, 1, 5, 5] = 1, .25
    m = rigorous_metrics(target, pred)
    assert m["tde"] == .75 == m["fg_l1"] and m["fg_psnr"] == pytest.approx(-20 * math.log10(.75)) and m["bg_l1"] == 0
    assert m["fg_share"] == pytest.approx(1 / 242)


def test_frame_series_by_hand():
    target, pred = torch.zeros(2, 1, 3, 11, 11), torch.zeros(2, 1, 3, 11, 11)
    target[1, 0, 2, 5, 5], pred[1, 0, 0, 0, 0] = 1, .5   # clip 1: drawn in the last frame, predicted in the first
    s = frame_series(target, pred)
    assert all(v.shape == (2, 3) and v.dtype == torch.float64 for v in s.values())
    assert s["change"].tolist() == [[0, 0, 0], [0, 0, 1]] and s["change_error"].tolist() == [[0, 0, 0], [0, .5, 1]]
    assert s["fg"].tolist() == [[0, 0, 0], [0, 0, 1]] and s["bg"].tolist() == [[121] * 3, [121, 121, 120]]
    assert s["fg_se"].sum() == 1 == s["fg_ae"][1, 2] and s["bg_ae"].tolist() == [[0, 0, 0], [.5, 0, 0]]
    assert torch.allclose(s["l1"] * 121, s["fg_ae"] + s["bg_ae"]) and s["mse"][1, 0] * 121 == pytest.approx(.25)


def test_blank_beats_a_small_displacement():
    "The reason for the second protocol."
    target = np.zeros((1, 1, 2, 32, 32), np.float32)
    target[..., 4:28, 15] = 1
    pred = np.roll(target, 2, -1)
    assert paper_metrics(target, pred)["ssim"] < paper_metrics(target, blank(target))["ssim"]
    assert rigorous_metrics(target, pred)["ssim_skill"] < 0


def finite(value):
    return all(math.isfinite(v) for v in json.loads(json.dumps(value)).values())


def test_everything_is_finite_where_nothing_is_there():
    dark, light = torch.zeros(1, 1, 3, 11, 11), torch.rand(1, 1, 3, 11, 11, generator=torch.Generator().manual_seed(0))
    for target in (dark, light, torch.ones_like(dark)):
        for pred in (dark, light, torch.ones_like(dark)):
            assert finite(Scores(4).update(target, pred, indices=[0], q_loss=0).result())
    assert finite(rigorous_metrics(light[:, :, :1], dark[:, :, :1]))
    m = rigorous_metrics(dark, dark)
    assert (m["ssim_skill"], m["tde"], m["fg_psnr"], m["fg_share"]) == (0, 0, 100, 0)
    assert rigorous_metrics(dark, light)["tde"] == 1000 and rigorous_metrics(dark, light)["ssim_skill"] == 0


@modest
@given(seeds, st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_batch_by_batch_equals_all_at_once(seed, sizes):
    n, cuts = sum(sizes), np.cumsum(sizes)[:-1]
    target = lines((n, 2, 3, 12, 12), seed)
    rng = np.random.default_rng(seed)
    pred = noisy(target, seed) * rng.uniform(.2, 1, (n, 1, 1, 1, 1))
    codes, names = rng.integers(0, 9, (n, 2, 3)), [f"s{i % 2}" for i in range(n)]
    whole = Scores(16).update(target, pred, names, codes, q_loss=.5)
    parts = Scores(16)
    for t, p, c, s in zip(*(np.split(v, cuts) for v in (target, pred, codes, np.array(names)))):
        parts.update(torch.from_numpy(t), torch.from_numpy(p), s, torch.from_numpy(c), q_loss=torch.tensor(.5))
    assert parts.result() == pytest.approx(whole.result(), abs=1e-9)
    assert parts.result() == pytest.approx({**whole.result(), **paper_metrics(target, pred)}, abs=1e-9)
    assert parts.result()["clips"] == n
    if n > 1:
        a, b = parts.intervals(resamples=50), whole.intervals(resamples=50)
        for k in RIGOROUS: assert a[k] == pytest.approx(b[k], abs=1e-9)
    for k, v in parts.per_clip().items():
        assert v == pytest.approx([rigorous_metrics(target[i:i+1], pred[i:i+1])[k] for i in range(n)], abs=1e-9)


def test_quantizer_loss_is_weighted_by_clips():
    t = torch.rand(3, 1, 2, 11, 11)
    s = Scores().update(t[:1], t[:1], q_loss=1.).update(t[1:], t[1:], q_loss=4.)
    assert s.result()["q_loss"] == 3 and "perplexity" not in s.result()
    assert "q_loss" not in Scores().update(t, t).result()


def test_intervals_resample_sequences():
    target = lines((12, 1, 3, 12, 12), 0)
    pred = target * np.repeat([1, .9, .5, .1], 3)[:, None, None, None, None].astype(np.float32)
    names = np.repeat(list("abcd"), 3)
    s = Scores().update(target, pred, names)
    result, ends = s.result(), s.intervals()
    assert ends == s.intervals(seed=0) != s.intervals(seed=1)
    for k in ("ssim_skill", "tde", "fg_psnr"): assert ends[k][0] < result[k] < ends[k][1]
    assert s.intervals(level=.5)["tde"][0] > ends["tde"][0]
    # equal sequences leave nothing to vary, however much the clips inside differ
    same = Scores()
    for name in "abc": same.update(target, pred, [name] * 12)
    low, high = same.intervals()["ssim_skill"]
    assert low == pytest.approx(high) == pytest.approx(result["ssim_skill"])
    # two sequences: a quarter of the draws is each extreme, so the 95 % ends are the sequences themselves
    two = Scores().update(target[:6], pred[:6], list("aaabbb"))
    alone = [rigorous_metrics(target[i:i+3], pred[i:i+3])["tde"] for i in (0, 3)]
    assert two.intervals()["tde"] == pytest.approx(sorted(alone))


def test_refusals_name_the_matter():
    t = torch.rand(2, 1, 3, 12, 12)
    for call, message in (
        (lambda: paper_metrics(t, t[:1]), r"\(2, 1, 3, 12, 12\).*\(1, 1, 3, 12, 12\)"),
        (lambda: paper_metrics(t[0], t[0]), r"\(1, 3, 12, 12\).*expected \(B, C, F, H, W\)"),
        (lambda: paper_metrics(t[..., :10], t[..., :10]), r"12 x 10 pixels.*11 x 11"),
        (lambda: paper_metrics((t * 255).byte(), t), "uint8"),
        (lambda: paper_metrics(t[:0], t[:0]), r"\(0, 1, 3, 12, 12\)"),
        (lambda: Scores().result(), "update"),
        (lambda: Scores().update(t, t).update(t[:, :, :2], t[:, :, :2]), r"\(1, 2, 12, 12\).*\(1, 3, 12, 12\)"),
        (lambda: Scores().update(t, t, indices=[1]), "codebook_size"),
        (lambda: Scores().update(t, t, sequences="ab"), "2 names"),
        (lambda: Scores().update(t, t, sequences=["a"]), "2 names"),
        (lambda: Scores().update(t, t).intervals(), "sequences"),
        (lambda: Scores().update(t, t, ["a", "a"]).intervals(), "two or more"),
        (lambda: Scores().update(t, t, ["a", "b"]).intervals(level=95), "level=95"),
        (lambda: code_usage([.5], 4), "integers"),
        (lambda: code_usage(np.zeros(0, int), 4), "no code"),
        (lambda: bits_per_second(8, 4, 0, 30), "frames=0"),
        (lambda: mpjpe(np.zeros((3, 2, 3)), np.zeros((3, 2, 2))), r"\(3, 2, 3\).*\(3, 2, 2\)"),
        (lambda: acceleration_error(np.zeros((2, 4, 3)), np.zeros((2, 4, 3))), "more than 2 frames"),
        (lambda: mean_map([]), "training"),
        (lambda: mean_map([t, t[0]]), "training map has shape"),
        (lambda: MeanPredictor(torch.zeros(1, 12, 13))(t), r"\(1, 12, 13\).*\(2, 1, 3, 12, 12\)"),
    ):
        with pytest.raises(ConfigError, match=message): call()
    broken = t.clone()
    broken[0, 0, 0, 0, :3] = float("nan")
    for call, message in (
        (lambda: paper_metrics(t, broken), "3 of the 864 values of the prediction"),
        (lambda: Scores().update(t, t, q_loss=float("inf")), "loss is inf"),
        (lambda: code_usage([0, 4], 4), "code 4"),
        (lambda: code_usage([0, -1], 4), "code -1"),
        (lambda: pck(np.full((1, 1, 2), np.nan), np.zeros((1, 1, 2)), 1), "NaN"),
    ):
        with pytest.raises(DataError, match=message): call()


def test_a_refused_batch_leaves_no_trace():
    t = torch.rand(2, 1, 3, 12, 12)
    s = Scores(4).update(t, t, ["a", "b"], [0, 1], .5)
    before = s.result()
    for bad in (dict(pred=t[:1]), dict(indices=[9]), dict(q_loss=math.nan), dict(sequences=["a"]), dict(pred=t * math.nan)):
        with pytest.raises((ConfigError, DataError)): s.update(**{"target": t, "pred": t, **bad})
    assert s.result() == before


def test_mean_map_and_predictor():
    maps = lines((4, 2, 3, 12, 13), 0)
    mean = mean_map(torch.from_numpy(maps))
    assert mean.shape == (2, 12, 13) and mean.dtype == torch.float32
    assert np.allclose(mean, maps.mean((0, 2)), atol=1e-6)
    assert torch.allclose(mean_map(torch.from_numpy(m) for m in (maps[:1], maps[1:])), mean)
    pred = MeanPredictor(mean)(maps[:2])
    assert pred.shape == (2, 2, 3, 12, 13) and (pred == mean[None, :, None]).all()
    held = frozen(maps)
    assert held.shape == maps.shape and (held.numpy() == maps[:, :, :1]).all() and not blank(maps).any()
    # of all constants in time, the mean has the least squared error
    error = lambda c: float(((maps - MeanPredictor(c)(maps).numpy())**2).sum())
    assert error(mean) < min(error(mean + .01), error(mean * .9), error(torch.from_numpy(maps[0, :, 0])))


def test_code_usage():
    assert code_usage(np.arange(12).reshape(3, 4), 12) == pytest.approx(
        dict(codes_used=12, codes_share=1, perplexity=12, code_entropy=math.log2(12)))
    assert code_usage(torch.full((2, 3), 5), 8) == dict(codes_used=1, codes_share=1/8, perplexity=1, code_entropy=0)
    half = code_usage([0, 0, 1, 2], 4)   # entropy 1.5 bits
    assert half["code_entropy"] == 1.5 and half["perplexity"] == pytest.approx(2**1.5) and half["codes_used"] == 3


@modest
@given(st.lists(st.integers(0, 30), min_size=1))
def test_code_usage_bounds(codes):
    u = code_usage(codes, 31)
    assert 1 - 1e-9 <= u["perplexity"] <= u["codes_used"] + 1e-9 and u["codes_used"] == len(set(codes))
    assert code_usage(codes + codes, 31) == pytest.approx(u)


def test_bits_per_second():
    assert bits_per_second(2048, 512, frames=64, fps=64) == 18432
    assert bits_per_second(256, 128, frames=64, fps=30) == 1792 * 30 / 64


@modest
@given(seeds, st.sampled_from([2, 3]))
def test_joint_errors(seed, dims):
    rng = np.random.default_rng(seed)
    joints, pred = rng.normal(0, 50, (2, 2, 5, 4, dims))
    d = np.sqrt(((joints - pred)**2).sum(-1))
    assert mpjpe(joints, pred) == pytest.approx(d.mean()) == mpjpe(torch.from_numpy(joints), torch.from_numpy(pred))
    assert pck(joints, pred, 60) == pytest.approx((d <= 60).mean())
    second = lambda p: p[:, :-2] - 2 * p[:, 1:-1] + p[:, 2:]
    e = np.sqrt(((second(joints) - second(pred))**2).sum(-1)).mean()
    assert acceleration_error(joints, pred) == pytest.approx(e)
    drift = joints + np.arange(5)[:, None, None] * 3.  # constant velocity: wrong places, right acceleration
    assert acceleration_error(joints, drift) == pytest.approx(0, abs=1e-9)


@modest
@given(seeds, st.integers(1, 3), st.integers(1, 4), st.integers(11, 24), st.integers(11, 24), st.sampled_from(["float32", "float64", "float16"]))
def test_compiled_loops_and_tensor_code_agree(seed, channels, frames, height, width, dtype):
    rng = np.random.default_rng(seed)
    x, y = torch.from_numpy(rng.uniform(-.2, 1.2, (2, channels, frames, height, width))).to(getattr(torch, dtype))
    y[:, 0] = x[:, 0]
    one, other = frame_errors._frames(x, y), frame_errors._compiled_frames(x, y)
    assert list(one) == list(other)
    for k in one: assert torch.allclose(one[k], other[k], rtol=1e-10, atol=1e-12), k


def test_threads_change_no_bit():
    target = torch.from_numpy(lines((5, 2, 3, 20, 20), 0))
    pred, before, found = torch.from_numpy(noisy(target.numpy(), 1)), torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(frame_series(target, pred))
    finally: torch.set_num_threads(before)
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])
    alone = frame_series(target[2:3], pred[2:3])
    assert all(torch.equal(found[0][k][2:3], alone[k]) for k in alone)


def test_views_that_are_not_contiguous():
    target = torch.from_numpy(lines((2, 2, 3, 20, 22), 0))
    pred = torch.from_numpy(noisy(target.numpy(), 1))
    turned = frame_series(target.transpose(-1, -2), pred.transpose(-1, -2))
    for k, v in frame_series(target, pred).items(): assert torch.allclose(v, turned[k], rtol=1e-10), k


def test_arguments_are_left_alone():
    t = torch.rand(1, 1, 2, 12, 12, requires_grad=True)
    p = t.detach().numpy() * 3 - 1
    p.setflags(write=False)
    kept = p.copy()
    assert not frame_series(t, p)["ssim"].requires_grad and (p == kept).all() and t.requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_on_a_gpu():
    target = torch.from_numpy(lines((2, 2, 3, 20, 20), 0))
    pred = torch.from_numpy(noisy(target.numpy(), 1))
    assert frame_series(target.cuda(), pred)["ssim"].is_cuda
    assert Scores().update(target.cuda(), pred.cuda()).result() == pytest.approx(Scores().update(target, pred).result())


def test_the_quality_of_each_frame_is_that_of_clips_of_one_frame():
    rng = torch.Generator().manual_seed(0)
    target, pred = torch.rand(3, 1, 4, 16, 16, generator=rng), torch.rand(3, 1, 4, 16, 16, generator=rng)
    whole = Scores().update(target[:2], pred[:2]).update(target[2:], pred[2:])
    frames = whole.per_frame()
    for f in range(4):
        alone = Scores().update(target[:, :, f:f + 1], pred[:, :, f:f + 1]).result()
        for k in ("ssim", "ssim_skill", "fg_psnr", "fg_l1"): assert frames[k][f] == pytest.approx(alone[k], rel=1e-9), k
    assert np.isnan(frames["tde"][0])
    step = (pred[:, :, 2] - pred[:, :, 1] - target[:, :, 2] + target[:, :, 1]).abs().sum()
    assert frames["tde"][2] == pytest.approx(float(step / (target[:, :, 2] - target[:, :, 1]).abs().sum()), rel=1e-5)


@given(seed=st.integers(0, 2**31), runs=st.integers(1, 3), clips=st.integers(2, 5))
@settings(max_examples=15, deadline=None)
def test_paired_differences(seed, runs, clips):
    rng = np.random.default_rng(seed)
    targets = torch.from_numpy(rng.random((clips, 1, 3, 16, 16)).astype(np.float32))
    def judged(noise): return Scores().update(targets, (targets + noise * torch.randn(targets.shape)).clamp(0, 1), [f"s{i}" for i in range(clips)])
    ours, theirs = ([judged(n) for _ in range(runs)] for n in (0.05, 0.3))
    there = paired_difference(*[[s.by_sequence() for s in side] for side in (ours, theirs)])
    back = paired_difference(*[[s.by_sequence() for s in side] for side in (theirs, ours)])
    for k, (value, low, high) in there.items():
        mean = lambda side: np.mean([s.result()[k] for s in side])
        assert abs(value - (mean(ours) - mean(theirs))) < 1e-9 and low <= high
        assert np.allclose(back[k], (-value, -high, -low), atol=1e-9)  # the same draws, seen from the other side
    assert there["ssim_skill"][1] > 0 and there["fg_l1"][2] < 0        # less noise is better on every draw


def test_paired_differences_need_the_same_sequences():
    one, other = (Scores().update(*[torch.rand(2, 1, 3, 16, 16)] * 2, list(names)).by_sequence() for names in ("ab", "ac"))
    for ours, theirs in (([one], [other]), ([one, one], [one])):
        with pytest.raises(ConfigError, match="same sequences"): paired_difference(ours, theirs)
