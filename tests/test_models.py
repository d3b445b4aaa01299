"""Codebooks, networks, VQ-GAN and dVAE, against hand numbers and independent oracles."""
import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from motion_vq.adversary import Adversary, PatchDiscriminator
from motion_vq.blocks import PixelConv, SelfAttention, _ConvToFew, _GroupNorm, fold, norm, unfold
from motion_vq.configuration import QUANTIZER_NAMES, ModelConfig, configure
from motion_vq.core import ConfigError
from motion_vq.dvae import DVAE, PlainDVAE
from motion_vq.losses import gradient_loss, reconstruction_loss, weighted_error
from motion_vq.networks import PRESETS, preset
from motion_vq.quantize import EMAVectorQuantizer, GumbelQuantizer, VectorQuantizer, nearest, perplexity
from motion_vq.trainer import Trainer, train_preset
from motion_vq.variants import quantizer, shared
from motion_vq.vqgan import VQGAN

CHANNELS = {"2d": (17, 1), "exo": (3, 3), "3d": (3, 3)}


def count(module): return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("kind,compression,K,parameters", [
    ("2d", 8, 1024, 50_266_305), ("3d", 8, 1024, 50_245_571), ("exo", 8, 1024, 50_245_571), ("3d", 16, 1024, 50_271_363),
    ("3d", 8, 512, 50_245_571 - 512 * 256)])
def test_the_paper_preset_has_the_published_parameter_counts(kind, compression, K, parameters):
    with torch.device("meta"): assert count(VQGAN(preset("paper", kind, compression, K))) == parameters


def test_the_discriminator_has_the_published_parameter_counts():
    with torch.device("meta"):
        for channels, parameters in ((1, 11_048_769), (3, 11_056_961)):
            assert count(PatchDiscriminator(channels, (64, 128, 256, 512))) == parameters


ROWS = [(r["kind"], int(r["compression"]), int(r["codebook_size"])) for r in csv.DictReader((Path(__file__).parents[1]/"nbs"/"analysis"/"published.csv").open())]
CLIPS = {"paper": (64, 128), "cpu": (32, 32)}    # frames and pixels of a clip that all compressions divide


@pytest.mark.parametrize("model", ["vqgan", "continuous", "dvae", "plain dvae"])
@pytest.mark.parametrize("scale", CLIPS)
def test_every_published_row_can_be_built_and_restores_its_clip(scale, model):
    "The paper's scale on the device `meta`, which knows shapes and computes nothing."
    frames, size = CLIPS[scale]
    build, network = {"dvae": (DVAE, scale), "plain dvae": (PlainDVAE, "plain")}.get(model, (VQGAN, scale))
    for kind, compression, K in ROWS:
        config = preset(network, kind, compression, K, frames=frames, size=size, **(dict(quantizer="none") if model == "continuous" else {}))
        grid, out = tuple(n // compression for n in (frames, size, size)), (1, CHANNELS[kind][1], frames, size, size)
        with torch.device("meta" if scale == "paper" else "cpu"), torch.no_grad():
            net, x = build(config).eval(), torch.ones(1, CHANNELS[kind][0], frames, size, size)
            latents = net.pre(net._latents(x)[0])
            assert latents.shape[2:] == grid and latents.shape[1] == (config.code_dim if build is VQGAN else K), (kind, compression)
            if scale == "paper": assert net._rebuild(torch.ones(1, config.code_dim, *grid)).shape == out
            else: assert net(x).reconstruction.shape == out and (model == "continuous" or net.encode(x).shape == (1, *grid))


def test_the_paper_like_dvae_is_plain_and_squares_its_errors():
    "Plain convolutions, squared error, no KL, no joints, temperature from 1 to 1/2."
    model, how = PlainDVAE(preset("plain", "2d")), train_preset("plain")
    assert {type(m) for m in (*model.encoder.modules(), *model.decoder.modules()) if not list(m.children())} == {
        torch.nn.Conv3d, torch.nn.ConvTranspose3d, torch.nn.ReLU, PixelConv}
    assert (how.power, how.temporal, how.gan_weight, how.foreground, how.gradients) == (2, 0, 0, (0, 0), 0) and model.quantizer.diversity == 0
    temperatures = []
    for progress in (0, 1): model.anneal(progress); temperatures.append(model.quantizer.temperature.item())
    assert temperatures == [1, 0.5]


@pytest.mark.parametrize("build", [VQGAN, DVAE])
@pytest.mark.parametrize("compression", [8, 16, 32])
@pytest.mark.parametrize("kind", ["2d", "exo", "3d"])
def test_every_compression_restores_the_size_of_its_input(build, kind, compression):
    torch.manual_seed(0)
    model = build(preset("smoke", kind, compression)).eval()
    x = torch.rand(2, CHANNELS[kind][0], 32, 32, 64)
    with torch.no_grad():
        tokens = model.encode(x)
        out = model(x)
        assert tokens.shape == (2, 32 // compression, 32 // compression, 64 // compression) and tokens.dtype == torch.int64
        assert out.reconstruction.shape == (2, CHANNELS[kind][1], 32, 32, 64)
        assert torch.equal(out.indices, tokens)
        assert torch.equal(model.decode(tokens), out.reconstruction), "the token says it all"


def test_a_clip_is_coded_alike_alone_and_in_a_batch():
    torch.manual_seed(0)
    model = VQGAN(preset("smoke", "3d")).eval()
    x = torch.rand(3, 3, 16, 32, 32)
    with torch.no_grad():
        together, alone = model(x).reconstruction, torch.cat([model(c[None]).reconstruction for c in x])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_wrong_settings_and_shapes_say_what_is_right():
    with pytest.raises(ConfigError, match="codebook_size"): preset("cpu", "2d", codebok_size=3)
    with pytest.raises(ConfigError, match="'smoke', 'cpu'|'paper'"): preset("huge")
    with pytest.raises(ConfigError, match="'3d'"): preset("cpu", "4d")
    with pytest.raises(ConfigError, match="power of two"): preset("cpu", "2d", 12)
    with pytest.raises(ConfigError, match="at least 2"): preset("cpu", "2d", 8, 1)
    model = VQGAN(preset("smoke", "2d"))
    with pytest.raises(ConfigError, match="frames is 20.*16 or 24"): model(torch.rand(1, 17, 20, 32, 32))
    with pytest.raises(ConfigError, match="height is 30.*24 or 32"): model(torch.rand(1, 17, 16, 30, 32))
    with pytest.raises(ConfigError, match="17"): model.encode(torch.rand(1, 1, 16, 32, 32))
    with pytest.raises(ConfigError, match="vocabulary"): model.decode(torch.full((1, 2, 4, 4), 64))


@given(st.integers(0, 2**31), st.integers(1, 3), st.sampled_from([1, 2, 4]))
@settings(deadline=None, max_examples=30)
def test_folding_is_undone(seed, channels, s):
    x = torch.rand(2, channels, 2 * s, s, 3 * s, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(unfold(fold(x, s), s), x)


def test_attention_matches_a_float64_loop():
    torch.manual_seed(0)
    attention, x = SelfAttention(8).double(), torch.randn(1, 8, 2, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        h = attention.norm(x)
        q, k, v = (c(h).flatten(2)[0].T.numpy() for c in (attention.q, attention.k, attention.v))
        mixed = np.zeros_like(q)
        for i in range(len(q)):
            w = np.exp([q[i] @ k[j] / np.sqrt(8) for j in range(len(k))])
            mixed[i] = sum(w[j] / w.sum() * v[j] for j in range(len(k)))
        wanted = x + attention.proj(torch.from_numpy(mixed.T.reshape(1, 8, 2, 2, 3)))
        torch.testing.assert_close(attention(x), wanted)


@given(st.integers(0, 2**31), st.integers(2, 9), st.integers(1, 5))
@settings(deadline=None, max_examples=30)
def test_nearest_is_the_nearest(seed, K, D):
    rng = np.random.default_rng(seed)
    z, codebook = rng.normal(size=(20, D)), rng.normal(size=(K, D))
    naive = np.linalg.norm(z[:, None] - codebook[None], axis=-1).argmin(1)
    assert nearest(torch.from_numpy(z), torch.from_numpy(codebook)).tolist() == naive.tolist()


def test_moving_averages_match_a_float64_loop():
    torch.manual_seed(0)
    q = EMAVectorQuantizer(4, 3, decay=0.9, dead_below=0.0)
    q.codebook.copy_(torch.randn(4, 3)); q.total.copy_(q.codebook); q.started.fill_(True)
    code, count, total = q.codebook.double().numpy(), np.ones(4), q.codebook.double().numpy()
    for _ in range(20):
        z = torch.randn(2, 3, 2, 2, 2)
        q(z)
        vectors = z.movedim(1, -1).reshape(-1, 3).double().numpy()
        chosen = ((vectors[:, None] - code[None])**2).sum(-1).argmin(1)
        for k in range(4):
            count[k] = 0.9 * count[k] + 0.1 * (chosen == k).sum()
            total[k] = 0.9 * total[k] + 0.1 * vectors[chosen == k].sum(0)
        code = total / count[:, None]
    np.testing.assert_allclose(q.codebook.numpy(), code, rtol=1e-4, atol=1e-5)


def test_a_dead_code_is_placed_on_a_vector_of_the_batch():
    torch.manual_seed(0)
    q = EMAVectorQuantizer(3, 2, decay=0.5, dead_below=0.4)
    q.codebook.copy_(torch.tensor([[0., 0.], [1., 1.], [99., 99.]])); q.total.copy_(q.codebook); q.started.fill_(True)
    z = torch.rand(1, 2, 2, 2, 2)
    q(z), q(z)  # its count falls to 1/2, then to 1/4
    vectors = z.movedim(1, -1).reshape(-1, 2)
    assert (vectors == q.codebook[2]).all(1).any()
    assert q(z).perplexity > 1


def test_the_codebook_starts_on_the_data_once_and_is_left_alone_at_test():
    torch.manual_seed(0)
    q, z = EMAVectorQuantizer(8, 2), 5 + torch.rand(4, 2, 2, 4, 4)
    before = q.codebook.clone()
    q.eval()(z)
    assert torch.equal(q.codebook, before) and not q.started
    q.train()(z)
    assert q.started and (q.codebook > 4.5).all()
    copy = EMAVectorQuantizer(8, 2)
    copy.load_state_dict(q.state_dict())
    assert copy.started and torch.equal(copy.codebook, q.codebook)


def test_quantisers_work_in_float32_under_autocast():
    for q, channels in ((VectorQuantizer(8, 4), 4), (EMAVectorQuantizer(8, 4), 4), (GumbelQuantizer(8, 4), 8)):
        with torch.autocast("cpu", torch.bfloat16): out = q(torch.randn(1, channels, 2, 2, 2).bfloat16())
        assert out.quantized.dtype == out.loss.dtype == torch.float32


@given(st.lists(st.integers(0, 15), min_size=1, max_size=50))
def test_perplexity_lies_between_one_and_the_codes_used(codes):
    value = perplexity(torch.tensor(codes), 16).item()
    assert 1 - 1e-5 <= value <= len(set(codes)) + 1e-4


def test_reconstruction_loss_matches_a_loop():
    rng = np.random.default_rng(0)
    target, pred = rng.random((1, 1, 3, 4, 4)), rng.random((1, 1, 3, 4, 4))
    target[target < 0.5] = 0
    def naive(t, p):
        weight = np.where(np.abs(t) > 0.1, 5.0, 1.0)
        return (weight * np.abs(p - t)).sum() / weight.sum()
    wanted = naive(target, pred) + 2 * np.abs(np.diff(pred - target, axis=2)).mean()
    got = reconstruction_loss(torch.from_numpy(target), torch.from_numpy(pred), foreground=4.0, temporal=2.0)
    assert got.item() == pytest.approx(wanted)


def test_the_game_leaves_the_other_side_alone():
    torch.manual_seed(0)
    model, adversary = VQGAN(preset("smoke", "3d")), Adversary(preset("smoke", "3d"))
    x = torch.rand(1, 3, 16, 32, 32)
    pred = model(x).reconstruction
    adversary.discriminator_loss(x, pred).backward()
    assert all(p.grad is None for p in model.parameters()) and all(p.grad is not None for p in adversary.parameters())
    adversary.zero_grad()
    adversary.generator_loss(reconstruction_loss(x, pred), x, pred, model.last_layer).backward()
    assert all(p.grad is None for p in adversary.parameters()) and model.last_layer.grad.abs().sum() > 0


def test_the_temperature_falls_and_stays_low():
    model = DVAE(preset("smoke"))
    taus = []
    for p in np.linspace(0, 1, 21): model.anneal(p); taus.append(model.quantizer.temperature.item())
    assert taus[0] == 1 and taus == sorted(taus, reverse=True) and taus[15:] == [0.0625] * 6
    copy = DVAE(preset("smoke")); copy.load_state_dict(model.state_dict())
    assert copy.quantizer.temperature == 0.0625


def test_configurations_are_frozen_and_lists_become_tuples():
    config = configure(ModelConfig(), widths=[8, 16, 32])
    assert config.widths == (8, 16, 32) and hash(config)
    with pytest.raises(AttributeError): config.kind = "3d"
    assert PRESETS["paper"].codebook_size == ModelConfig().codebook_size


@pytest.mark.parametrize("power", [1, 2])
def test_weighted_error_matches_a_loop(power):
    rng = np.random.default_rng(power)
    target, pred = rng.random((2, 2, 1, 3, 4, 4)).astype(np.float32)
    target[target < 0.5] = 0
    weights = [5.0 if t > 0.1 else 1.0 for t in target.flat]
    expected = sum(w * abs(float(p) - float(t))**power for w, p, t in zip(weights, pred.flat, target.flat)) / sum(weights)
    assert abs(float(weighted_error(*map(torch.from_numpy, (target, pred)), 4.0, power)) - expected) < 1e-6


def test_gradient_loss_matches_numpy():
    rng = np.random.default_rng(0)
    target, pred = rng.random((2, 2, 3, 4, 8, 12))
    error, expected = pred - target, 0.0
    for s in (1, 2, 4):
        e = error.reshape(2, 3, 4, 8 // s, s, 12 // s, s).mean((4, 6))
        expected += np.abs(np.diff(e, axis=-1)).mean() + np.abs(np.diff(e, axis=-2)).mean()
    assert abs(float(gradient_loss(*map(torch.from_numpy, (target, pred)))) - expected) < 1e-12


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(1, 12), parts=st.integers(1, 8))
def test_shared_bits_make_the_vocabulary(bits, parts):
    sizes = shared(2**bits, parts)
    assert len(sizes) == parts and np.prod(sizes) == 2**bits and max(sizes) <= 2 * min(sizes) and sizes == sorted(sizes)[::-1]


@pytest.mark.parametrize("name", [n for n in QUANTIZER_NAMES if n != "none"])
def test_tokens_of_every_quantizer_say_all(name):
    torch.manual_seed(0)
    q, z = quantizer(name, 32, 4, places=32), 3 * torch.randn(4, 4, 2, 4, 4)
    vectors = z.movedim(1, -1).reshape(-1, 4)
    q.start(vectors.view(4, 32, 4) if name == "product" else vectors)
    out = q.eval()(z)
    assert out.indices.dtype == torch.int64 and 0 <= out.indices.min() and out.indices.max() < 32 and out.perplexity > 4
    torch.testing.assert_close(q.lookup(out.indices), out.quantized, rtol=0, atol=1e-5)
    torch.testing.assert_close(q.lookup(torch.arange(32).view(1, 2, 4, 4)).shape, torch.Size([1, 4, 2, 4, 4]))
    torch.testing.assert_close(out.error, (out.quantized - z).square().mean())
    assert out.error < 0.9 * vectors.var()
    torch.testing.assert_close(q(out.quantized).indices, out.indices)  # a code is its own token


def test_every_place_has_its_own_codebook():
    torch.manual_seed(0)
    q, z = quantizer("product", 8, 3, places=12), torch.randn(5, 3, 3, 2, 2)
    q.start(torch.randn(40, 12, 3))
    flat = z.flatten(2)  # (5, 3, 12)
    for place in range(12):
        assert torch.equal(q(z).indices.flatten(1)[:, place], nearest(flat[:, :, place], q.codebook[place]))
    before = q.codebook.clone()
    q.train()(z.requires_grad_()).quantized.sum().backward()
    assert torch.equal(q.codebook, before) and torch.equal(z.grad, torch.ones_like(z))  # fixed, and straight through
    with pytest.raises(ConfigError, match='take space "motion"'): configure(preset("smoke"), quantizer="product")


def test_sizes_that_a_quantizer_cannot_share_are_refused():
    for name in ("residual", "fsq"):
        with pytest.raises(ConfigError, match="take 64 or 128"): quantizer(name, 100, 4)
    with pytest.raises(ConfigError, match="code_dim is 4"): quantizer("fsq", 8, 4)
    with pytest.raises(ConfigError, match="no tokens"): quantizer("none", 8, 4).lookup(torch.zeros(1, 1, 1, 1, dtype=torch.int64))


def test_a_continuous_autoencoder_passes_its_latents():
    z = torch.randn(1, 4, 2, 4, 4)
    assert torch.equal(quantizer("none", 8, 4)(z).quantized, z)


def test_plain_networks_refuse_what_they_do_not_know():
    with pytest.raises(ConfigError, match="plain networks"): preset("plain", stem=2)
    assert not [m for m in PlainDVAE(preset("plain", "2d")).encoder.modules() if isinstance(m, torch.nn.GroupNorm)]


@pytest.mark.parametrize("kind", ["3d", "2d+t"])
def test_a_matched_reconstruction_leaves_the_scores_alone_in_the_game(kind):
    torch.manual_seed(0)
    x = torch.rand(2, 1, 16, 32, 32)
    layer = torch.nn.Conv3d(1, 1, 1)
    with torch.no_grad(): layer.weight.fill_(1); layer.bias.fill_(0)
    pred = layer(x)
    rec = (pred - x - 1).abs().mean()
    losses = [Adversary(preset("smoke", "2d", discriminator=kind), 1.0, 1e9, matching=m) for m in (0.0, 1.0)]
    losses[1].load_state_dict(losses[0].state_dict())
    games = [a.generator_loss(rec, x, pred, layer.weight).item() for a in losses]
    assert games[0] != 0 and abs(games[0] - games[1]) < 1e-5 * abs(games[0])  # features of x and pred are equal: nothing to add
    games = [a.generator_loss(rec, 1 - x, pred, layer.weight).item() for a in losses]
    assert games[0] != games[1]


def test_checkpointing_changes_no_bit_of_a_step():
    "Of the gradients, encoder and decoder together, attention and doubling in both."
    grads, x = [], torch.rand(1, 17, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = VQGAN(preset("paper", widths=(8, 8, 16, 16), code_dim=8, attention=(2,), checkpointing=checkpointing))
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t): out = model(x)
        (out.reconstruction.square().mean() + out.loss).backward()
        grads.append([p.grad for p in model.parameters()])
        if not checkpointing: all_of_it = sum(kept)
    assert all(torch.equal(a, b) for a, b in zip(*grads)) and all(g is not None for g in grads[0])
    assert sum(kept) < all_of_it / 3, "what remains is what the quantiser keeps, and the layers outside of the stages"


# ---- what a graphics card does otherwise, on the CPU and on one

@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.sampled_from([8, 24, 64]), st.booleans(), st.floats(-30, 30))
def test_group_norm_by_sums_is_group_norm(seed, batch, channels, last, offset):
    generator = torch.Generator().manual_seed(seed)
    random = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)
    given = [random(batch, channels, 2, 3, 5) + offset, random(channels), random(channels)]
    if last: given[0] = given[0].contiguous(memory_format=torch.channels_last_3d)
    groups, back = norm(channels).num_groups, random(batch, channels, 2, 3, 5)
    one, other = ([v.clone().requires_grad_() for v in given] for _ in range(2))
    ours, theirs = _GroupNorm.apply(*one, groups, 1e-6), torch.nn.functional.group_norm(other[0], groups, *other[1:], eps=1e-6)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(torch.autograd.grad(ours, one, back), torch.autograd.grad(theirs, other, back), rtol=1e-6, atol=1e-8)
    assert ours.stride() == one[0].stride()


@pytest.mark.parametrize("precision, most", [(torch.float32, 2e-5), (torch.bfloat16, 0.01)])
def test_group_norm_by_sums_loses_no_digits(precision, most):
    "As exact as numbers of that precision can be, where the mean is ten times what the values differ by."
    x = (torch.randn(2, 64, 8, 16, 16, generator=torch.Generator().manual_seed(0)) + 10).to(precision)
    ours = _GroupNorm.apply(x, torch.ones(64), torch.zeros(64), 32, 1e-6)
    exact = torch.nn.functional.group_norm(x.double(), 32, eps=1e-6)
    assert ours.dtype == precision and (ours - exact).norm() < most * exact.norm()


@pytest.mark.parametrize("channels, side", [(1, 3), (3, 3), (3, 1)])
def test_the_gradient_of_few_channels_as_a_product(channels, side):
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((2, 4, 3, 4, 5), (channels, 4, side, side, side), (channels,))]
    given[0] = given[0].contiguous(memory_format=torch.channels_last_3d)
    one, other = ([v.clone().requires_grad_() for v in given] for _ in range(2))
    ours, theirs = _ConvToFew.apply(*one), torch.nn.functional.conv3d(*other, padding=side // 2)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours.pow(3).sum(), one), torch.autograd.grad(theirs.pow(3).sum(), other))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", ["2d", "3d"])
@pytest.mark.parametrize("scale, changes", [("paper", dict(widths=(8, 8, 16, 16), code_dim=8, attention=(2,))), ("smoke", {}), ("plain", {}), ("cpu", {})])
def test_a_step_on_a_graphics_card(kind, scale, changes):
    "The first losses of a training there are those of the CPU, and they are numbers in bfloat16 as well."
    losses = {}
    for device, precision in (("cpu", "float32"), ("cuda", "float32"), ("cuda", "bfloat16")):
        model = preset(scale, kind, **(changes | dict(disc_widths=(8, 16, 16)) if scale != "plain" else {}))
        trainer = Trainer("plain_dvae" if scale == "plain" else "vqgan", model, train_preset("smoke", precision=precision, gan_start=0.0), device)
        x = torch.rand(2, CHANNELS[kind][0], 16, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
        joints = 32 * torch.rand(2, 1, 16, 19, 3 if kind == "3d" else 2, generator=torch.Generator().manual_seed(1)).to(device)
        trainer.model.load_state_dict(losses.setdefault("weights", {k: v.clone() for k, v in trainer.model.state_dict().items()}))
        losses[device, precision] = [{k: float(v) for k, v in trainer.train_step(x, x.amax(1, keepdim=True) if kind == "2d" else x, joints).items()} for _ in range(3)]
    first = {k: v for k, v in losses["cpu", "float32"][0].items() if k in ("rec", "joints") and scale != "plain"}
    assert {k: v for k, v in losses["cuda", "float32"][0].items() if k in first} == pytest.approx(first, rel=1e-2)
    assert all(np.isfinite(list(step.values())).all() for step in losses["cuda", "bfloat16"])
