"""Reading, splitting and writing of Panoptic sequences, against handmade archives."""
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motion_vq import layout, panoptic
from motion_vq.core import ConfigError, DataError

TAR, INNER = "hdPose3d_stage1_coco19.tar", "hdPose3d_stage1_coco19"
MOCAP = Path(__file__).parents[2]/"shared"/"mocap"


def numbers(seed=0, **changes):
    "76 numbers as the server writes them: four decimals, confidence in the fourth place."
    rng = np.random.default_rng(seed)
    xyz, confidence = rng.uniform(-200, 200, (19, 3)).round(4), rng.uniform(0, 1, (19, 1)).round(4)
    row = np.concatenate([xyz, confidence], 1).ravel().tolist()
    for i, value in changes.items(): row[int(i[1:])] = value
    return row


def scene(*bodies): return json.dumps({"version": 0.7, "univTime": 1.0, "fpsType": "hd_29_97",
                                       "bodies": [{"id": i, "joints19": row} for i, row in bodies]}).encode()


def calibration(nodes=(0, 1), **changes):
    cameras = [{"name": f"00_{n:0>2}", "type": "hd", "resolution": [1920, 1080], "panel": 0, "node": n,
                "K": [[1400 + int(n), 0, 960], [0, 1400, 540], [0, 0, 1]], "distCoef": [-0.2, 0.1, 0.001, 0.002, 0.05],
                "R": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "t": [[1.5], [90], [300]], **changes} for n in nodes]
    vga = {"name": "01_01", "type": "vga", "panel": 1, "node": 1}       # without anything else: must not be looked at
    return {"calibDataSource": "x", "cameras": [vga, *cameras, {"type": "hd", "panel": 3, "node": 99}, {"type": "kinect-color", "panel": 50, "node": 1}]}


def tar_of(members, path):
    "An archive by hand: members are (name, bytes) or a `TarInfo`."
    with tarfile.open(path, "w") as tar:
        for m in members:
            if isinstance(m, tarfile.TarInfo): tar.addfile(m); continue
            info = tarfile.TarInfo(m[0])
            info.size = len(m[1])
            tar.addfile(info, io.BytesIO(m[1]))


def member(frame, data): return f"{INNER}/body3DScene_{frame:08d}.json", data


def sequence(root, frames, name="seq", extracted=False):
    "A sequence's folder from {frame: bytes} or a list of members."
    folder = root/name
    folder.mkdir(parents=True)
    (folder/f"calibration_{name}.json").write_text(json.dumps(calibration()))
    members = [member(*f) for f in frames.items()] if isinstance(frames, dict) else frames
    if extracted:
        (folder/INNER).mkdir()
        for path, data in members: (folder/path).write_bytes(data)
    else: tar_of(members, folder/TAR)
    return folder


def spans(seq): return [(t.person, t.start, len(t)) for t in seq.tracks]


def files(folder): return sorted((p.relative_to(folder).as_posix(), p.stat().st_mtime_ns) for p in folder.rglob("*"))


# ---------------------------------------------------------------- the paper's cameras

def test_nodes_are_those_of_the_paper():
    assert panoptic.EGO_NODES == (0, 3, 5, 8, 9, 14, 15, 23, 24, 25)
    assert panoptic.EXO_NODES == (1, 2, 4, 6, 7, 10, 13, 17, 19, 28)


# ---------------------------------------------------------------- splitting into tracks

def oracle(presence):
    "Walk through a table of presence (frames x persons): {(person, start, frames)}."
    found = set()
    for person in range(presence.shape[1]):
        start = None
        for frame in range(len(presence) + 1):
            here = frame < len(presence) and presence[frame, person]
            if here and start is None: start = frame
            if not here and start is not None: found.add((person, start, frame - start)); start = None
    return found


PRESENCE = st.integers(1, 4).flatmap(lambda persons: st.lists(
    st.lists(st.booleans(), min_size=persons, max_size=persons), min_size=1, max_size=12)).map(np.array)


@settings(deadline=None, max_examples=80)
@given(PRESENCE, st.randoms())
def test_split_tracks_against_a_walk(presence, random):
    rows = list(zip(*map(np.ndarray.tolist, np.nonzero(presence))))
    random.shuffle(rows)
    frames, persons = [f for f, _ in rows], [p for _, p in rows]
    tracks = panoptic.split_tracks(frames, persons)
    assert sorted(r for t in tracks for r in t.tolist()) == list(range(len(rows)))    # every row, once
    found = []
    for t in tracks:
        assert len({persons[r] for r in t}) == 1
        assert [frames[r] for r in t] == list(range(frames[t[0]], frames[t[0]] + len(t)))
        found.append((persons[t[0]], frames[t[0]], len(t)))
    assert found == sorted(oracle(presence))


@settings(deadline=None, max_examples=25)
@given(PRESENCE, st.sets(st.integers(0, 11), max_size=3), st.integers(0, 99))
def test_read_sequence_against_a_walk(tmp_path_factory, presence, missing, seed):
    "Some frames have no bodies, some no file at all: both end the tracks, only the former are counted."
    presence = presence.copy()
    presence[sorted(m for m in missing if m < len(presence))] = False
    frames = {f: scene(*((int(p), numbers(100*f + int(p))) for p in np.flatnonzero(row)[::-1]))
              for f, row in enumerate(presence) if f not in missing}
    order = np.random.default_rng(seed).permutation(sorted(frames)).tolist()
    root = tmp_path_factory.mktemp("p")
    if not presence.any():
        with pytest.raises(DataError): panoptic.read_sequence(sequence(root, {f: frames[f] for f in order}))
        return
    seq = panoptic.read_sequence(sequence(root, {f: frames[f] for f in order}))
    assert spans(seq) == sorted(oracle(presence))
    assert seq.frames == len(frames)
    assert seq.empty == sum(not presence[f].any() for f in frames)
    for t in seq.tracks:
        for i in range(len(t)):
            expected = np.array(numbers(100*(t.start + i) + t.person), dtype=np.float32).reshape(19, 4)
            assert (t.joints[i] == expected[:, :3]).all() and (t.confidence[i] == expected[:, 3]).all()


# ---------------------------------------------------------------- reading

def test_tar_and_folder_read_alike_and_write_nothing(tmp_path):
    frames = {100: scene((3, numbers(0)), (1, numbers(1))), 102: scene((3, numbers(2))), 101: scene((3, numbers(3)))}
    a, b = sequence(tmp_path/"a", frames), sequence(tmp_path/"b", frames, extracted=True)
    before = files(tmp_path)
    x, y = panoptic.read_sequence(a), panoptic.read_sequence(str(b))
    assert files(tmp_path) == before
    assert spans(x) == spans(y) == [(1, 100, 1), (3, 100, 3)]
    assert all((s.joints == t.joints).all() and (s.confidence == t.confidence).all() for s, t in zip(x.tracks, y.tracks))
    assert x.name == "seq" and x.path == a and x.tracks[0].sequence == "seq" and list(x.cameras) == [0, 1]
    t = x.tracks[1]
    assert t.joints.shape == (3, 19, 3) and t.confidence.shape == (3, 19)
    assert t.joints.dtype == t.confidence.dtype == np.float32
    assert t.joints[1].ravel().tolist() == np.array(numbers(3), np.float32).reshape(19, 4)[:, :3].ravel().tolist()


def test_relative_path_keeps_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(sequence(tmp_path, {1: scene((0, numbers()))}))
    assert panoptic.read_sequence(".").name == "seq"


def test_frames_are_sorted_by_number_where_names_sort_otherwise(tmp_path):
    members = [(f"{d}/body3DScene_{f:08d}.json", scene((0, numbers(f)))) for d, f in (("a", 12), ("c", 10), ("b", 11))]
    track, = panoptic.read_sequence(sequence(tmp_path, members)).tracks
    assert (track.start, len(track)) == (10, 3)
    assert track.joints[2, 0, 0] == np.float32(numbers(12)[0])


def test_only_regular_files_of_the_right_name_are_read(tmp_path):
    good = scene((0, numbers()))
    link, hard, fifo, directory = (tarfile.TarInfo(f"{INNER}/body3DScene_{f:08d}.json") for f in (2, 3, 4, 5))
    for info, kind in (link, tarfile.SYMTYPE), (hard, tarfile.LNKTYPE), (fifo, tarfile.FIFOTYPE), (directory, tarfile.DIRTYPE):
        info.type = kind
    link.linkname, hard.linkname = "/etc/passwd", f"{INNER}/body3DScene_00000001.json"
    names = ["readme.json", f"{INNER}/._body3DScene_00000006.json", f"{INNER}/body3DScene_7.json",
             f"{INNER}/body3DScene_00000008.json.bak", f"{INNER}/xbody3DScene_00000009.json"]
    outside = ("../../body3DScene_00000010.json", good)
    long = (f"{INNER}/{'long/'*40}body3DScene_00000011.json", good)     # a GNU long name: two headers
    folder = sequence(tmp_path/"in", [member(1, good), link, hard, fifo, directory, *((n, b"no JSON") for n in names), outside, long])
    before = files(tmp_path)
    seq = panoptic.read_sequence(folder)
    assert seq.frames == 3 and spans(seq) == [(0, 1, 1), (0, 10, 2)]
    assert files(tmp_path) == before


def test_negative_confidence_becomes_zero_and_the_rest_is_kept(tmp_path):
    row = numbers(0, i3=-1, i7=-0.25, i11=0, i15=0.0625)
    track, = panoptic.read_sequence(sequence(tmp_path, {5: scene((0, row))})).tracks
    assert track.confidence[0, :4].tolist() == [0, 0, 0, 0.0625]
    assert (track.joints[0, 0] == np.float32(row[:3])).all()            # the position stays


def test_positions_may_be_integers_and_must_be_within_a_kilometre(tmp_path):
    track, = panoptic.read_sequence(sequence(tmp_path/"a", {5: scene((0, numbers(0, i0=7, i1=-100000)))})).tracks
    assert track.joints[0, 0, :2].tolist() == [7, -1e5]
    with pytest.raises(DataError): panoptic.read_sequence(sequence(tmp_path/"b", {5: scene((0, numbers(0, i1=-100001)))}))


def test_an_id_may_pass_between_people_only_over_a_gap(tmp_path):
    frames = {1: scene((0, numbers())), 2: scene((0, numbers())), 3: scene((1, numbers())), 4: scene((0, numbers())), 6: scene((0, numbers()))}
    assert spans(panoptic.read_sequence(sequence(tmp_path, frames))) == [(0, 1, 2), (0, 4, 1), (0, 6, 1), (1, 3, 1)]


# ---------------------------------------------------------------- bad input

GOOD = {7: scene((0, numbers(7))), 8: scene((0, numbers(8))), 9: scene((0, numbers(9)))}
BROKEN = {
    "broken JSON": GOOD[8][:-5],
    "empty file": b"",
    "not UTF-8": GOOD[8].replace(b"hd_29_97", b"hd_\xff\xfe"),
    "holes": bytes(len(GOOD[8])),
    "NaN": GOOD[8].replace(b"[", b"[NaN, ", 2),
    "infinite": scene((0, numbers())).replace(str(numbers()[0]).encode(), b"1e400"),
    "absurd": scene((0, numbers(0, i5=1.5e5))),
    "absurd confidence": scene((0, numbers(0, i3=1e300))),
    "short": scene((0, numbers()[:75])),
    "long": scene((0, numbers() + [1.0])),
    "text": scene((0, numbers(0, i4="1.5"))),
    "null": scene((0, numbers(0, i4=None))),
    "bool": scene((0, numbers(0, i4=True))),
    "nested": scene((0, numbers(0, i4=[1.5]))),
    "joints19 an object": scene((0, {"x": 1})),
    "joints19 null": scene((0, None)),
    "id a text": scene(("0", numbers())),
    "id a float": scene((0.5, numbers())),
    "id a bool": scene((True, numbers())),
    "id huge": scene((2**63, numbers())),
    "id twice": scene((4, numbers(1)), (5, numbers(2)), (4, numbers(3))),
    "no id": json.dumps({"bodies": [{"joints19": numbers()}]}).encode(),
    "no joints19": json.dumps({"bodies": [{"id": 0, "joints15": numbers()}]}).encode(),
    "no bodies": b'{"version": 0.7}',
    "bodies null": b'{"bodies": null}',
    "bodies an object": b'{"bodies": {}}',
    "a body a number": b'{"bodies": [3]}',
    "a list": b"[1, 2]",
    "a number": b"3",
    "a text": b'"bodies"',
    "deep": b'{"bodies": ' + b"["*5000 + b"]"*5000 + b"}",
}


@pytest.mark.parametrize("extracted", [False, True], ids=["tar", "folder"])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_bad_frame_is_named(tmp_path, kind, extracted):
    folder = sequence(tmp_path, {**GOOD, 8: BROKEN[kind]}, extracted=extracted)
    with pytest.raises(DataError) as e: panoptic.read_sequence(folder)
    message = str(e.value)
    assert message.startswith(str(folder/INNER/"body3DScene_00000008.json" if extracted else folder/TAR) + ": ")
    assert "sequence seq" in message and "frame 8" in message
    assert any(way in message for way in ("repair or remove the frame", "is this a file of", "download the sequence again"))
    assert len(message) < 600


def test_the_absurd_joint_is_named(tmp_path):
    folder = sequence(tmp_path, {**GOOD, 8: scene((2, numbers()), (6, numbers(0, i21=-2e5)))})
    with pytest.raises(DataError, match="frame 8, body 6, joint 5: .*-200000.0"): panoptic.read_sequence(folder)


def test_a_truncated_archive_never_reads_as_a_shorter_one(tmp_path):
    folder = sequence(tmp_path, GOOD)
    whole = (folder/TAR).read_bytes()
    with tarfile.open(folder/TAR) as tar: ends = [m.offset_data + (m.size + 511)//512*512 for m in tar]
    for cut in sorted({0, 1, 511, 512, 600, 1024, *ends, *(e - 100 for e in ends), *(e + 100 for e in ends), ends[-1] + 511}):
        (folder/TAR).write_bytes(whole[:cut])
        with pytest.raises(DataError, match="sequence seq, .*not a whole tar archive.*download it again") as e: panoptic.read_sequence(folder)
        if cut >= ends[1]: assert "after frame" in str(e.value)
    (folder/TAR).write_bytes(whole[:ends[-1] + 1024])                   # no padding to a record, but the end is there
    assert panoptic.read_sequence(folder).frames == 3


def test_a_damaged_header_is_not_the_end(tmp_path):
    folder = sequence(tmp_path, GOOD)
    with tarfile.open(folder/TAR) as tar: start = tar.getmembers()[1].offset
    whole = (folder/TAR).read_bytes()
    for block in (b"\xff"*512, bytes(512)):                             # noise; a hole that looks like the end
        (folder/TAR).write_bytes(whole[:start] + block + whole[start + 512:])
        with pytest.raises(DataError, match="after frame 7: not a whole tar"): panoptic.read_sequence(folder)
    (folder/TAR).write_bytes(whole[:start] + bytes(2**21))              # space reserved, never filled
    with pytest.raises(DataError, match="after frame 7: not a whole tar"): panoptic.read_sequence(folder)


def test_a_negative_size_does_not_go_round_in_circles(tmp_path):
    folder = sequence(tmp_path, GOOD)
    with tarfile.open(folder/TAR) as tar: start = tar.getmembers()[1].offset
    data = bytearray((folder/TAR).read_bytes())
    data[start + 124:start + 136] = (-512).to_bytes(12, "big", signed=True)                # the size, in base 256
    data[start + 148:start + 156] = b" "*8
    data[start + 148:start + 156] = b"%06o\0 " % sum(data[start:start + 512])               # the header's checksum
    (folder/TAR).write_bytes(data)
    with pytest.raises(DataError, match="after frame 7: not a whole tar"): panoptic.read_sequence(folder)


def test_not_a_tar(tmp_path):
    folder = sequence(tmp_path, GOOD)
    (folder/TAR).write_bytes(b"<html>503 Service Unavailable</html>"*100)
    with pytest.raises(DataError, match="not a whole tar archive"): panoptic.read_sequence(folder)


def test_missing_files_say_what_to_download(tmp_path):
    folder = sequence(tmp_path, GOOD)
    (folder/TAR).rename(folder/"x")
    with pytest.raises(DataError, match=r"seq/hdPose3d_stage1_coco19\.tar: sequence seq: no such file.*download it"): panoptic.read_sequence(folder)
    (folder/"x").rename(folder/TAR)
    (folder/"calibration_seq.json").unlink()
    with pytest.raises(DataError, match=r"calibration_seq\.json: no such file; .*download it"): panoptic.read_sequence(folder)
    with pytest.raises(DataError, match="sequence nowhere: no such folder"): panoptic.read_sequence(tmp_path/"nowhere")


def test_a_frame_twice_is_named(tmp_path):
    members = [member(7, GOOD[7]), member(8, GOOD[8]), ("elsewhere/body3DScene_00000007.json", GOOD[7])]
    with pytest.raises(DataError, match="sequence seq, frame 7: occurs twice"): panoptic.read_sequence(sequence(tmp_path, members))


@pytest.mark.parametrize("frames, why", [({}, "no file body3DScene"), ({1: scene(), 2: scene()}, "no body in any of 2 frames")])
def test_nothing_to_read_is_an_error(tmp_path, frames, why):
    for extracted in (False, True):
        folder = sequence(tmp_path/str(extracted), frames, extracted=extracted)
        with pytest.raises(DataError, match=f"sequence seq: {why}"): panoptic.read_sequence(folder)


# ---------------------------------------------------------------- calibration

def test_calibration_by_hand(tmp_path):
    path = tmp_path/"calibration_seq.json"
    path.write_text(json.dumps(calibration((7, 3))))
    cameras = panoptic.read_calibration(path)
    assert set(cameras) == {3, 7}
    c = cameras[7]
    assert (c.name, c.panel, c.node, c.resolution) == ("00_07", 0, 7, (1920, 1080))
    assert c.K[0, 0] == 1407 and c.dist.tolist() == [-0.2, 0.1, 0.001, 0.002, 0.05] and c.t.tolist() == [1.5, 90, 300]
    assert c.K.dtype == c.dist.dtype == c.R.dtype == c.t.dtype == np.float64
    # a point at (100 - 1.5, 0 - 90, 700 - 300) is at (100, 0, 700) of the camera: x' = 1/7, y' = 0, r2 = 1/49
    x, r2 = 1/7, 1/49
    distorted = x*(1 - 0.2*r2 + 0.1*r2**2 + 0.05*r2**3) + 0.002*(r2 + 2*x*x)
    pixels, depth = c.project(np.array([[98.5, -90.0, 400.0]]))
    assert np.allclose(pixels, [[1407*distorted + 960, 1400*0.001*r2 + 540]]) and np.allclose(depth, 700)


BAD = {
    "K shape": dict(K=[[1, 2], [3, 4]]), "K ragged": dict(K=[[1, 2, 3], [4]]), "K text": dict(K=[["1", "0", "0"]]*3),
    "K null": dict(K=None), "distortion of four": dict(distCoef=[0, 0, 0, 0]), "R no rotation": dict(R=[[2, 0, 0], [0, 1, 0], [0, 0, 1]]),
    "t of two": dict(t=[[1], [2]]), "t bool": dict(t=[True, False, True]), "no size": dict(resolution=[0, 1080]),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_camera_is_named(tmp_path, kind):
    path = tmp_path/"calibration_seq.json"
    path.write_text(json.dumps(calibration((4,), **BAD[kind])))
    with pytest.raises(DataError, match=r"calibration_seq\.json: HD camera 4: "): panoptic.read_calibration(path)


def test_bad_calibrations(tmp_path):
    path = tmp_path/"calibration_seq.json"
    lacking = calibration((4,))
    del lacking["cameras"][1]["R"]
    for value, why in [(calibration((4, 4)), "HD camera 4: a node"), (calibration(()), "no HD camera"), ([], "no list 'cameras'"),
                       ({"cameras": {}}, "no list 'cameras'"), ({"cameras": [5]}, "camera 0 is not"), (lacking, "no 'R'"),
                       (calibration(("4",)), "HD camera '4': a node")]:
        path.write_text(json.dumps(value))
        with pytest.raises(DataError, match=why): panoptic.read_calibration(path)
    for data in b"{", b'{"cameras": "\xff"}', b"":
        path.write_bytes(data)
        with pytest.raises(DataError, match="not valid JSON.*download it: .*--sequences seq$"): panoptic.read_calibration(path)


# ---------------------------------------------------------------- writing

def track(person=0, start=100, frames=3, seed=0, **changes):
    rng = np.random.default_rng(seed)
    joints, confidence = rng.normal(0, 100, (frames, 19, 3)).astype(np.float32), rng.uniform(0, 1, (frames, 19)).astype(np.float32)
    return panoptic.Track(**{**dict(sequence="", person=person, start=start, joints=joints, confidence=confidence), **changes})


@pytest.fixture
def cameras(tmp_path):
    path = tmp_path/"c.json"
    path.write_text(json.dumps(calibration(range(31))))
    return panoptic.read_calibration(path)


def same(a, b): return (a.person, a.start) == (b.person, b.start) and (a.joints == b.joints).all() and (a.confidence == b.confidence).all()


def test_round_trip_is_exact(tmp_path, cameras):
    tracks = [track(0, 100, 3, 0), track(0, 107, 2, 1), track(5, 101, 4, 2)]
    folder = panoptic.write_sequence(tmp_path/"train", "one", tracks, cameras)
    assert folder == tmp_path/"train"/"one"
    assert sorted(p.name for p in folder.iterdir()) == ["calibration_one.json", TAR]
    seq = panoptic.read_sequence(folder)
    assert (seq.frames, seq.empty) == (9, 2)
    assert len(seq.tracks) == 3 and all(map(same, seq.tracks, tracks))
    for n, c in cameras.items():
        d = seq.cameras[n]
        assert (d.name, d.node, d.panel, d.resolution) == (c.name, c.node, c.panel, c.resolution)
        assert all((getattr(c, k) == getattr(d, k)).all() for k in ("K", "dist", "R", "t"))


def test_the_layout_is_the_servers(tmp_path, cameras):
    folder = panoptic.write_sequence(tmp_path, "one", [track(3, 4, 2)], cameras)
    with tarfile.open(folder/TAR) as tar:
        assert tar.getnames() == [f"{INNER}/body3DScene_0000000{f}.json" for f in (4, 5)]
        frame = json.load(tar.extractfile(tar.getnames()[0]))
        assert all(m.isreg() and m.mtime == m.uid == m.gid == 0 for m in tar)
    assert list(frame) == ["version", "univTime", "fpsType", "bodies"] and frame["fpsType"] == "hd_29_97"
    body, = frame["bodies"]
    assert body["id"] == 3 and len(body["joints19"]) == 76
    assert np.float32(body["joints19"][4]) == track(3, 4, 2).joints[0, 1, 0]
    camera = json.loads((folder/"calibration_one.json").read_text())["cameras"][30]
    assert camera == calibration((30,))["cameras"][1]


def test_bytes_depend_on_the_arguments_alone(tmp_path, cameras):
    tracks = [track(0, 100, 3, 0), track(5, 101, 4, 2)]
    a = panoptic.write_sequence(tmp_path/"a", "one", tracks, cameras)
    b = panoptic.write_sequence(tmp_path/"b", "one", tracks[::-1], dict(reversed(cameras.items())))
    assert all((a/p).read_bytes() == (b/p).read_bytes() for p in os.listdir(a))


def test_a_failed_write_leaves_what_was_there(tmp_path, cameras, monkeypatch):
    monkeypatch.setattr(tarfile.TarFile, "close", lambda self: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError): panoptic.write_sequence(tmp_path, "one", [track()], cameras)
    assert not os.listdir(tmp_path/"one")
    monkeypatch.undo()
    folder = panoptic.write_sequence(tmp_path, "one", [track()], cameras)
    before = files(folder)
    monkeypatch.setattr(layout, "_camera_json", lambda c: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError): panoptic.write_sequence(tmp_path, "one", [track(seed=1)], cameras)
    assert files(folder) == before


@pytest.mark.parametrize("tracks", [
    [], [track(), track(start=102)], [track(joints=np.zeros((3, 17, 3)), confidence=np.ones((3, 17)))],
    [track(joints=np.zeros((0, 19, 3)), confidence=np.ones((0, 19)))], [track(joints=np.full((3, 19, 3), np.nan))],
    [track(start=-1)], [track(start=10**8 - 1)], [track(confidence=np.ones((2, 19)))],
], ids=["none", "overlap", "17 joints", "no frames", "NaN", "negative", "nine digits", "confidence"])
def test_tracks_that_cannot_be_written(tmp_path, cameras, tracks):
    with pytest.raises(DataError, match="one"): panoptic.write_sequence(tmp_path, "one", tracks, cameras)
    assert not (tmp_path/"one").exists()


def test_a_name_is_one_folder(tmp_path, cameras):
    for name in "../one", "..", ".", "", "a/b":
        with pytest.raises(ConfigError): panoptic.write_sequence(tmp_path, name, [track()], cameras)


# ---------------------------------------------------------------- splits

def test_any_root_with_train_and_validation(tmp_path, capfd):
    for name in "b", "a": sequence(tmp_path/"train", GOOD, name)
    (tmp_path/"train"/".hidden").mkdir()
    (tmp_path/"train"/"notes.txt").write_text("x")
    assert panoptic.list_sequences(tmp_path, "train") == [tmp_path/"train"/"a", tmp_path/"train"/"b"]
    assert [s.name for s in panoptic.read_split(str(tmp_path), "train")] == ["a", "b"]
    assert capfd.readouterr() == ("", "")
    panoptic.read_split(tmp_path, "train", progress=True)
    assert "train: 100%" in capfd.readouterr().err
    (tmp_path/"validation").mkdir()
    with pytest.raises(DataError, match="no sequence for the split 'validation'"): panoptic.list_sequences(tmp_path, "validation")
    with pytest.raises(ConfigError, match="'train', 'validation'"): panoptic.list_sequences(tmp_path, "test")


def test_no_bar_outside_a_terminal(tmp_path, capfd):
    for name in "abcdef": sequence(tmp_path/"train", GOOD, name)
    panoptic.read_split(tmp_path, "train")
    assert capfd.readouterr() == ("", "")


def test_the_papers_sequences_below_a_root(tmp_path):
    for name in "171204_pose5", "171204_pose6", "160224_haggling1", "999999_other": sequence(tmp_path, GOOD, name)
    assert [p.name for p in panoptic.list_sequences(tmp_path, "train")] == ["160224_haggling1", "171204_pose6"]
    assert [s.name for s in panoptic.read_split(tmp_path, "validation")] == ["171204_pose5"]


def test_an_empty_root(tmp_path):
    for root in tmp_path, tmp_path/"nowhere":
        with pytest.raises(DataError, match="no sequence for the split 'train'"): panoptic.read_split(root, "train")


# ---------------------------------------------------------------- who was seen

def test_views_and_kept_3d_by_hand(tmp_path):
    "Cameras look along +z; a camera turned by half a circle sees nothing of a person in front of the others."
    away = [[-1, 0, 0], [0, 1, 0], [0, 0, -1]]
    value = calibration(panoptic.EGO_NODES + (1,), t=[0, 0, 0])
    for camera in value["cameras"][1:-2]: camera["distCoef"] = [0]*5
    def cams(seeing):
        for camera in value["cameras"][1:-2]: camera["R"] = np.eye(3).tolist() if camera["node"] in seeing else away
        (tmp_path/"c.json").write_text(json.dumps(value))
        return panoptic.read_calibration(tmp_path/"c.json")
    joints = np.random.default_rng(0).uniform(-20, 20, (4, 19, 3)).astype(np.float32) + np.float32([0, 0, 400])
    confidence = np.full((4, 19), 0.5, np.float32)
    joints[1, :, 0] += 1000                                             # out of every image
    confidence[2, :2] = 0                                               # 17 of 19 joints: 89.5 %, too few
    confidence[3, :1] = 0                                               # 18 of 19: 94.7 %
    t = panoptic.Track("s", 0, 0, joints, confidence)
    c = cams({0, 3, 25})
    assert panoptic.views(t, c).tolist() == [[n in (0, 3, 25)]*1 + [False, False] + [n in (0, 3, 25)] for n in panoptic.EGO_NODES]
    assert panoptic.views(t, c, [25, 5]).tolist() == [[True, False, False, True], [False]*4]
    assert panoptic.kept_3d(t, c).tolist() == [False]*4                 # three cameras
    assert panoptic.kept_3d(t, cams({0, 3, 25, 1})).tolist() == [False]*4   # node 1 is no egocentric camera
    assert panoptic.kept_3d(t, cams({0, 3, 25, 24})).tolist() == [True, False, False, True]
    four = {n: k for n, k in cams({0, 3, 25, 24}).items() if n in (0, 3, 24, 25)}
    assert panoptic.kept_3d(t, four).tolist() == [True, False, False, True]
    with pytest.raises(DataError, match="sequence s: no HD camera \\[5\\]"): panoptic.views(t, four, [0, 5])
    with pytest.raises(DataError, match="the rule needs 4"): panoptic.kept_3d(t, {0: c[0]})


# ---------------------------------------------------------------- real motion, where it is there

@pytest.mark.skipif(not MOCAP.is_dir(), reason="the mocap data set is not on this machine")
def test_real_motion_in_the_servers_layout():
    names = [p.name for p in panoptic.list_sequences(MOCAP, "validation")]
    assert len(names) == 24 and names == sorted(names)
    folder = panoptic.list_sequences(MOCAP, "train")[0]
    seq = panoptic.read_sequence(folder)
    assert len(seq.cameras) == 31 and seq.empty == 0
    t, = seq.tracks                                                     # one person, contiguous, numbered from 100
    assert t.start == 100 and len(t) == seq.frames
    with tarfile.open(folder/TAR) as tar:                               # an independent reading of one frame
        body = json.load(tar.extractfile(f"{INNER}/body3DScene_{t.start + 5:08d}.json"))["bodies"][0]
    expected = np.array(body["joints19"]).reshape(19, 4)
    assert np.allclose(t.joints[5], expected[:, :3], atol=1e-3) and np.allclose(t.confidence[5], expected[:, 3].clip(0), atol=1e-6)
    assert t.joints[:, 1, 1].mean() < t.joints[:, [8, 14], 1].mean()    # y down: the nose is above the ankles
    assert panoptic.kept_3d(t, seq.cameras).shape == (len(t),)
