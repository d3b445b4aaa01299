"""Tokens that describe motion: the drawing, the basis, the start from training clips, and resuming."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from motion_vq.clips import batch, clip_maps, load_clips
from motion_vq.checkpoints import load_checkpoint, pack, unpack
from motion_vq.core import ConfigError
from motion_vq.drawing import draw, draw_limbs, planes
from motion_vq.dvae import DVAE
from motion_vq.heatmaps import render
from motion_vq.movements import ACTIONS
from motion_vq.networks import preset
from motion_vq.poses import fit
from motion_vq.quantize import GumbelQuantizer, nearest
from motion_vq.synthetic import motion, write_dataset
from motion_vq.trainer import Trainer, train_preset
from motion_vq.training import train
from motion_vq.trajectory import joints_shape, moments
from motion_vq.transform import MotionBasis
from motion_vq.vqgan import VQGAN

MODEL = preset("cpu", codebook_size=16, widths=(8, 8), features=4, refine=4, disc_widths=(8, 8, 8))
CONFIG = train_preset("smoke", steps=6, batch=2, eval_every=3, log_every=1, eval_clips=2, gan_start=0.5, precision="float32")
KINDS = [(kind, F) for kind in ("2d", "exo", "3d") for F in (8, 16)]


@pytest.fixture(scope="module")
def root(tmp_path_factory): return write_dataset(tmp_path_factory.mktemp("data")/"people", train=2, validation=2, frames=40, seed=0)


def some_joints(config, n, seed=0):
    "Smooth random motion, (n, V, F, K, 2|3) in pixels."
    rng = np.random.default_rng(seed)
    V, F, K, D = joints_shape(config)
    path = rng.normal(0, 4, (n, V, 1, K, D)) + rng.normal(0, 1, (n, V, F, K, D)).cumsum(2) / 4 + 15.5
    return torch.from_numpy(path.astype(np.float32))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.integers(8, 40), sigma=st.floats(0.5, 3), where=st.floats(-1e3, 1e3))
def test_the_drawing_is_the_renderers_picture(seed, size, sigma, where):
    joints = torch.from_numpy(np.random.default_rng(seed).uniform(-8, size + 8, (2, 3, 19, 2)).astype(np.float32))
    joints[0, 0] += where  # one person somewhere else
    ours, theirs = draw_limbs(joints, size, sigma), render(joints[:, None], size, sigma)[:, 0, 0]
    edge = (ours > 0) != (theirs > 0)  # a pixel that lies on the cut may fall to either side
    assert (ours - theirs).abs()[~edge].max() <= 1e-4 and torch.maximum(ours, theirs)[edge].le(0.0112).all()


def test_the_pull_on_a_joint_points_to_its_target():
    start, goal = torch.full((1, 1, 1, 19, 2), 12.0), torch.full((1, 1, 1, 19, 2), 13.0)
    start.requires_grad_()
    (draw(start, "2d", 24) - draw(goal, "2d", 24)).square().sum().backward()
    assert (start.grad.sum((0, 1, 2, 3)) < 0).all()  # downhill is to the right and down


def test_planes_refuses_what_is_no_single_pose():
    with pytest.raises(ConfigError, match="tri-planes need"): planes(torch.zeros(1, 3, 16, 19, 2), "3d")
    with pytest.raises(ConfigError, match="'4d'"): planes(torch.zeros(1, 1, 16, 19, 2), "4d")


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 12), dim=st.integers(1, 6), clips=st.integers(3, 30), seed=st.integers(0, 2**31))
def test_the_basis_is_an_orthogonal_projection(n, dim, clips, seed):
    shape = (1, 2, 3, 2)  # 12 numbers: often fewer than the tokens have room for
    x = torch.from_numpy(np.random.default_rng(seed).normal(0, 5, (clips, *shape)).astype(np.float32))
    basis = MotionBasis(shape, n, dim)
    basis.fit(x)
    back = basis.synthesise(basis.analyse(x))
    torch.testing.assert_close(basis.synthesise(basis.analyse(back)), back, rtol=0, atol=1e-3)
    lost, kept, all_ = ((a - b).square().sum() for a, b in ((x, back), (back, x.mean(0)), (x, x.mean(0))))
    torch.testing.assert_close(lost + kept, all_, rtol=1e-3, atol=1e-2)
    singular = torch.linalg.svdvals((x - x.mean(0)).flatten(1).double())[n * dim:]
    torch.testing.assert_close(lost.double(), singular.square().sum(), rtol=1e-3, atol=1e-2)  # Eckart and Young: none better


def test_moments_find_a_line():
    picture = draw_limbs(torch.tensor([8.0, 20.0]).repeat(19, 1), 32, 1.5)  # all joints in x = 8, y = 20
    m = moments(picture)
    torch.testing.assert_close(m[1:3], torch.tensor([(8 - 15.5) / 16, (20 - 15.5) / 16]), rtol=0, atol=1e-3)
    torch.testing.assert_close(m[3] / 10 * 16**2, torch.tensor(1.5**2), rtol=0.1, atol=0)  # spread: sigma squared


@pytest.mark.parametrize("kind,compression", KINDS)
@pytest.mark.parametrize("build", [VQGAN, DVAE])
def test_every_kind_codes_and_decodes(kind, compression, build):
    torch.manual_seed(0)
    model = build(replace(MODEL, kind=kind, compression=compression)).eval()
    joints = some_joints(model.config, 40)
    model.start(joints)
    x, target = clip_maps(joints[:3].numpy(), kind, 32)
    with torch.no_grad(): out = model(x)
    assert out.reconstruction.shape == target.shape and out.indices.shape == (3, 16 // compression, *2 * [32 // compression])
    assert out.joints[0].shape == joints[:3].shape
    torch.testing.assert_close(model.decode(model.encode(x)), out.reconstruction, rtol=0, atol=0)


@pytest.mark.parametrize("build", [VQGAN, DVAE])
def test_the_start_is_a_codec_already(build):
    "Given the true latents, the untrained model's tokens are those of the nearest codes, and its joints are near."
    torch.manual_seed(0)
    model = build(replace(MODEL, codebook_size=64)).eval()
    joints = some_joints(model.config, 400)
    model.start(joints)
    z = model.decoder.basis.analyse(joints[:8]).transpose(1, 2).unflatten(2, model.decoder.grid)
    indices = model.quantizer(model.pre(z)).indices
    vectors = z.flatten(2).transpose(1, 2).flatten(0, 1)
    assert torch.equal(indices.flatten(), nearest(vectors, model.quantizer.codebook))
    still = model.decoder.basis.mean.view(joints.shape[1:])
    off = lambda j: (j - joints[:8]).norm(dim=-1).mean()
    assert off(model.decoder.joints(model.quantizer.lookup(indices))) < 0.6 * off(still)


@pytest.mark.parametrize("kind", ["2d", "3d"])
def test_codebooks_of_their_own_name_joints_better(kind):
    "At the same bits. The codes are those of training clips; the test clips are of other people."
    whole = np.stack([motion(a, 64, seed) for seed in range(60) for a in ACTIONS])
    joints = torch.from_numpy(fit(whole[..., :3 if kind == "3d" else 2], 32).astype(np.float32))[:, None]
    joints, test = joints[:350], joints[350:]
    errors = {}
    for name in ("ema", "product"):
        torch.manual_seed(0)
        model = VQGAN(replace(MODEL, kind=kind, frames=64, compression=16, widths=(8,) * 4, quantizer=name)).eval()
        model.start(joints)
        tokens = model.encode_joints(test)
        assert tokens.shape == (len(test), *model.config.grid)
        errors[name] = (model.decode_joints(tokens) - test).norm(dim=-1).mean()
    assert errors["product"] < 0.97 * errors["ema"]


def test_parts_are_dealt_evenly_and_nothing_is_lost():
    torch.manual_seed(0)
    config = replace(MODEL, quantizer="product")
    mixed, apart = MotionBasis(joints_shape(config), 32, 4), MotionBasis(joints_shape(config), 32, 4, mixed=False)
    joints = some_joints(config, 200)
    mixed.fit(joints); apart.fit(joints)
    torch.testing.assert_close(apart.synthesise(apart.analyse(joints[:9])), mixed.synthesise(mixed.analyse(joints[:9])), rtol=0, atol=1e-2)
    work = lambda deviation: deviation.view(4, 32).log().sum(0).std()
    assert work(apart.deviation) < work(mixed.deviation)  # `mixed` holds the components as they fall


def test_sure_logits_have_a_gradient():
    "Where a choice is so sure that its probability is 1 and the others' 0, the diversity term must not be NaN."
    quantizer = GumbelQuantizer(4, 2, diversity=1.0)
    logits = torch.zeros(1, 4, 1, 1, 2); logits[:, 0] = 1e4
    logits.requires_grad_()
    out = quantizer(logits)
    out.loss.backward()
    torch.testing.assert_close(out.loss, torch.tensor(np.log(4), dtype=torch.float32))
    assert logits.grad.isfinite().all()


def test_other_sizes_are_refused_before_anything_runs():
    model = VQGAN(MODEL)
    with pytest.raises(ConfigError, match="16 frames of 32 x 32"): model(torch.zeros(1, 17, 24, 32, 32))
    with pytest.raises(ConfigError, match="made for 16 frames"): Trainer("vqgan", MODEL, replace(CONFIG, frames=32))
    with pytest.raises(ConfigError, match="frames is 12"): VQGAN(replace(MODEL, frames=12))
    with pytest.raises(ConfigError, match="space"): replace(MODEL, space="time")
    with pytest.raises(ConfigError, match="spread is True"): replace(MODEL, spread=True)
    with pytest.raises(ConfigError, match="refine is 0"): replace(MODEL, refine=0)


@pytest.mark.parametrize("name", ["vqgan", "dvae"])
def test_a_crash_and_a_second_start_leave_the_same_bits(name, root, tmp_path, monkeypatch):
    clips = load_clips(root, "2d", 16, 32)[:2]
    train(name, MODEL, CONFIG, *clips, tmp_path/"whole", progress=False)
    step = Trainer.train_step
    def fails(self, *a):
        if self.step == 4: raise OSError("the power went")
        return step(self, *a)
    with monkeypatch.context() as m, pytest.raises(OSError):
        m.setattr(Trainer, "train_step", fails)
        train(name, MODEL, CONFIG, *clips, tmp_path/"cut", progress=False)
    monkeypatch.setattr(Trainer, "start", lambda *a: pytest.fail("a resumed run starts anew"))
    train(name, MODEL, CONFIG, *clips, tmp_path/"cut", progress=False)
    whole, cut = (load_checkpoint(tmp_path/f/"last.json")[1]["sha256"] for f in ("whole", "cut"))
    assert whole == cut


@pytest.mark.parametrize("changes", [dict(quantizer=q) for q in ("rotation", "cosine", "residual", "fsq")] + [dict(discriminator="2d+t")])
def test_every_ingredient_goes_on_where_it_was(changes, root):
    clips = load_clips(root, "2d", 16, 32)[0]
    config = replace(CONFIG, gan_start=0.3, average=0.9, gradients=0.5, matching=1.0, lecam=0.1)
    make = lambda: Trainer("vqgan", replace(MODEL, **changes), config)
    def steps(trainer, n):
        for _ in range(n): trainer.train_step(*batch(clips, config.seed, trainer.step, config.batch))
        return {k: v.clone() for k, v in pack(**trainer.parts).items()}
    straight, first, second = make(), make(), make()
    straight.start(clips); first.start(clips)
    whole, half = steps(straight, 4), steps(first, 2)
    unpack(half, **second.parts); second.step = 2
    again = steps(second, 2)
    assert whole.keys() == again.keys() and all(torch.equal(v, again[k]) for k, v in whole.items())
    assert any(k.startswith("averaged.") for k in whole)


def test_averaged_weights_are_a_running_mean(root):
    clips = load_clips(root, "2d", 16, 32)[0]
    trainer = Trainer("vqgan", MODEL, replace(CONFIG, average=0.75, gan_weight=0.0))
    trainer.start(clips)
    expected = None
    for step in range(3):
        trainer.train_step(*batch(clips, 0, step, 2))
        now = trainer.model.last_layer.detach()
        expected = now.clone() if expected is None else 0.75 * expected + 0.25 * now
    torch.testing.assert_close(trainer.tokenizer.last_layer, expected)
    assert trainer.tokenizer is not trainer.model
    assert torch.equal(trainer.tokenizer.quantizer.codebook, trainer.model.quantizer.codebook)  # codes are averages already


def test_corrections_go_down_the_error_of_the_drawing():
    torch.manual_seed(0)
    model = VQGAN(replace(MODEL, kind="3d", corrections=1))
    joints = some_joints(model.config, 40)
    model.start(joints)
    basis, x = model.decoder.basis, draw(joints[:4], "3d", 32)
    correction = model.encoder.corrections[0]
    c = torch.zeros(4, len(basis.deviation))
    assert torch.equal(correction(c, x, basis, "3d"), c)  # untrained: it corrects nothing
    with torch.no_grad(): correction.linear.weight.copy_(-0.02 * torch.eye(len(basis.deviation)))
    error = lambda c: (draw(basis.joints(c), "3d", 32) - x).square().sum()
    assert error(correction(c, x, basis, "3d")) < error(c)
    assert len(model.encoder(x, basis)) == 2 and len(model(x).joints) == 3
