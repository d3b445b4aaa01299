"""Checkpoints that are cut, altered, or something else in disguise: one class of error, and nothing damaged is ever loaded."""
import hashlib
import pickle
import re
import struct
from dataclasses import asdict

import numpy as np
import orjson
import pytest
import torch

from motion_vq.checkpoints import load_checkpoint, pack, save_checkpoint
from motion_vq.core import CheckpointError, sha256_json, write_json
from motion_vq.networks import preset
from motion_vq.training import load_model
from motion_vq.vqgan import VQGAN

CONFIG = preset("smoke", "3d", codebook_size=16, widths=(8, 8, 8, 8), code_dim=8, disc_widths=(8, 8, 8))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A folder with a checkpoint, and the bytes of its two files: description and tensors."
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder, "last", pack(model=VQGAN(CONFIG)), dict(step=7, name="vqgan", model=asdict(CONFIG), lr=0.1 + 0.2, best=1e-9, note="\u00e4"))
    description, tensors = folder/"last.json", next(folder.glob("*.safetensors"))
    return {path: path.read_bytes() for path in (description, tensors)}


@pytest.fixture
def files(whole):
    for path, data in whole.items(): path.write_bytes(data)
    yield list(whole)
    for path, data in whole.items(): path.write_bytes(data)


TRIED = {}  # kind of damage -> file -> how many were tried, refused, loaded without a word; tried and refused in each twentieth of the file; why


@pytest.fixture(scope="module", autouse=True)
def recorded(record):
    TRIED.clear()
    yield
    record("checkpoints", damage=TRIED)


def silent(whole, path, damaged, load=load_model, kind="other damage"):
    "How many of some damaged versions of a file are loaded without a word; any error but `CheckpointError` is raised."
    description, tensors = whole
    note = TRIED.setdefault(kind, {}).setdefault("tensors" if path == tensors else "description", dict(tried=0, refused=0, silent=0, places=[0] * 20, noticed=[0] * 20, reasons={}))
    count = 0
    for data in damaged:
        assert data != whole[path]
        path.write_bytes(data)
        where = int(20 * place(whole[path], data))
        note["tried"] += 1
        note["places"][where] += 1
        try: load(description)
        except CheckpointError as e:
            note["refused"] += 1
            note["noticed"][where] += 1
            why = re.split(r" in |[:(]", str(e).replace(f"{description}: ", "").replace(f"{tensors}: ", ""))[0].strip()
            note["reasons"][why] = note["reasons"].get(why, 0) + 1
            continue
        count += 1
    note["silent"] += count
    return count


def place(whole, damaged):
    "Where along a file the first byte is that differs, or fails: 0 ... 1."
    a, b = (np.frombuffer(data[:min(len(whole), len(damaged))], np.uint8) for data in (whole, damaged))
    differ = np.flatnonzero(a != b)
    return min(int(differ[0]) if len(differ) else len(a), len(whole) - 1) / len(whole)


def header_size(data): return 8 + struct.unpack("<Q", data[:8])[0]


def flips(data, n, seed):
    "`n` versions of the bytes with one bit flipped, somewhere."
    rng = np.random.default_rng(seed)
    for bit in rng.choice(len(data) * 8, min(n, len(data) * 8), replace=False).tolist():
        yield data[:bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1:]


def test_the_whole_one_is_loaded(files):
    tensors, meta = load_checkpoint(files[0])
    model = load_model(files[0], "vqgan")
    assert meta["step"] == 7 and all(torch.equal(v, tensors[f"model.{k}"]) for k, v in model.state_dict().items())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    "The same of three tensors, with a header that can be tried bit by bit."
    folder = tmp_path_factory.mktemp("small")
    tensors = {"model.a": torch.arange(6.).reshape(2, 3), "opt.0.step": torch.tensor(3.), "opt.0.exp_avg": torch.ones(2)}
    save_checkpoint(folder, "last", tensors, dict(step=7, name="vqgan", lr=0.1 + 0.2, best=1e-9, note="\u00e4"))
    return {path: path.read_bytes() for path in (folder/"last.json", next(folder.glob("*.safetensors")))}


def each(whole, which):
    "One of two files; both are whole again afterwards."
    path = list(whole)[which]
    try: yield path, whole[path]
    finally: path.write_bytes(whole[path])


BOTH = pytest.mark.parametrize("which", [0, 1], ids=["description", "tensors"])


@BOTH
def test_every_cut_and_every_flipped_bit_of_a_small_one(small, which):
    for path, data in each(small, which):
        assert silent(small, path, (data[:n] for n in range(len(data))), load_checkpoint, "cut at every byte (small)") == 0
        assert silent(small, path, flips(data, 10**9, seed=2), load_checkpoint, "every bit flipped (small)") == 0


@BOTH
def test_a_model_cut_or_with_one_bit_flipped(whole, which):
    "At 300 places and 1,000 bits of each file, and at every sixteenth byte of the tensors' header."
    for path, data in each(whole, which):
        places = np.random.default_rng(0).integers(0, len(data), 300).tolist() + list(range(0, header_size(data), 16) if which else ())
        assert silent(whole, path, (data[:n] for n in places), kind="cut (model)") == 0
        assert silent(whole, path, flips(data, 1000, seed=which), kind="bit flipped (model)") == 0


@pytest.mark.parametrize("damage", [
    lambda d: d + b"\0", lambda d: d[1:], lambda d: bytes(len(d)), lambda d: b"", lambda d: d[:100] + d[200:], lambda d: d + d], ids=range(6))
@pytest.mark.parametrize("which", [0, 1], ids=["description", "tensors"])
def test_coarser_damage(whole, files, which, damage):
    assert silent(whole, files[which], [damage(whole[files[which]])]) == 0


class Bomb:
    def __reduce__(self): return exec, ("raise SystemExit('a pickle was opened')",)


@pytest.mark.parametrize("data", [pickle.dumps(Bomb()), pickle.dumps({"model.x": Bomb()}, protocol=0)], ids=["binary", "text"])
def test_a_pickle_in_disguise_is_refused_unread(whole, files, data, tmp_path):
    "In the place of either file, under its digest or not: nothing of it is run."
    with pytest.raises(SystemExit): pickle.loads(data)                  # it does bite
    description, tensors = files
    assert silent(whole, description, [data], kind="pickle in disguise") == 0
    description.write_bytes(whole[description])
    assert silent(whole, tensors, [data], kind="pickle in disguise") == 0
    forged(whole, files, data)
    refused(description)
    torch.save({"model": Bomb()}, tmp_path/"model.pt")
    with pytest.raises(CheckpointError): load_model(tmp_path/"model.pt")


def forged(whole, files, data, **changes):
    "A description whose digests fit: of these bytes as tensors, or with these changes."
    description, tensors = files
    meta = orjson.loads(whole[description])
    del meta["digest"]
    meta |= dict(sha256=hashlib.sha256(data).hexdigest()) | changes
    meta = {k: v for k, v in meta.items() if v is not ...}
    tensors.write_bytes(data)
    write_json(description, dict(meta, digest=sha256_json(meta)))


def refused(description, file="description"):
    "A checkpoint whose digests fit: an error all the same."
    note = TRIED.setdefault("forged, digest fits", {}).setdefault(file, dict(tried=0, refused=0, silent=0))
    note["tried"] += 1
    try: load_model(description)
    except CheckpointError: note["refused"] += 1
    else:
        note["silent"] += 1
        pytest.fail(f"{description}: was loaded")


@pytest.mark.parametrize("changes", [
    dict(file=...), dict(file=3), dict(file=None), dict(file="a\0b"), dict(sha256=...), dict(name=["vqgan"]), dict(model=[]),
    dict(model=None), dict(model=dict(widths=None)), dict(model=dict(codebook_size="many")),
    dict(file="nowhere.safetensors"), dict(file="."), dict(sha256=None), dict(name=...), dict(name="other"), dict(model=...), dict(model=dict(depth=3)),
    dict(model=dict(codebook_size=-1)), dict(model=asdict(CONFIG) | dict(code_dim=16)),
], ids=str)
def test_a_description_that_fits_its_digest_but_no_model(whole, files, changes):
    forged(whole, files, whole[files[1]], **changes)
    refused(files[0])


def test_tensors_that_fit_their_digest_but_are_none(whole, files):
    data = whole[files[1]]
    end = header_size(data)
    for bad in (b"", b"\0" * 8, data[:end], data[:-1], data + b"\0", struct.pack("<Q", 2**60) + data[8:], data[:8] + b"[" * (end - 8) + data[end:],
                data.replace(b'"F32"', b'"F99"', 1), data.replace(b"model.", b"madel.", 1)):
        forged(whole, files, bad)
        refused(files[0], "tensors")
