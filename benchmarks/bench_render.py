"""The renderer beside the published algorithm, beside what it does on other devices, and beside memory."""
from functools import partial

import numpy as np
import torch

from benchmarks import references
from benchmarks.core import peak_bytes, row, time_best
from motion_vq import heatmaps
from motion_vq.clips import clip_maps
from motion_vq.heatmaps import VIEWS, render
from motion_vq.poses import fit
from motion_vq.skeletons import PANOPTIC19
from motion_vq.synthetic import motion

LIMBS = PANOPTIC19.limb_index


def people(n, frames, size):
    "Walking people, fitted to the image: (n, frames, 19, 3) in pixels."
    return np.stack([fit(motion("gait", frames, seed=seed), size) for seed in range(n)])


def planes(frames, size, repeats, kept=16):
    "One view of a clip, every limb in one channel; and a set of such clips, whose memory comes from the system page by page."
    joints = people(1, frames, size)[0, ..., :2].copy()
    each = (lambda: render(joints, size)), (lambda: references.limbs_2d(joints, LIMBS, size)), partial(np.ones, (1, frames, size, size), np.float32)
    name = f"2D limbs, {frames} x {size} x {size}, {len(LIMBS)} limbs"
    ours, reference, written = time_best(*each, repeats=repeats)
    yield row(name, ours, reference, ">= 100, <= 4 x write", "reference: NumPy, a patch for each limb and frame; write: np.ones, into memory that was used just before",
              write_s=written, peak_bytes=peak_bytes(each[0]), bytes=4 * frames * size**2)
    ours, reference, written = time_best(*(lambda f=f: [f() for _ in range(kept)] for f in each), repeats=repeats // 2 + 1)
    yield row(f"{name}, {kept} clips", ours, reference, "<= 4 x write", "the same, and all clips are kept: everybody writes into new memory",
              write_s=written, bytes=4 * kept * frames * size**2)


def triplanes(frames, size, repeats, some):
    "Three views of a clip; the reference, which fills volumes, is timed on a few frames."
    joints = people(1, frames, size)[0]
    few = joints[::max(1, frames // some)][:some]
    ours, written = time_best(lambda: render(joints, size, kind="triplane"),
                              partial(np.ones, (3, frames, size, size), np.float32), repeats=repeats)
    peak = peak_bytes(lambda: render(joints, size, kind="triplane"))
    name = f"tri-planes, {frames} x {size} x {size}, {len(LIMBS)} limbs"
    for apart, target in ((True, ">= 6000, <= 3 x output"), (False, "")):
        part, = time_best(lambda: references.triplanes_by_volume(few, LIMBS, size, apart=apart), repeats=min(repeats, 3))
        note = f"reference: NumPy, {'a volume for each limb, as published' if apart else 'one volume'}, then maxima along its axes; " \
               f"timed on {len(few)} frames and scaled to {frames}"
        yield row(name + ("" if apart else ", one volume"), ours, part * frames / len(few), target, note, write_s=written, peak_bytes=peak, bytes=12 * frames * size**2)


def as_on_other_devices(joints, size):
    "The maps of `clip_maps(joints, \"2d\", size)` by the tensor code that GPUs run, on this CPU."
    points, peaks = torch.from_numpy(joints[:, 0]).double(), torch.ones(joints[:, 0].shape[:-1], dtype=torch.float64)
    maps = heatmaps._scatter(points, peaks, LIMBS, VIEWS["2d"], len(LIMBS), size, 0.75, torch.device("cpu"))
    maps = maps.reshape(len(joints), len(LIMBS), joints.shape[2], size, size)
    return maps, maps.amax(1, keepdim=True)


def training(clips, frames, size, repeats):
    "A training batch: 17 channels and their maximum."
    joints = people(clips, frames, size)[:, None, ..., :2].copy()
    ours, reference, written = time_best(
        lambda: clip_maps(joints, "2d", size), lambda: as_on_other_devices(joints, size),
        partial(np.ones, (clips, len(LIMBS) + 1, frames, size, size), np.float32), repeats=repeats)
    return row(f"training batch, {clips} x {len(LIMBS)} x {frames} x {size} x {size}", ours, reference, "",
               "reference: the tensor code of other devices, on this CPU", write_s=written, bytes=4 * clips * (len(LIMBS) + 1) * frames * size**2)


def beside_a_copy(clips, frames, size, repeats):
    "A batch of tri-planes drawn on the GPU, beside copying such a batch there."
    joints = torch.from_numpy(people(clips, frames, size))
    batch = torch.zeros(clips, 3, frames, size, size).pin_memory()
    ours, copied = time_best(lambda: render(joints, size, kind="triplane", device="cuda"),
                             lambda: batch.to("cuda", non_blocking=True), repeats=repeats, wait=torch.cuda.synchronize)
    return row(f"GPU, tri-planes, {clips} x {frames} x {size} x {size}", ours, copied, ">= 1",
               "reference: the copy of such a batch to the GPU, from page-locked memory", bytes=batch.nbytes)


def run(size=128, frames=64, some=4, batch=(16, 16, 32), repeats=10):
    "All rows; smaller numbers make a quick run."
    return [*planes(frames, size, repeats), *triplanes(frames, size, repeats, some), training(*batch, repeats)]


def gpu(clips=64, frames=64, size=128, repeats=10):
    "The row of a graphics card."
    return [beside_a_copy(clips, frames, size, repeats)]
