"What tokens cost: lengths by hand, sources whose entropy is known, and bytes from which the tokens come back."
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from motion_vq.core import ConfigError, DataError
from motion_vq.entropy import CONTEXTS, Predictor, decode, encode, lengths, sizes


@st.composite
def grids(draw):
    "Few tokens and many, of vocabularies that are used a little and a lot."
    shape = [draw(st.integers(0, 5)), *(draw(st.integers(1, 3)) for _ in range(3))]
    K, used = draw(st.integers(2, 600)), draw(st.integers(1, 600))
    return np.random.default_rng(draw(st.integers(0, 99))).integers(0, min(K, used), shape), K


def markov(n, stay, K=8, seed=0):
    "Tokens that are the same as the last with probability `stay`, and the entropy rate."
    rng = np.random.default_rng(seed)
    x = np.cumsum(np.where(rng.random(n) < stay, 0, rng.integers(1, K, n))) % K
    return x, -stay * math.log2(stay) - (1 - stay) * math.log2((1 - stay) / (K - 1))


# --- by hand ---

def test_unigram_lengths_are_those_of_witten_and_bell():
    "Counted anew with a dictionary, token by token."
    x, K, seen = np.random.default_rng(0).geometric(0.4, 60) % 10, 10, Counter()
    for token, bits in zip(x.tolist(), lengths(x.reshape(5, 3, 2, 2), K, ()).ravel()):
        n, d = sum(seen.values()), len(seen)
        assert 2.0**-bits == pytest.approx((seen[token] + d / K) / (n + d) if n else 1 / K)
        seen[token] += 1


def test_one_context_by_hand():
    "Tokens 0 1 0 1 0: with half the credit each, then shared out anew, of the token before and of the unigram model."
    x = np.array([0, 1, 0, 1]).reshape(4, 1, 1, 1)
    unigram = [1 / 2, 0.5 / 2, (1 + 1) / 4, (1 + 1) / 5]
    after = [1 / 2, 0.5 / 2, (1 + 1) / 4, (1 + 2 / 5) / 2]       # only in the last step its context, 0, was there before
    credit, expected = np.ones(2), []
    for p in np.array([unigram, after]).T:
        expected.append(credit @ p / credit.sum())
        credit = credit + credit * p / (credit @ p)
    np.testing.assert_allclose(2.0**-lengths(x, 2, ("before",)).ravel(), expected)


@settings(max_examples=25, deadline=None)
@given(grids(), st.data())
def test_predictions_are_distributions(grid, data):
    "At every token the predictions sum to one, and the one of the token that comes is what it is charged for."
    (x, K), contexts = grid, data.draw(st.lists(st.sampled_from(CONTEXTS), unique=True))
    predictor, tokens, bits = Predictor(K, contexts), x.ravel(), lengths(x, K, contexts).ravel()
    predictor.start(x.shape)
    for i, token in enumerate(tokens.tolist()):
        counts = predictor.counts(tokens, i)
        p = predictor.mixed(predictor.probabilities(counts))
        assert p.shape == (K,) and p.min() > 0 and p.sum() == pytest.approx(1) and 2.0**-bits[i] == pytest.approx(p[token])
        predictor.learn(counts, token)


# --- sources whose entropy is known ---

@pytest.mark.parametrize("stay", [0.5, 0.9, 0.99])
def test_a_markov_source_is_coded_at_its_entropy_rate(stay):
    x, rate = markov(8000, stay)
    late = {kinds: lengths(x.reshape(-1, 1, 1, 1), 8, kinds).ravel()[4000:].mean() for kinds in ((), ("before",), CONTEXTS)}
    assert late[()] == pytest.approx(3, abs=0.02), "all tokens are equally frequent"
    assert rate - 0.03 < late["before",] < rate + 0.08 and late[CONTEXTS] < rate + 0.08


@pytest.mark.parametrize("kind", CONTEXTS)
def test_each_context_looks_where_it_says(kind):
    "A copy of what the context looks at costs next to nothing, and only with that context."
    rng, shape = np.random.default_rng(0), (60, 2, 3, 3)
    x = rng.integers(0, 32, shape)
    if kind == "place": x[:] = x[0]
    if kind == "window": x[:] = (x[0] + np.arange(60)[:, None, None, None]) % 32
    if kind == "before": x[:] = (x[:1, :1] + np.arange(120).reshape(60, 2, 1, 1)) % 32
    if kind == "left": x[:] = (x[..., :1] + np.arange(3)) % 32
    if kind == "above": x[:] = (x[..., :1, :] + 5 * np.arange(3)[:, None]) % 32
    share = {k: float(np.median(lengths(x, 32, (k,))[40:, 1:, 1:, 1:])) for k in CONTEXTS}
    assert min(share, key=share.get) == kind and share[kind] < 1.7, share
    alike = {"window", "before", kind}    # the token of the frame before is, in the first frame of a window, one of the window before
    assert kind == "place" or all(v > 3 for k, v in share.items() if k not in ({kind} if kind in ("left", "above") else alike)), share


def test_training_saves_what_learning_costs():
    (x, _), (y, _) = markov(400, 0.9, K=16, seed=1), markov(6000, 0.9, K=16, seed=2)
    x, y = x.reshape(-1, 1, 1, 1), y.reshape(-1, 1, 1, 1)
    assert lengths(x, 16, training=(y,)).sum() < 0.75 * lengths(x, 16).sum()
    code = encode(x, 16, training=(y,))
    assert np.array_equal(decode(code, x.shape, 16, training=(y,)), x) and len(code) < len(encode(x, 16))


# --- bytes ---

@settings(max_examples=40, deadline=None)
@given(grids(), st.sampled_from([(), ("before",), CONTEXTS]))
def test_tokens_come_back_from_their_bytes_which_are_as_many_as_the_model_says(grid, contexts):
    x, K = grid
    code = encode(x, K, contexts)
    again = decode(code, x.shape, K, contexts)
    assert np.array_equal(again, x) and again.dtype == np.int64
    assert 8 * len(code) <= 1.01 * lengths(x, K, contexts).sum() + 64


def test_the_sizes_are_those_of_the_bytes():
    x = markov(2000, 0.9)[0].reshape(100, 5, 2, 2)
    found = sizes(x, 8)
    assert found == dict(fixed=6000.0, unigram=8 * len(encode(x, 8, ())), context=8 * len(encode(x, 8)))
    assert found["unigram"] >= lengths(x, 8, ()).sum() - 1 and found["context"] >= lengths(x, 8).sum() - 1, "no code is shorter than its model says"


# --- what is refused ---

@pytest.mark.parametrize("wrong, error, said", [
    (lambda: lengths(np.zeros((2, 2), int), 4), DataError, "windows, f, h, w"), (lambda: lengths(np.zeros((1, 1, 1, 1)), 4), DataError, "whole numbers"),
    (lambda: encode(np.full((1, 1, 1, 2), 4), 4), DataError, r"\[4, 4\], the vocabulary in \[0, 3\]"), (lambda: encode(np.full((1, 1, 1, 2), -1), 4), DataError, r"\[-1"),
    (lambda: encode(np.zeros((1, 1, 1, 1), int), 1), ConfigError, "at least 2"), (lambda: encode(np.zeros((1, 1, 1, 1), int), 4, ("below",)), ConfigError, "below"),
    (lambda: decode(b"abc", (1, 1, 1, 1), 4), DataError, "multiple of 4")])
def test_what_is_no_grid_of_tokens_is_refused(wrong, error, said):
    with pytest.raises(error, match=said): wrong()


def test_a_damaged_code_gives_other_tokens_or_an_error():
    x = markov(400, 0.9)[0].reshape(100, 1, 2, 2)
    whole, rng = encode(x, 8), np.random.default_rng(0)
    for _ in range(30):
        damaged = bytearray(whole)[:4 * rng.integers(1, len(whole) // 4 + 1)]
        damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
        try: again = decode(bytes(damaged), x.shape, 8)
        except DataError: continue
        assert again.shape == x.shape and 0 <= again.min() and again.max() < 8
