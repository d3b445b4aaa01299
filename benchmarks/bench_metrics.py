"""The paper's metrics beside scikit-image, frame by frame."""
import torch

from benchmarks import references
from benchmarks.bench_render import people
from benchmarks.core import row, time_best
from motion_vq.heatmaps import render
from motion_vq.metrics import paper_metrics


def pair(clips, frames, size):
    "Tri-planes of people, and the same dimmed and a little noisy: (clips, 3, frames, size, size) in [0, 1]."
    target = render(torch.from_numpy(people(clips, frames, size)), size, kind="triplane")
    noise = torch.rand(target.shape, generator=torch.Generator().manual_seed(0))
    return target, (0.9 * target + 0.05 * noise).clamp(0, 1)


def run(clips=8, frames=64, size=128, some=8, repeats=5):
    "All rows; smaller numbers make a quick run."
    target, pred = pair(clips, frames, size)
    step = max(1, frames // some)
    x, y = (v[:, :, ::step].numpy() for v in (target, pred))
    ours, part = time_best(lambda: paper_metrics(target, pred), lambda: references.paper_metrics(x, y), repeats=repeats)
    return [row(f"paper metrics, {clips} x 3 x {frames} x {size} x {size}", ours, part * frames / x.shape[2], ">= 5",
                f"reference: scikit-image, frame by frame; timed on {x.shape[2]} frames and scaled to {frames}",
                bytes=target.nbytes + pred.nbytes)]
