"""Panoptic files that somebody broke, or made to do harm: an error of the library, or finite heatmaps; nothing else, and nothing written."""
import hashlib
import io
import json
import os
import re
import resource
import shutil
import signal
import tarfile
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from motion_vq import panoptic
from motion_vq.core import DataError
from motion_vq.heatmaps import render
from motion_vq.panoptic import EGO_NODES, kept_3d, read_sequence, views
from motion_vq.poses import fit
from motion_vq.synthetic import cameras, motion

TAR, INNER = "hdPose3d_stage1_coco19.tar", "hdPose3d_stage1_coco19"
STANDING = np.concatenate([motion("talk", 1, seed=0)[0], np.full((19, 1), 0.5)], 1).round(3).ravel().tolist()
many = lambda n: settings(deadline=None, max_examples=n, derandomize=True, suppress_health_check=list(HealthCheck))


def weighted(*choices):
    "One of (weight, strategy)."
    return st.sampled_from([strategy for weight, strategy in choices for _ in range(weight)]).flatmap(lambda strategy: strategy)


class Raw(str): "Text that stands in the JSON as it is."


def to_json(value):
    "JSON as others write it: NaN, numbers of any length, any depth."
    if isinstance(value, Raw): return value
    if isinstance(value, dict): return "{" + ", ".join(f"{json.dumps(k)}: {to_json(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list): return "[" + ", ".join(map(to_json, value)) + "]"
    return json.dumps(value)


# --- values ---

DEEP = st.sampled_from([5, 60, 70, 500, 1000, 1030, 100_000]).flatmap(lambda n: st.sampled_from(
    ["[" * n + "]" * n, '{"a":' * n + "1" + "}" * n, "[" * n]))
ODD = st.one_of(
    st.sampled_from(["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e308", "1" * 400, "-" + "9" * 25, str(2**63), str(2**64 - 1), str(2**64),
                     "true", "false", "null", '"1.5"', '"\\ud800"', "1.", "01", "--1", "1e", "{}", "[]", "[1.5]", '{"x": 1}', "100001", "-1e5"]),
    DEEP, st.floats(allow_nan=False).map(repr), st.integers().map(str), st.text(max_size=8).map(json.dumps)).map(Raw)
EDGE = st.sampled_from(["1e5", "-1e5", "100000", "0", "-0.0", "1", "5e-324", "1e-320", "-1", "0.1", "99999.5"]).map(Raw)    # all of them legal


def changed(row, value): return st.lists(st.tuples(st.integers(0, len(row) - 1), value), max_size=4).map(
    lambda changes: [dict(changes).get(i, v) for i, v in enumerate(row)])


ROW = weighted((1, st.just(STANDING)), (2, changed(STANDING, EDGE)), (1, st.builds(lambda v: [v] * 76, EDGE)))
BODY = st.builds(lambda i, row: dict(id=i, joints19=row), st.sampled_from([0, 1, 2, -1, 2**31 - 1, -2**31]), ROW)
ODD_BODY = weighted(
    (6, st.builds(lambda row, at, v: dict(id=0, joints19=[*row[:at], v, *row[at + 1:]]), ROW, st.integers(0, 75), ODD)),
    (1, st.builds(lambda n: dict(id=0, joints19=[1.5] * n), st.sampled_from([0, 1, 75, 77, 152]))),
    (3, st.builds(lambda i: dict(id=i, joints19=STANDING), ODD)),
    (2, st.builds(lambda v: dict(id=0, joints19=v), ODD)),
    (2, st.builds(lambda v: dict(id=0, joints19=STANDING, joints26=v), ODD)),
    (1, st.sampled_from([dict(id=0), dict(joints19=STANDING), {}])), (1, ODD))
FRAME = st.lists(BODY, min_size=1, max_size=2, unique_by=lambda body: body["id"]).map(lambda bodies: dict(version=0.7, bodies=bodies))
ODD_FRAME = weighted(
    (6, st.tuples(st.lists(BODY, max_size=1), ODD_BODY).map(lambda b: dict(bodies=[*b[0], b[1]]))),
    (1, st.builds(lambda body: dict(bodies=[body, body]), BODY)),
    (1, ODD.map(lambda v: dict(bodies=v))), (1, ODD.map(lambda v: dict(bodies=[], version=v))), (1, st.just(dict(Bodies=[]))), (1, ODD))


@st.composite
def broken(draw, frames):
    "The bytes of a frame's JSON: cut, with a byte changed, or with bytes that are no UTF-8."
    data = bytearray(to_json(draw(frames)).encode("utf-8", "surrogatepass"))
    how, at = draw(st.sampled_from(["cut", "byte", "utf-8", "bom", "zeros"])), draw(st.integers(0, max(len(data) - 1, 0)))
    if how == "cut": data = data[:at]
    if how == "byte" and data: data[at] = draw(st.integers(0, 255))
    if how == "utf-8": data[at:at] = draw(st.sampled_from([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"]))
    if how == "bom": data = b"\xef\xbb\xbf" + data
    if how == "zeros": data = bytes(len(data))
    return bytes(data)


as_bytes = lambda frame: to_json(frame).encode("utf-8", "surrogatepass")
FINE = weighted((5, FRAME.map(as_bytes)), (1, st.just(b'{"bodies": []}')))
DATA = weighted((2, FINE), (5, ODD_FRAME.map(as_bytes)), (3, broken(FRAME)))


# --- where everything happens ---

@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with a good calibration; the tests make one sequence in it after the other, and look at everything around."
    root = tmp_path_factory.mktemp("foreign")
    ring, t = cameras(), panoptic.Track("", 0, 0, np.zeros((1, 19, 3)), np.ones((1, 19)))
    panoptic.write_sequence(root, "good", [t], {n: ring[n] for n in EGO_NODES[:4]})
    (root/"good"/"calibration_good.json").rename(root/"calibration.json")
    shutil.rmtree(root/"good")
    (root/"outside").mkdir()
    (root/"outside"/"precious.json").write_text("{}")
    return root


def tree(root):
    return {p.relative_to(root).as_posix(): (p.lstat().st_mtime_ns, os.readlink(p) if p.is_symlink() else p.is_file() and hashlib.sha256(p.read_bytes()).hexdigest())
            for p in root.rglob("*") if not p.is_fifo()}


SEEN = {}  # test -> outcome -> how many
AROUND = {}  # how often everything around was looked at, before and after, and how often it had changed


@pytest.fixture(scope="module", autouse=True)
def recorded(record):
    SEEN.clear()
    AROUND.update(looked=0, changed=0)
    yield
    record("panoptic", examples=SEEN, around=AROUND)


def note(test, outcome): SEEN.setdefault(test, {})[outcome] = SEEN.setdefault(test, {}).get(outcome, 0) + 1


def fresh(place, calibration=None):
    folder = place/"around"/"seq"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder/"calibration_seq.json").write_bytes((place/"calibration.json").read_bytes() if calibration is None else calibration)
    return folder


def draw_everything(sequence):
    "Every heatmap that the library makes of a sequence: finite, and in [0, 1]."
    for t in sequence.tracks:
        assert np.isfinite(t.joints).all() and np.isfinite(t.confidence).all() and (t.confidence >= 0).all()
        maps = [render(fit(t.joints, 16), 16, kind="triplane", confidence=t.confidence)]
        nodes = [n for n in EGO_NODES if n in sequence.cameras]
        for node, seen in zip(nodes[:2], views(t, sequence.cameras, nodes[:2])):
            if not seen.any(): continue
            pixels = sequence.cameras[node].project(t.joints[seen])[0]
            assert np.isfinite(pixels).all()
            maps.append(render(fit(pixels, 16), 16, combine=False, confidence=t.confidence[seen]))
        for m in maps: assert np.isfinite(m).all() and m.min() >= 0 and m.max() <= 1
        if len(nodes) >= 4: assert kept_3d(t, sequence.cameras).shape == (len(t),)


FAULTS = {"no JSON": "not valid", "archive cut or forged": "not a whole tar", "values": "not a number|beyond|is not positive|not an array|singular|finite",
          "structure": "no list|without|joints19|its id|occurs twice|not an object|a node is|no '", "nobody in it": "no body|no file body|no HD camera"}


def kind_of(message):
    "Which class of fault an error names."
    return next((f"refused: {kind}" for kind, words in FAULTS.items() if re.search(words, message.split(": ", 1)[-1])), "refused: other")


def read(place, folder, cache=False, test=None):
    "Read, and draw what could be read; nothing is written but the cache, and it makes no difference. Whether it could be read."
    before = tree(place)
    def attempt(*cache):
        try: return read_sequence(folder, *cache)
        except DataError as e:
            assert "seq" in str(e) and len(str(e)) < 700 + 2 * len(str(folder))
            return str(e)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = attempt()
        if not isinstance(plain, str): draw_everything(plain)
        if cache:
            kept = place.parent/f"{place.name}-cache"
            for again in (attempt(kept) for _ in range(2)):
                if isinstance(plain, str): assert again == plain; continue
                for s, t in zip(plain.tracks, again.tracks, strict=True):
                    assert (s.person, s.start, s.joints.tobytes(), s.confidence.tobytes()) == (t.person, t.start, t.joints.tobytes(), t.confidence.tobytes())
            shutil.rmtree(kept, ignore_errors=True)
    AROUND["looked"] += 1
    AROUND["changed"] += tree(place) != before
    assert not AROUND["changed"]
    if test: note(test, kind_of(plain) if isinstance(plain, str) else "read and drawn")
    return not isinstance(plain, str)


def write_tar(path, frames):
    with tarfile.open(path, "w") as tar:
        for frame, data in enumerate(frames):
            info = tarfile.TarInfo(f"{INNER}/body3DScene_{frame:08d}.json")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


# --- JSON ---

@many(200)
@given(st.lists(FINE, max_size=2), DATA, st.booleans())
def test_any_json_is_read_or_refused(place, fine, data, extracted):
    folder = fresh(place)
    frames = [*fine, data]
    if extracted:
        (folder/INNER).mkdir()
        for i, d in enumerate(frames): (folder/INNER/f"body3DScene_{i:08d}.json").write_bytes(d)
    else: write_tar(folder/TAR, frames)
    read(place, folder, cache=len(data) % 4 == 0, test="any JSON")


@many(40)
@given(st.lists(FRAME, min_size=1, max_size=2))
def test_what_is_legal_is_read_and_drawn(place, frames):
    "However near to its bounds; without this, the test above could pass by refusing everything."
    folder = fresh(place)
    write_tar(folder/TAR, [to_json(f).encode() for f in frames])
    assert read(place, folder, test="legal JSON")


@pytest.mark.parametrize("depth", [100, 1000, 1020, 1100, 100_000])
def test_depth_is_an_error_of_the_library(place, depth):
    deep = "[" * depth + "]" * depth
    for text in (deep, f'{{"bodies": {deep}}}', f'{{"bodies": [{deep}]}}', f'{{"bodies": [{{"id": {deep}, "joints19": []}}]}}',
                 f'{{"bodies": [{{"id": 1, "joints19": {deep}}}]}}', f'{{"bodies": [{{"id": 1, "joints19": [{deep}{", 1" * 75}]}}]}}'):
        folder = fresh(place)
        write_tar(folder/TAR, [text.encode()])
        assert not read(place, folder, test="deep JSON")


# --- calibrations ---

CAMERA = dict(name="00_00", type="hd", resolution=[1920, 1080], panel=0, node=0, K=[[1400, 0, 960], [0, 1400, 540], [0, 0, 1]],
              distCoef=[-0.2, 0.1, 0.001, 0.002, 0.05], R=np.eye(3).tolist(), t=[[0], [90], [300]])


@st.composite
def odd_camera(draw):
    camera, number = json.loads(json.dumps(CAMERA)), weighted(
        (2, ODD), (2, st.floats(-1e12, 1e12)), (1, st.floats(-2, 2)), (3, st.sampled_from([0, 1, 1e-300, 1e9, -1e9, 1e300])))
    for key in draw(st.lists(st.sampled_from(list(CAMERA)), max_size=3)):
        how = draw(st.sampled_from(["whole", "missing", *["number"] * 6]))
        if how == "missing": camera.pop(key, None)
        elif how == "whole" or not isinstance(camera.get(key), list): camera[key] = draw(number)
        else:
            inner = camera[key]
            while isinstance(inner[0], list): inner = inner[draw(st.integers(0, len(inner) - 1))]
            inner[draw(st.integers(0, len(inner) - 1))] = draw(number)
    return camera


@many(200)
@given(weighted((8, st.lists(odd_camera(), min_size=1, max_size=2)), (1, st.lists(ODD, max_size=2)), (1, ODD)), weighted((9, st.just(True)), (1, st.just(False))))
def test_any_calibration_is_read_or_refused(place, listed, whole):
    value = listed if isinstance(listed, Raw) else dict(cameras=[dict(CAMERA, node=n) for n in (5, 8, 9)] + listed)
    data = to_json(value).encode("utf-8", "surrogatepass")
    folder = fresh(place, data if whole else data[:len(data) * 2 // 3])
    write_tar(folder/TAR, [to_json(dict(bodies=[dict(id=0, joints19=STANDING)])).encode()])
    read(place, folder, cache=len(data) % 4 == 0, test="any calibration")


@pytest.mark.parametrize("node", [-1, 2**31, 2**63, 2**64 - 1, 2**64, 0.5, True])
def test_a_node_is_a_number_from_0(place, node):
    folder = fresh(place, to_json(dict(cameras=[CAMERA, dict(CAMERA, node=node)])).encode())
    write_tar(folder/TAR, [to_json(dict(bodies=[dict(id=0, joints19=STANDING)])).encode()])
    assert not read(place, folder, cache=True)


# --- archives ---

SCENE = st.integers(0, 20).map(lambda n: f"body3DScene_{n:08d}.json")
NAMES = weighted(
    (6, SCENE.map(lambda s: f"{INNER}/{s}")),
    (3, st.builds(lambda way, s: way + s, st.sampled_from(["", "../", "../../", "../outside/", "/", "/ABSOLUTE/", "a/../../", "deep/" * 50, "./"]), SCENE)),
    (2, st.sampled_from(["../outside/precious.json", "/ABSOLUTE/precious.json", "/ABSOLUTE/new.json", "../x", INNER, "", ".", "..", "\udcff.json"])))
KINDS = weighted((12, st.just(tarfile.REGTYPE)), (6, st.sampled_from(
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])),
    (1, st.sampled_from([tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE, b"V", b"M", b"L", b"x", b"K", b"g"])))
SIZES = weighted((30, st.none()), (1, st.sampled_from(
    [b"\x80" + (10 * 2**30).to_bytes(11, "big"), b"77777777777\0", b"\xff" * 12, b"-0000000010\0", b"00000000001\0", b"no number   ", bytes(12)])))
MEMBERS = st.lists(st.tuples(NAMES, KINDS, weighted((15, FINE), (1, DATA)), SIZES), min_size=1, max_size=5)


def member(place, name, kind, data, claimed):
    info = tarfile.TarInfo(name.replace("/ABSOLUTE", str(place/"outside")))
    info.type, info.linkname = kind, str(place/"outside"/"precious.json")
    info.size = len(data) if kind not in b"123456" else 0
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape"))
    if claimed:                                                         # in the member's own header, the last one
        head = len(block) - 512
        block[head + 124:head + 136], block[head + 148:head + 156] = claimed, b" " * 8
        block[head + 148:head + 156] = b"%06o\0 " % sum(block[head:])
    return bytes(block) + (data + bytes(-len(data) % 512) if info.size else b"")


@many(200)
@given(MEMBERS, weighted((5, st.just([])), (1, st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=2))),
       weighted((12, st.just(1)), (1, st.floats(0, 1))))
def test_any_archive_is_read_or_refused(place, listed, changes, part):
    data = bytearray(b"".join(member(place, *m) for m in listed) + bytes(1024))
    for where, value in changes:
        data[int(where * (len(data) - 1))] = value
    folder = fresh(place)
    (folder/TAR).write_bytes(data[:int(part * len(data))])
    read(place, folder, cache=len(data) % 1024 == 0, test="any archive")


def test_links_and_devices_are_passed_over_and_strange_names_are_only_names(place):
    body = [to_json(dict(bodies=[dict(id=0, joints19=STANDING)])).encode()] * 9
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
    data = b"".join(member(place, f"{INNER}/body3DScene_{9 + i:08d}.json", kind, b"", None) for i, kind in enumerate(kinds))
    names = ["../../body3DScene_00000001.json", "/ABSOLUTE/body3DScene_00000002.json", f"{INNER}/body3DScene_00000003.json"]
    data += b"".join(member(place, name, tarfile.REGTYPE, body[0], None) for name in names)
    folder = fresh(place)
    (folder/TAR).write_bytes(data + bytes(1024))
    assert read(place, folder)
    t, = read_sequence(folder).tracks
    assert (t.start, len(t), read_sequence(folder).frames) == (1, 3, 3)


@pytest.mark.parametrize("what", ["claimed", "archive", "frame", "calibration", "member"])
def test_ten_gigabytes_are_refused_before_they_are_read(place, what):
    "Claimed by a header, or really there as a file with a hole: nobody could read it in the memory that is allowed here."
    folder, good = fresh(place), to_json(dict(bodies=[dict(id=0, joints19=STANDING)])).encode()
    write_tar(folder/TAR, [good])
    if what == "claimed": (folder/TAR).write_bytes(member(place, "body3DScene_00000000.json", tarfile.REGTYPE, good, b"\x80" + (10 * 2**30).to_bytes(11, "big")) + bytes(1024))
    if what == "member": write_tar(folder/TAR, [good, good[:-1] + b" " * panoptic.FRAME + b"}"])
    if what == "frame":
        (folder/TAR).unlink()
        (folder/INNER).mkdir()
        (folder/INNER/"body3DScene_00000000.json").write_bytes(good)
    file = {"archive": folder/TAR, "frame": folder/INNER/"body3DScene_00000000.json", "calibration": folder/"calibration_seq.json"}.get(what)
    if file: os.truncate(file, 10 * 2**30)
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() if os.path.exists("/proc/self/statm") else 2**40
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, before[1]))
    try:
        with pytest.raises(DataError, match="the most it can have|ends before"): read_sequence(folder)
        note("ten gigabytes", "refused: size")
    finally: resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def no_waiting():
    "A call that waits for ever is a failure, too."
    def stop(*_): raise AssertionError("still waiting")                 # no OSError, which is what a reader expects
    old = signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)


def test_pipes_and_devices_in_the_place_of_files_are_not_waited_for(place, no_waiting):
    good = to_json(dict(bodies=[dict(id=0, joints19=STANDING)])).encode()
    for file in ("calibration_seq.json", TAR, f"{INNER}/body3DScene_00000001.json"):
        for make in (os.mkfifo, lambda p: os.symlink("/dev/zero", p), os.mkdir, lambda p: os.symlink("nowhere", p)):
            folder = fresh(place)
            (folder/INNER).mkdir()
            (folder/INNER/"body3DScene_00000000.json").write_bytes(good)
            (folder/file).unlink(missing_ok=True)
            make(folder/file)
            try: assert read_sequence(folder).frames == 1 and file != "calibration_seq.json"
            except DataError as e: assert "seq" in str(e)
    shutil.rmtree(folder)
