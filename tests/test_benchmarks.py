"""The benchmarks' references compute what the library computes, and every row says what it should."""
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import bench_metrics, bench_panoptic, bench_render, bench_training, references
from benchmarks.core import KEYS, machine, peak_bytes, row, time_best
from motion_vq.heatmaps import render
from motion_vq.metrics import paper_metrics
from motion_vq.skeletons import PANOPTIC19

ROOT = Path(__file__).parents[1]
LIMBS = PANOPTIC19.limb_index


@pytest.mark.parametrize("size, sigma", [(32, 0.75), (17, 1.3), (6, 0.5)])
def test_limbs_2d(size, sigma):
    "To 1e-5, and the same pixels are lit."
    people = bench_render.people(2, 5, size)[..., :2]
    people[1] += size / 2  # half outside
    for joints in people:
        ours, theirs = render(joints, size, sigma)[0], references.limbs_2d(joints, LIMBS, size, sigma)
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)
        np.testing.assert_array_equal(ours > 0, theirs > 0)


@pytest.mark.parametrize("apart", [True, False])
def test_triplanes_by_volume(apart):
    "A volume is sampled at whole depths: its maxima are the tri-planes or a little less, but for the pixels at the cut."
    sigma = 2.0
    joints = bench_render.people(1, 3, 24)[0]
    ours, theirs = render(joints, 24, sigma, "triplane"), references.triplanes_by_volume(joints, LIMBS, 24, sigma, apart)
    lit = ours > 0.02
    assert lit.any() and (theirs <= ours + 1e-5).all() and (theirs[lit] >= ours[lit] * math.exp(-1 / (8 * sigma**2)) - 1e-5).all()


def test_paper_metrics():
    target, pred = bench_metrics.pair(2, 4, 24)
    ours, theirs = paper_metrics(target, pred), references.paper_metrics(target.numpy(), pred.numpy())
    assert {k: ours[k] for k in theirs} == pytest.approx(theirs, abs=1e-6)


def test_the_tensor_code_draws_the_training_batch():
    joints = bench_render.people(2, 3, 16)[:, None, ..., :2].copy()
    for ours, theirs in zip(bench_render.clip_maps(joints, "2d", 16), bench_render.as_on_other_devices(joints, 16)):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


SMALL = dict(widths=(8, 8, 16, 16), code_dim=16, attention=(2,), disc_widths=(8, 8, 8, 8))    # of the preset `paper`
GRADIENTS = lambda network: torch.cat([p.grad.flatten() for p in network.parameters()])


def test_the_straightforward_loop_does_the_same_arithmetic():
    "Same weights: same losses. Same gradients, too, where the discriminator's loss is cut off from the generator, and others where it is not."
    ours, (x, target) = bench_training.trainer(32, 32, **SMALL), bench_training.clips(1, 32, 32)
    uncut, cut = bench_training.PlainLoop(ours), bench_training.PlainLoop(ours, detached=True)
    count = lambda *networks: sum(p.numel() for network in networks for p in network.parameters())
    assert count(ours.model, ours.adversary) == count(cut.model, cut.judge)
    with torch.no_grad(): assert torch.equal(cut.judge.layers(target), ours.adversary.discriminators.judges[0](target))
    losses = {k: float(v) for k, v in ours.train_step(x, target, None).items() if k != "perplexity"}
    for loop in (uncut, cut): assert {k: float(v) for k, v in loop.train_step(x, target).items()} == pytest.approx(losses, rel=1e-4)
    expected, scale = GRADIENTS(ours.model), float(GRADIENTS(ours.model).norm())
    assert (GRADIENTS(cut.model) - expected).norm() < 1e-3 * scale < (GRADIENTS(uncut.model) - expected).norm()
    torch.testing.assert_close(GRADIENTS(cut.judge), GRADIENTS(ours.adversary), rtol=1e-3, atol=1e-6)


def test_live_bytes_by_hand():
    "Of 4,000 bytes each: an array from before, one that goes before the third comes, and a view, which is none."
    live, a = bench_training.Live(), torch.ones(1000)
    live.add([a, a[3:]])
    with live:
        b = a + 1
        del b
        c = (a * 2).view(10, 100)
        assert (live.now, live.peak) == (8000, 8000)
        d = c + c
    assert (live.now, live.peak) == (12000, 12000) and bench_training.work(lambda: torch.ones(1000) + a)["bytes"] == 16000
    assert bench_training.work(lambda: torch.ones(10, 20) @ torch.ones(20, 30))["operations"] == 2 * 10 * 20 * 30
    del c, d
    assert live.now == 4000


def test_bytes_of_a_step():
    "At rest: each weight, and two moments of it; in a step the gradients at least; less with checkpointing, more with a larger batch."
    t = bench_training.trainer(32, 32, **SMALL)
    weights = sum(4 * p.numel() for network in (t.model, t.adversary) for p in network.parameters())
    (rest, peak), (_, less), (_, more) = (bench_training.step_bytes(32, 32, batch, checkpointing=c, **SMALL) for batch, c in ((1, False), (1, True), (2, False)))
    assert 3 * weights <= rest < 3 * weights + 10_000
    assert rest + weights * 0.9 < less < peak < more


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")  # of the data set's own example
def test_rows():
    rows = bench_render.run(size=16, frames=2, some=1, batch=(2, 2, 16), repeats=1)
    rows += bench_metrics.run(clips=1, frames=2, size=16, some=1, repeats=1)
    rows += bench_panoptic.run(frames=200, repeats=1, turn=0)
    rows += bench_training.run(repeats=1, full=(32, 32), **SMALL)
    check(rows)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_rows_of_a_graphics_card():
    check(bench_render.gpu(1, 2, 16, 1) + bench_training.gpu(32, 32, 1, **SMALL))


def check(rows):
    assert len({r["name"] for r in rows}) == len(rows)
    for r in rows:
        assert set(KEYS) <= set(r) <= {*KEYS, "write_s", "peak_bytes", "limit_bytes", "operations", "bytes"}
        if "limit_bytes" in r: assert 0 < r["peak_bytes"] < r["limit_bytes"]
        else: assert r["ours_s"] > 0 and r["reference_s"] > 0 and r["ratio"] == r["reference_s"] / r["ours_s"]


def test_functions_take_turns_and_the_first_call_is_not_timed():
    calls = []
    best = time_best(lambda: calls.append("a"), lambda: calls.append("b"), repeats=2, turn=0)
    assert len(best) == 2 and all(0 < t < 1 for t in best)
    assert calls[:2] == ["a", "b"] and "".join(calls[2:]).replace("aa", "a").replace("bb", "b") == "abab"


def test_peak_bytes():
    "Two arrays of 8 MB are alive at once, a third is not."
    def work():
        a = np.ones(10**6)
        b = a + 1
        del a
        return b * 2
    assert 16e6 <= peak_bytes(work) < 17e6


def test_command(tmp_path):
    "A name that does not exist is refused; a real run writes machine facts and rows."
    command = [sys.executable, "-m", "benchmarks"]
    refused = subprocess.run([*command, "nothing"], cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 2 and "render" in refused.stderr
    code = "from benchmarks import __main__, bench_metrics; from functools import partial; import sys; " \
           "bench_metrics.run = partial(bench_metrics.run, 1, 2, 16, 1, 1); " \
           f"sys.argv = ['', 'metrics', '--out', {str(tmp_path / 'x.json')!r}]; __main__.main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    written = json.loads((tmp_path / "x.json").read_text())
    assert [r["name"] for r in written["rows"]] == ["paper metrics, 1 x 3 x 2 x 16 x 16"] and "paper metrics" in done.stdout
    assert set(written["machine"]) == set(machine()) >= {"cores", "processor", "torch", "threads", "motion_vq", "commit"}


def test_row():
    assert row("x", 0.5, 2.0, ">= 3", write_s=1) == dict(name="x", ours_s=.5, reference_s=2., ratio=4., target=">= 3", note="", write_s=1)
