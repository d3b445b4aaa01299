"""What is read is kept by its content: the same to the bit, by many at once, and never on trust."""
import os
import resource
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest

from motion_vq import cache, panoptic
from motion_vq.cache import cache_folder, cached
from motion_vq.clips import data_sha256, load_clips
from motion_vq.core import DataError
from motion_vq.panoptic import EGO_NODES, EXO_NODES, kept_3d, read_sequence, read_split, views
from motion_vq.synthetic import write_dataset


@pytest.fixture(scope="module")
def root(tmp_path_factory): return write_dataset(tmp_path_factory.mktemp("data")/"people", train=2, validation=1, frames=40, seed=3)


@pytest.fixture
def folder(root): return sorted((root/"train").iterdir())[0]


@pytest.fixture
def no_parsing(monkeypatch):
    "From here on, what is read comes from the cache or not at all."
    def stop(): monkeypatch.setattr(panoptic, "_columns", lambda *a: pytest.fail("parsed again"))
    return stop


def same(a, b):
    assert (a.name, a.path, a.frames, a.empty, list(a.cameras)) == (b.name, b.path, b.frames, b.empty, list(b.cameras))
    assert data_sha256([a]) == data_sha256([b])
    for s, t in zip(a.tracks, b.tracks, strict=True):
        assert (s.sequence, s.person, s.start) == (t.sequence, t.person, t.start)
        assert s.joints.dtype == t.joints.dtype and s.confidence.dtype == t.confidence.dtype
        for nodes in (EGO_NODES, EXO_NODES): assert (views(s, a.cameras, nodes) == views(t, b.cameras, nodes)).all()
        assert (kept_3d(s, a.cameras) == kept_3d(t, b.cameras)).all()
    for c, d in zip(a.cameras.values(), b.cameras.values()):
        assert (c.name, c.node, c.panel, c.resolution) == (d.name, d.node, d.panel, d.resolution)
        assert all((getattr(c, k) == getattr(d, k)).all() for k in ("K", "dist", "R", "t"))


def test_read_made_and_found_are_the_same(folder, tmp_path, no_parsing):
    plain, made = read_sequence(folder), read_sequence(folder, tmp_path)
    assert len(os.listdir(tmp_path)) == 1
    no_parsing()
    found = read_sequence(folder, tmp_path)
    same(plain, made)
    same(plain, found)


def test_manifests_do_not_depend_on_the_cache(root, tmp_path, no_parsing):
    kinds = ("2d", "exo", "3d")
    plain = [load_clips(root, kind, 16, 32, cache=None)[2] for kind in kinds]
    assert [load_clips(root, kind, 16, 32, cache=tmp_path)[2] for kind in kinds] == plain
    no_parsing()
    assert [load_clips(root, kind, 16, 32, cache=tmp_path)[2] for kind in kinds] == plain


def test_the_environment_names_the_folder(root, tmp_path, monkeypatch, no_parsing):
    monkeypatch.setenv("MOTION_VQ_CACHE", str(tmp_path/"here"))
    assert cache_folder() == tmp_path/"here"
    load_clips(root, "2d", 16, 32)
    assert len(os.listdir(tmp_path/"here")) == 3
    no_parsing()
    read_split(root, "validation", cache=cache_folder())


def test_what_a_camera_sees_belongs_to_that_camera(folder, tmp_path):
    read_sequence(folder, tmp_path)
    found = read_sequence(folder, tmp_path)
    t = found.tracks[0]
    other = read_sequence(folder, tmp_path).cameras[8]
    seen = views(t, {0: found.cameras[0]}, [0])
    t.seen[found.cameras[0]] = ~seen[0]                                 # what is known is believed for the same camera ...
    assert (views(t, found.cameras, [0]) == ~seen).all()
    assert (views(t, {0: other}, [0]) == views(read_sequence(folder).tracks[0], {0: other}, [0])).all()    # ... and for no other
    with pytest.raises(ValueError): t.joints[0] = 0


@pytest.mark.parametrize("change", ["archive", "calibration", "version"])
def test_a_changed_file_never_meets_a_stale_cache(root, tmp_path, monkeypatch, change):
    copy = write_dataset(tmp_path/"people", train=1, validation=1, frames=20, seed=4)
    folder = sorted((copy/"train").iterdir())[0]
    before = read_sequence(folder, tmp_path/"cache")
    file = folder/("hdPose3d_stage1_coco19.tar" if change == "archive" else f"calibration_{folder.name}.json")
    status, data = file.stat(), file.read_bytes()
    if change == "version": monkeypatch.setattr(panoptic, "_VERSION", "panoptic 2")
    else:                                                               # one digit of a joint, or of a focal length
        at = data.index(b'"joints19"' if change == "archive" else b'"K"') + 12
        digit = next(i for i in range(at, at + 40) if data[i:i + 1] in b"12345678")
        data = data[:digit] + bytes([data[digit] + 1]) + data[digit + 1:]
    file.write_bytes(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))         # date and size lie
    assert file.stat().st_size == status.st_size
    after = read_sequence(folder, tmp_path/"cache")
    assert len(os.listdir(tmp_path/"cache")) == 2
    assert (data_sha256([before]) == data_sha256([after])) == (change == "version")
    same(after, read_sequence(folder))


def test_the_same_content_elsewhere_is_found_under_its_own_name(folder, tmp_path, no_parsing):
    read_sequence(folder, tmp_path/"cache")
    (tmp_path/"other").mkdir()
    for p in folder.iterdir(): (tmp_path/"other"/p.name.replace(folder.name, "other")).write_bytes(p.read_bytes())
    no_parsing()
    other = read_sequence(tmp_path/"other", tmp_path/"cache")
    assert other.name == "other" and {t.sequence for t in other.tracks} == {"other"}


def test_an_error_is_not_kept(folder, tmp_path):
    (tmp_path/folder.name).mkdir()
    for p in folder.iterdir(): (tmp_path/folder.name/p.name).write_bytes(p.read_bytes().replace(b'"id":0', b'"id":x'))
    for _ in range(2):
        with pytest.raises(DataError): read_sequence(tmp_path/folder.name, tmp_path/"cache")
    assert not (tmp_path/"cache").exists()


# --- damage ---

def test_every_damage_is_noticed_and_mended(tmp_path):
    "A bit of every byte flipped, and a cut at every byte, of a small file."
    rng, made = np.random.default_rng(0), []
    def make():
        made.append(1)
        return dict(a=np.arange(4, dtype=np.int64), b=np.array([[True]]))
    keep = lambda: cached(tmp_path, "v", [b"x"], make)
    keep()
    path, = tmp_path.iterdir()
    whole = path.read_bytes()
    damaged = [whole[:i] for i in range(len(whole))] + [whole + b"\0", whole[1:]]
    for i in range(len(whole)): damaged.append(whole[:i] + bytes([whole[i] ^ 1 << int(rng.integers(8))]) + whole[i + 1:])
    for data in damaged:
        path.write_bytes(data)
        assert cache._find(path) is None
    for data in damaged[::100]:
        made.clear()
        path.write_bytes(data)
        assert keep()["a"].tolist() == [0, 1, 2, 3] and made and path.read_bytes() == whole


def test_a_whole_file_under_another_name_is_not_taken(folder, tmp_path):
    a, b = sorted(folder.parent.iterdir())
    read_sequence(a, tmp_path/"a")
    read_sequence(b, tmp_path/"b")
    (mine,), (other,) = (tmp_path/"a").iterdir(), (tmp_path/"b").iterdir()
    mine.write_bytes(other.read_bytes())
    same(read_sequence(a, tmp_path/"a"), read_sequence(a))


# --- a folder that does not take anything ---

def reads_with_one_warning(root, folder):
    plain = [data_sha256([s]) for s in read_split(root, "train")]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        assert [data_sha256([s]) for s in read_split(root, "train", cache=folder)] == plain
    assert len(plain) == 2 and len(caught) == 1
    assert str(folder) in str(caught[0].message) and "MOTION_VQ_CACHE" in str(caught[0].message)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_read_only_folder(root, tmp_path):
    tmp_path.chmod(0o500)
    try: reads_with_one_warning(root, tmp_path)
    finally: tmp_path.chmod(0o700)


def test_a_folder_that_is_a_file(root, tmp_path):
    (tmp_path/"file").touch()
    reads_with_one_warning(root, tmp_path/"file")


def test_a_disk_that_fills_up_in_the_middle(root, tmp_path):
    "The system refuses every byte of a file beyond the first 10,000."
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try: reads_with_one_warning(root, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    assert os.listdir(tmp_path) == []                                   # no half file, no remains


# --- many at once, and one killed ---

READER = """
import sys
from motion_vq.panoptic import read_sequence
print("ready", flush=True)
sys.stdin.readline()
sequence = read_sequence(*sys.argv[1:])
import hashlib
h = hashlib.sha256()
for t in sequence.tracks:
    h.update(t.joints.tobytes() + t.confidence.tobytes())
    for c, seen in t.seen.items(): h.update(bytes([c.node]) + seen.tobytes())
print(h.hexdigest())
"""


def test_eight_processes_at_once_leave_one_whole_file(root, tmp_path, no_parsing, record):
    folder = sorted((root/"train").iterdir())[0]
    readers = [subprocess.Popen([sys.executable, "-W", "error", "-c", READER, str(folder), str(tmp_path)], text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(8)]
    for r in readers: assert r.stdout.readline() == "ready\n"
    for r in readers: r.stdin.write("go\n"); r.stdin.flush()
    said = [r.communicate(timeout=60) for r in readers]
    assert all(r.returncode == 0 for r in readers), said
    assert len({out for out, _ in said}) == 1 and not any(err for _, err in said)
    path, = tmp_path.iterdir()
    assert cache._find(path) is not None
    plain = read_sequence(folder)
    no_parsing()
    same(read_sequence(folder, tmp_path), plain)
    record("cache", processes=len(readers), results=len({out for out, _ in said}), files=len(os.listdir(tmp_path)), warnings=sum(bool(err) for _, err in said))


KILLED = "import os, signal; os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n" + READER


def test_a_process_killed_before_the_rename_leaves_nothing_under_the_name(root, tmp_path):
    folder = sorted((root/"train").iterdir())[0]
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(tmp_path)], input="go\n", text=True, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert [p.suffix for p in tmp_path.iterdir()] == [".part"]
    same(read_sequence(folder, tmp_path), read_sequence(folder))
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".arrays", ".part"]


def test_the_name_does_not_depend_on_the_number_of_threads(monkeypatch):
    pieces, names = [np.random.default_rng(0).bytes(5 * cache.LEAF + 7), b"", b"x"], set()
    for threads in (1, 2, 3, 8):
        monkeypatch.setattr("motion_vq.compiled.torch.get_num_threads", lambda threads=threads: threads)
        names.add(cache._key("v", pieces))
    assert len(names) == 1
    for at in (0, cache.LEAF, 5 * cache.LEAF + 6):
        other = bytearray(pieces[0]); other[at] ^= 1
        names.add(cache._key("v", [bytes(other), *pieces[1:]]))
    assert len(names) == 4
