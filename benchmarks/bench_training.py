"""A training step of the preset `paper`, beside the same network and losses in a straightforward loop; and the memory of a full clip."""
import copy
import math
import subprocess
import sys
import time
import weakref
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.core import ROOT, row, time_best
from motion_vq.blocks import GroupNorm, PixelConv, ResBlock, SelfAttention, Upsample
from motion_vq.networks import preset
from motion_vq.trainer import Trainer, train_preset


# --- the straightforward way: every formula as it is written, one graph for both optimisers, as in the authors' loop ---

class PlainBlock(ResBlock):
    def forward(self, x):
        h, g = self.norm1(x), self.norm2
        h = g(self.conv1(h * torch.sigmoid(h)))
        return self.skip(x) + self.conv2(h * torch.sigmoid(h))


class PlainAttention(SelfAttention):
    def forward(self, x):
        h = self.norm(x)
        q, k, v = (conv(h).flatten(2) for conv in (self.q, self.k, self.v))  # (B, C, positions)
        weights = torch.softmax(torch.bmm(q.transpose(1, 2), k) * x.shape[1] ** -0.5, dim=2)
        return x + self.proj(torch.bmm(v, weights.transpose(1, 2)).view(x.shape))


class PlainUpsample(Upsample):
    def forward(self, x): return F.conv3d(F.interpolate(x, scale_factor=2.0), self.conv.weight, self.conv.bias, padding=1)


PLAIN = {ResBlock: PlainBlock, SelfAttention: PlainAttention, Upsample: PlainUpsample, GroupNorm: nn.GroupNorm, PixelConv: nn.Conv3d}


def plain(network):
    "A copy with the same weights, contiguous, whose layers are those above."
    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    for module in network.modules(): module.__class__ = PLAIN.get(type(module), type(module))
    return network


class PlainLoop:
    "One forward pass; both losses go back through all of it, and so does the discriminator's, unless `detached`."
    def __init__(self, trainer, detached=False):
        self.model, self.judge, c = plain(trainer.model), plain(trainer.adversary.discriminators.judges[0]), trainer.config
        self.opt = torch.optim.Adam(self.model.parameters(), c.lr, c.betas)
        self.gan_opt = torch.optim.Adam(self.judge.parameters(), c.gan_lr, (0.5, 0.9))
        self.weight, self.cap, self.detached = c.gan_weight, c.gan_cap, detached

    def train_step(self, x, target):
        out = self.model.train()(x)
        pred = out.reconstruction + (out.reconstruction.clamp(0, 1) - out.reconstruction).detach()
        rec = torch.abs(target - pred).mean()
        real, fake = self.judge.layers(target), self.judge.layers(pred)
        game, last = -fake.mean(), self.model.last_layer
        rec_grad, game_grad = (torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (rec, game))
        game = self.weight * torch.clamp(rec_grad.norm() / (game_grad.norm() + 1e-4), 0, self.cap) * game
        if self.detached: fake = self.judge.layers(pred.detach())
        disc = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
        self.opt.zero_grad()
        (rec + out.loss + game).backward(retain_graph=not self.detached)
        self.gan_opt.zero_grad()
        disc.backward()
        self.opt.step()
        self.gan_opt.step()
        return {k: v.detach() for k, v in dict(rec=rec, quantizer=out.loss, game=game, disc=disc).items()}


def trainer(frames, size, precision="float32", device="cpu", **changes):
    "The preset `paper`, its adversary playing from the first step on."
    config = train_preset("paper", frames=frames, size=size, gan_start=0.0, precision=precision)
    return Trainer("vqgan", preset("paper", **changes), config, device)


def clips(batch, frames, size):
    "Clips of one camera: what the model is given, and its target."
    x = torch.rand(batch, 17, frames, size, size, generator=torch.Generator().manual_seed(0)) ** 8
    return x, x.amax(1, keepdim=True)


# --- memory: every tensor of a step, counted without computing any ---

class Live(TorchDispatchMode):
    "Bytes of the tensors that are alive, now and at most; storages are counted once."
    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = set()

    def add(self, tensors):
        for t in tree_leaves(tensors):
            if not isinstance(t, torch.Tensor): continue
            storage = t.untyped_storage()
            if storage._cdata in self.known: continue
            self.known.add(storage._cdata)
            self.now += storage.nbytes()
            weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)

    def _gone(self, key, size):
        self.known.discard(key)
        self.now -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.add(out)
        return out


def step_bytes(frames, size, batch=1, precision="float32", checkpointing=False, **changes):
    "(at rest, at most): bytes of weights, optimisers and adversary between two steps, and of everything within a step."
    counted = patch("motion_vq.quantize.perplexity", lambda *_: torch.ones(()))  # counts codes, which needs values
    moved = patch.object(nn.Module, "to", lambda module, *_, **__: module)          # fakes cannot be moved
    asked = patch("motion_vq.trainer.resolve_precision", lambda precision, device: precision)  # nothing is computed, so any will do
    with FakeTensorMode(), counted, moved, asked:
        t = trainer(frames, size, precision, checkpointing=checkpointing, **changes)
        x = torch.empty(batch, 17, frames, size, size)
        target = torch.empty(batch, 1, frames, size, size)
        t.train_step(x, target, None)               # the optimisers make their states
        for opt in (t.opt, t.gan_opt): opt.zero_grad()
        live = Live()
        live.add([*t.model.state_dict().values(), *t.adversary.state_dict().values()])
        live.add([list(s.values()) for opt in (t.opt, t.gan_opt) for s in opt.state.values()])
        rest = live.now
        live.add([x, target])
        with live: t.train_step(x, target, None)
    return rest, live.peak


# --- rows ---

def work(function):
    "What a call computes and moves: operations of matrices and convolutions, and bytes that all its tensor operations read and write."
    counter, traffic = FlopCounterMode(display=False), Traffic()
    with counter, traffic: function()
    return dict(operations=counter.get_total_flops(), bytes=traffic.bytes)


class Traffic(TorchDispatchMode):
    "Bytes of all that goes into and comes out of operations that make something new."
    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if not function.is_view: self.bytes += sum(t.nbytes for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor))
        return out


def steps(frames, size, repeats, device="cpu", precision="float32", batch=1, **changes):
    "Our step beside the loop in the authors' manner, and beside one that spares itself the second way back."
    ours = trainer(frames, size, precision, device, **changes)
    loops, (x, target) = (PlainLoop(ours), PlainLoop(ours, detached=True)), (v.to(device) for v in clips(batch, frames, size))
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    alone = device == "cpu" and torch.get_num_threads() == 1
    seconds, *plain_seconds = time_best(lambda: ours.train_step(x, target, None), *(lambda l=l: l.train_step(x, target) for l in loops),
                                        repeats=repeats, turn=0, wait=wait, clock=time.process_time if alone else time.perf_counter)
    facts = work(lambda: ours.train_step(x, target, None))
    where = "" if device == "cpu" else f"GPU, {precision}, "
    name, note = f"{where}training step, {frames} x {size} x {size}, batch {batch}", f"preset paper, adversary playing; reference: float32, contiguous, formulas as written{'; time of the processor' if alone else ''}"
    return [row(name, seconds, plain_seconds[0], ">= 1.5", f"{note}, both losses back through one graph", **facts),
            row(f"{name}, detached", seconds, plain_seconds[1], "", f"{note}, the discriminator's loss cut off from the generator")]


LIMITS = ((1, "float32", False, 80e9), (4, "float32", False, 80e9), (4, "bfloat16", False, 80e9),
          (1, "float32", True, 16e9), (1, "bfloat16", True, 16e9), (4, "float32", True, 80e9))


def memory(frames, size, batch, precision, checkpointing, limit, **changes):
    "The most that a step holds: weights, both optimisers' states, gradients, and what is kept for the way back."
    rest, peak = step_bytes(frames, size, batch, precision, checkpointing, **changes)
    name = f"memory of a step, {frames} x {size} x {size}, batch {batch}, {precision}{', checkpointing' if checkpointing else ''}"
    return row(name, math.nan, math.nan, f"<= {limit / 1e9:.0f} GB",
               f"all tensors that are alive at once, counted without computing; {rest / 1e9:.2f} GB of it between steps", peak_bytes=peak, limit_bytes=limit)


def held(frames, size, batch, precision, checkpointing, limit, **changes):
    "The most that the GPU's allocator holds in a real step."
    t, (x, target) = trainer(frames, size, precision, "cuda", checkpointing=checkpointing, **changes), (v.to("cuda") for v in clips(batch, frames, size))
    t.train_step(x, target, None)
    torch.cuda.reset_peak_memory_stats()
    t.train_step(x, target, None)
    name = f"GPU, memory of a step, {frames} x {size} x {size}, batch {batch}, {precision}{', checkpointing' if checkpointing else ''}"
    return row(name, math.nan, math.nan, f"<= {limit / 1e9:.0f} GB", "as PyTorch's allocator counts it", peak_bytes=torch.cuda.max_memory_allocated(), limit_bytes=limit)


RESIDENT = """
import resource, sys, time
from benchmarks.bench_training import clips, trainer
frames, size = map(int, sys.argv[1:])
t, (x, target) = trainer(frames, size, checkpointing=True), clips(1, frames, size)
start = time.perf_counter()
t.train_step(x, target, None)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


def resident(frames, size):
    "The memory of a process that really takes one step, with Python, the library and the convolutions' own room."
    done = subprocess.run([sys.executable, "-c", RESIDENT, str(frames), str(size)], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, peak = map(float, done.stdout.split())
    return row(f"resident memory, {frames} x {size} x {size}, batch 1, float32, checkpointing", seconds, math.nan, "<= 16 GB",
               "one step in a process of its own, on the CPU", peak_bytes=int(peak), limit_bytes=16e9)


def run(frames=32, size=32, repeats=5, full=(64, 128), **changes):
    "The rows of a small clip, and the memory of a full one; smaller numbers make a quick run."
    return [*steps(frames, size, repeats, **changes), *(memory(*full, *limit, **changes) for limit in LIMITS)]


def gpu(frames=64, size=128, repeats=5, **changes):
    "The rows of a full clip on a graphics card."
    return [*(r for precision, batch in (("bfloat16", 1), ("bfloat16", 4), ("float32", 1)) for r in steps(frames, size, repeats, "cuda", precision, batch, **changes)),
            *(held(frames, size, *limit, **changes) for limit in LIMITS)]


def long():
    "What takes minutes: a larger clip, and one real step of a full one."
    return [*steps(32, 64, 2), resident(64, 128)]
