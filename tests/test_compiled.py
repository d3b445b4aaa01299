"""Compiled functions: the same results, kept on disk, and safe beside forks, workers and threads."""
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from motion_vq.compiled import compiled, in_slices
from motion_vq.drawing import draw
from motion_vq.heatmaps import render

ROOT = Path(__file__).parents[1]
JOINTS = np.random.default_rng(0).uniform(-4, 36, (6, 4, 19, 2))


def test_a_function_without_a_file_is_compiled_too():
    "There is no place to keep its code: that must not be an error."
    names = {}
    exec("def total(x):\n    s = 0.0\n    for v in x: s += v\n    return s", names)
    fast = compiled(names["total"])
    assert fast(np.arange(5.0)) == 10 and fast.nopython_signatures


DRAWS = """
import sys, numpy as np
from motion_vq import heatmaps
maps = heatmaps.render(np.full((1, 19, 2), 4.0), 8)
stats = heatmaps._film.stats
print(len(stats.cache_hits), len(stats.cache_misses), maps.sum())
"""


def test_the_code_is_kept_on_disk(tmp_path):
    "The first process compiles and stores, the second only reads."
    env = dict(os.environ, NUMBA_CACHE_DIR=str(tmp_path))
    first, second = (subprocess.run([sys.executable, "-c", DRAWS], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
                     .stdout.split() for _ in range(2))
    assert first[:2] == ["0", "1"] and second[:2] == ["1", "0"] and first[2] == second[2]
    assert list(tmp_path.rglob("*.nbc"))


class Drawn(torch.utils.data.Dataset):
    def __len__(self): return len(JOINTS)
    def __getitem__(self, i): return render(torch.from_numpy(JOINTS[i]), 32)


def test_forked_workers_draw_the_same():
    expected = render(torch.from_numpy(JOINTS), 32)  # the parent has drawn before it forks
    loader = DataLoader(Drawn(), batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=60)
    assert torch.equal(torch.cat(list(loader)), expected)


def test_threads_draw_the_same():
    expected, found = render(JOINTS, 32), [None] * 4
    def draw(i): found[i] = render(JOINTS, 32)
    threads = [threading.Thread(target=draw, args=(i,)) for i in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    for maps in found: np.testing.assert_array_equal(maps, expected)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_no_bit(threads):
    joints = torch.from_numpy(np.random.default_rng(0).normal(15, 5, (3, 1, 4, 19, 3)).astype(np.float32))
    def pull():
        ours = joints.clone().requires_grad_()
        image = draw(ours, "3d", 32)
        return image.detach(), *torch.autograd.grad(image.square().sum(), ours)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1); alone = pull()
        torch.set_num_threads(threads); shared = pull()
    finally: torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(alone, shared))


def test_an_error_in_a_slice_is_raised():
    def fails(start, stop): raise ValueError(f"{start} ... {stop}")
    for n in (1, 4):
        with pytest.raises(ValueError): in_slices(fails, n)
