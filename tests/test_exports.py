"Tokens for other programs: what is written is read by them, comes back whole, or is refused."
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from motion_vq.core import DataError
from motion_vq.exports import load_npz, load_parquet, save_npz, save_parquet, token_digest
from motion_vq.tokens import Tokens

pq = pytest.importorskip("pyarrow.parquet")


@st.composite
def recordings(draw):
    n, shape, d = draw(st.integers(1, 4)), [draw(st.integers(1, 3)) for _ in range(3)], draw(st.sampled_from([2, 3]))
    rng, K = np.random.default_rng(draw(st.integers(0, 99))), draw(st.integers(2, 70_000))
    return Tokens(rng.integers(0, K, (n, *shape)), rng.integers(-2**40, 2**40, (n, 1 + d)), K, "feed" * 4, draw(st.integers(1, 10**6)), draw(st.floats(1, 999)),
                  draw(st.sampled_from(["coco17", "smpl22"])), "-y", draw(st.text(max_size=6, alphabet=st.characters(codec="utf-8", exclude_characters="\0"))))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(recordings(), min_size=1, max_size=3))
def test_tokens_come_back_from_both(tmp_path, made):
    save_parquet(made, tmp_path/"t.parquet"); save_npz(made[0], tmp_path/"t.npz")
    for t, again in [*zip(made, load_parquet(tmp_path/"t.parquet"), strict=True), (made[0], load_npz(tmp_path/"t.npz"))]:
        assert token_digest(again) == token_digest(t) and vars(again).keys() == vars(t).keys()
        for name, value in vars(t).items():
            assert np.array_equal(getattr(again, name), value) and type(getattr(again, name)) is type(value), name
        assert again.indices.dtype == again.placed.dtype == np.int64


ONE = Tokens(np.arange(12).reshape(3, 1, 2, 2), np.arange(12).reshape(3, 4), 12, "feed" * 4, 40, 30.0, "panoptic19", "-y", "walk")


def test_other_programs_read_them(tmp_path):
    save_npz(ONE, tmp_path/"t.npz"); save_parquet([ONE, ONE], tmp_path/"t.parquet")
    with np.load(tmp_path/"t.npz") as file: assert np.array_equal(file["indices"], ONE.indices) and file["fps"] == 30
    table = pq.read_table(tmp_path/"t.parquet")
    assert table.num_rows == 2 and table["tokens"][1].as_py() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]] and table["grid"][0].as_py() == [1, 2, 2]
    assert str(table.schema.field("tokens").type).replace("element", "item") == "list<item: list<item: int32>>" and b"motion_vq" in table.schema.metadata


@pytest.mark.parametrize("name, save, load", [("t.npz", save_npz, load_npz), ("t.parquet", lambda t, path: save_parquet([t], path), load_parquet)])
def test_damage_is_refused_or_harmless(tmp_path, name, save, load):
    "Cut anywhere: refused. A bit flipped: refused, or the tokens are still what they were (a flip in what no one reads)."
    path, rng = tmp_path/name, np.random.default_rng(0)
    save(ONE, path)
    whole, digest, refused = path.read_bytes(), token_digest(ONE), 0
    def outcome(content):
        path.write_bytes(content)
        try: found = load(path)
        except DataError as e: return str(path) in str(e)
        return [token_digest(t) for t in (found if isinstance(found, list) else [found])] == [digest] and None
    assert all(outcome(whole[:n]) is True for n in rng.integers(0, len(whole), 100))
    for at in rng.integers(len(whole), size=300):
        damaged = bytearray(whole); damaged[at] ^= 1 << int(rng.integers(8))
        result = outcome(bytes(damaged))
        assert result is not False, f"a flip at byte {at} was not noticed"
        refused += result is True
    assert refused > 100
    assert outcome(b"") is True and outcome(b"PK") is True
    with pytest.raises(DataError, match="nothing"): load(tmp_path/f"nothing{path.suffix}")


def test_what_is_no_export_is_named(tmp_path):
    np.savez(tmp_path/"a.npz", joints=np.zeros((3, 19, 3)))
    with pytest.raises(DataError, match="a.npz: no exported tokens"): load_npz(tmp_path/"a.npz")
    import pyarrow as pa
    pq.write_table(pa.table({"x": [1]}), tmp_path/"a.parquet")
    with pytest.raises(DataError, match="a.parquet: no exported tokens"): load_parquet(tmp_path/"a.parquet")
    save_npz(ONE, tmp_path/"b.npz")
    with np.load(tmp_path/"b.npz") as file: content = dict(file)
    np.savez(tmp_path/"b.npz", **content | dict(fps=25.0))
    with pytest.raises(DataError, match="b.npz: altered since"): load_npz(tmp_path/"b.npz")
