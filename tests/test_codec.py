"Tokens of known joints: turning a person turns one token, dear bits are saved, and what a codec knows of its tokens is what they cost."
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from motion_vq.codec import DIRECTIONS, HeadingCode, MotionCodec, facing, heading, turned
from motion_vq.core import ConfigError
from motion_vq.entropy import decode, encode, lengths
from motion_vq.networks import preset
from motion_vq.subspaces import ProductQuantizer, cheapest, priced_codes
from motion_vq.synthetic import motion

FRAMES, SIZE, MIDDLE = 32, 32, 15.5


def people(seeds, kind):
    "(clips, 1, F, K, 2|3) in pixels."
    joints = np.stack([motion(action, FRAMES, seed) for seed in seeds for action in ("gait", "turn", "wave")]) * SIZE / 260 + MIDDLE
    return torch.from_numpy(joints[..., :3 if kind == "3d" else 2].astype(np.float32))[:, None]


def codec(kind, price=0.0, K=64):
    torch.manual_seed(0)
    made = MotionCodec(preset("cpu", kind, 8, K, frames=FRAMES, size=SIZE, code_dim=4, quantizer="product"))
    made.start(people(range(80), kind), price)
    return made


@pytest.fixture(scope="module")
def spatial(): return codec("3d")


# --- the heading ---

def test_a_heading_by_hand():
    "The left side lies towards +x: 0; towards +z: a quarter; more than half a turn is followed on."
    joints = torch.zeros(1, 19, 3)
    joints[0, [3, 6], 0] = 1.0
    assert heading(joints).item() == 0
    assert heading(turned(joints, torch.tensor(0.5 * math.pi))).item() == pytest.approx(0.5 * math.pi)
    path = torch.linspace(0, 7, 40)
    torch.testing.assert_close(heading(turned(joints.expand(40, 19, 3), path[:, None])), path)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, DIRECTIONS - 1), st.integers(0, 20))
def test_a_person_who_is_turned_has_another_first_token_and_no_other(spatial, steps, seed):
    joints = people([100 + seed], "3d")
    there = turned(joints - MIDDLE, torch.tensor(2 * math.pi * steps / DIRECTIONS)) + MIDDLE
    before, after = (spatial.encode_joints(x).flatten(1) for x in (joints, there))
    near = (before[:, 0] + steps - after[:, 0]) % DIRECTIONS
    assert ((near == 0) | (near == 1) | (near == DIRECTIONS - 1)).all()    # what lies between two steps may be rounded either way
    same = near == 0
    assert (before[same, 1:] == after[same, 1:]).float().mean() > 0.99     # or between two codes
    torch.testing.assert_close(spatial.decode_joints(spatial.encode_joints(there))[same],
                               (turned(spatial.decode_joints(spatial.encode_joints(joints)) - MIDDLE, torch.tensor(2 * math.pi * steps / DIRECTIONS)) + MIDDLE)[same],
                               rtol=0, atol=0.5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000))
def test_what_a_body_sees_is_undone(seed):
    g = torch.Generator().manual_seed(seed)
    joints, angle = 30 * torch.randn(2, 1, 9, 19, 3, generator=g), 9 * torch.randn(2, 1, 9, generator=g)
    torch.testing.assert_close(facing(facing(joints, angle, MIDDLE), angle, MIDDLE, back=True), joints, rtol=0, atol=1e-3)


def test_two_tokens_follow_a_turn():
    "The direction to half a step, the change to what three cosines can say."
    code, frames = HeadingCode(64, FRAMES), torch.arange(FRAMES)
    angle = torch.stack([a + b * torch.cos(math.pi * (frames + 0.5) / FRAMES) for a in torch.linspace(-9, 9, 12) for b in (-1.0, 0.0, 1.5)])
    code.start(angle)
    off = torch.remainder(code.decode(code.encode(angle)) - angle + math.pi, 2 * math.pi) - math.pi
    assert off.abs().max() <= math.pi / DIRECTIONS + 1e-3


def test_a_codec_in_space_needs_tokens_for_more_than_the_heading():
    with pytest.raises(ConfigError, match="compress less"): MotionCodec(preset("cpu", "3d", 16, 16, frames=16, size=16, code_dim=4, quantizer="product"))
    MotionCodec(preset("cpu", "2d", 16, 16, frames=16, size=16, code_dim=4, quantizer="product"))


def test_heading_tokens_cost_what_even_directions_cost(spatial):
    assert spatial.bits.shape == (64, 64)
    assert torch.equal(spatial.bits[0], torch.full((64,), 6.0))
    few = HeadingCode(256, FRAMES).bits[0]
    assert (few[:DIRECTIONS] == 6).all() and few[DIRECTIONS:].isinf().all()


# --- the price of a bit ---

@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 3))
def test_priced_codes_are_the_better_buy(seed, price):
    "Distance and bits together are not more than with the codes of k-means and their lengths, however these are then chosen."
    x = torch.randn(600, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([3.0, 1.0])
    def spent(codes, bits):
        chosen = cheapest(x, codes, price * bits)
        return ((codes[chosen] - x).square().sum(-1) + price * bits[chosen]).mean().item()
    torch.manual_seed(seed)
    plain = priced_codes(x, 16, 0.0)
    torch.manual_seed(seed)
    assert spent(*priced_codes(x, 16, price)) <= spent(*plain) + 0.02 * price    # half a count is kept for codes that nobody wants


def test_a_code_that_is_farther_but_cheaper_is_chosen():
    q = ProductQuantizer(2, 1, 1)
    q.codebook.copy_(torch.tensor([[[0.0], [1.0]]])); q.bits.copy_(torch.tensor([[1.0, 4.0]]))
    z = torch.tensor([0.6, 0.9]).view(2, 1, 1, 1, 1)
    assert q(z).indices.flatten().tolist() == [1, 1]
    q.price.fill_(0.1)    # 0.36 + 0.1 against 0.16 + 0.4; 0.81 + 0.1 against 0.01 + 0.4
    assert q(z).indices.flatten().tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["2d", "3d"])
def test_dearer_bits_are_fewer(kind):
    joints, spent, off = people(range(80, 100), kind), [], []
    for price in (0.0, 3.0, 30.0):
        made = codec(kind, price)
        tokens = made.encode_joints(joints)
        spent.append(made.bits.gather(1, tokens.flatten(1).T).sum().item())
        off.append((made.decode_joints(tokens) - joints).norm(dim=-1).mean().item())
    assert spent[0] > 1.2 * spent[1] > 1.2 * spent[2] and off[0] < off[1] < off[2]


# --- what a codec knows of its tokens ---

@pytest.mark.parametrize("kind", ["2d", "3d"])
def test_a_codecs_own_frequencies_code_its_tokens(kind):
    made = codec(kind, 3.0)
    prior = (2.0**-made.bits.double()).numpy()
    np.testing.assert_allclose(prior.sum(1), 1, atol=1e-5)
    tokens = made.encode_joints(people(range(80, 100), kind))
    told = made.bits.gather(1, tokens.flatten(1).T).sum().item()
    assert lengths(tokens, 64, (), prior=prior).sum() == pytest.approx(told, rel=1e-3)
    code = encode(tokens, 64, (), prior=prior)
    assert told <= 8 * len(code) + 1 <= 1.01 * told + 64
    assert np.array_equal(decode(code, tokens.shape, 64, (), prior=prior), tokens)
    assert told < 0.9 * lengths(tokens, 64, ("place",)).sum()    # nothing had to be learnt


@pytest.mark.parametrize("prior", [np.ones((4, 8)), np.full((4, 7), 1 / 7), np.full((3, 8), 1 / 8), np.full(8, 1 / 8)])
def test_a_prior_that_does_not_fit_is_refused(prior):
    with pytest.raises(ConfigError, match="prior"): lengths(np.zeros((2, 1, 2, 2), int), 8, prior=prior)
