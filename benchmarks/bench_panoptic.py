"""Reading a Panoptic sequence: against a plain loop with the standard library's JSON parser, and against the cache."""
import json
import shutil
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.core import row, time_best
from motion_vq.panoptic import EGO_NODES, POSES, Track, read_sequence, views, write_sequence
from motion_vq.poses import in_view
from motion_vq.synthetic import cameras, motion


def write(root, total):
    "A sequence of `total` frames: one person all the time, a second and a third for a part of it."
    people = [("gait", 0, total), ("talk", total * 3 // 20, total * 3 // 5), ("wave", total * 7 // 20, total * 9 // 20)]
    rng, tracks = np.random.default_rng(0), []
    for person, (action, start, frames) in enumerate(people):
        joints = motion(action, frames, seed=person, at=(60 * (person - 1), 0)).round(4).astype(np.float32)
        tracks.append(Track("", person, 100 + start, joints, rng.uniform(0.05, 0.9, (frames, 19)).round(4).astype(np.float32)))
        tracks[-1].confidence[::7] += 0.1    # in some frames every joint is sure
    return write_sequence(root, "sequence", tracks, cameras())


# --- the plain way: frame by frame, body by body, camera by camera, in the manner of the data set's own Python example ---

def project_points(X, K, R, t, Kd):
    "Points (3, N) to pixels and depth (3, N); K and R are matrices, Kd the five coefficients of distortion."
    x = np.asarray(R * X + t)
    x[0:2, :] = x[0:2, :] / x[2, :]
    r = x[0, :] * x[0, :] + x[1, :] * x[1, :]
    u = x[0, :] * (1 + Kd[0] * r + Kd[1] * r * r + Kd[4] * r * r * r) + 2 * Kd[2] * x[0, :] * x[1, :] + Kd[3] * (r + 2 * x[0, :] * x[0, :])
    v = x[1, :] * (1 + Kd[0] * r + Kd[1] * r * r + Kd[4] * r * r * r) + 2 * Kd[3] * x[0, :] * x[1, :] + Kd[2] * (r + 2 * x[1, :] * x[1, :])
    x[0, :] = K[0, 0] * u + K[0, 1] * v + K[0, 2]
    x[1, :] = K[1, 0] * u + K[1, 1] * v + K[1, 2]
    return x


def plain(folder):
    "{(person, frame): (joints (4, 19), pixels (V, 2, 19), seen (V,))}, and whether four cameras see it."
    with open(folder/f"calibration_{folder.name}.json") as f: calibration = json.load(f)
    cams = {c["node"]: dict(c, K=np.matrix(c["K"]), R=np.matrix(c["R"]), t=np.array(c["t"]).reshape(3, 1), distCoef=np.array(c["distCoef"]))
            for c in calibration["cameras"] if c["type"] == "hd"}
    found = {}
    with tarfile.open(folder/f"{POSES}.tar") as tar:
        for member in tar:
            frame = int(member.name[-13:-5])
            for body in json.load(tar.extractfile(member))["bodies"]:
                joints, pixels, seen = np.array(body["joints19"]).reshape(-1, 4).T, [], []
                for node in EGO_NODES:
                    c = cams[node]
                    x = project_points(joints[:3], c["K"], c["R"], c["t"], c["distCoef"])
                    inside = (x[0] >= 0) & (x[0] < c["resolution"][0]) & (x[1] >= 0) & (x[1] < c["resolution"][1])
                    pixels.append(x[:2])
                    seen.append((inside & (joints[3] > 0.1)).mean() > 0.9 and (x[2] > 0).all())
                found[body["id"], frame] = joints, np.array(pixels), np.array(seen), sum(seen) >= 4
    return found


# --- the library's way ---

def ours(folder):
    "[(track, seen (V, F), kept (F,))]"
    sequence = read_sequence(folder)
    seen = [views(t, sequence.cameras) for t in sequence.tracks]
    return [(t, s, s.sum(0) >= 4) for t, s in zip(sequence.tracks, seen)]


def ours_pixels(folder):
    "[(track, pixels (V, F, 19, 2), seen (V, F), kept (F,))]"
    sequence, found = read_sequence(folder), []
    for t in sequence.tracks:
        joints = np.moveaxis(np.array(np.moveaxis(t.joints, -1, 0), np.float64, order="C"), 0, -1)
        pixels = [sequence.cameras[n].project(joints)[0] for n in EGO_NODES]
        seen = np.array([in_view(p, t.confidence, sequence.cameras[n].resolution) for n, p in zip(EGO_NODES, pixels)])
        found.append((t, pixels, seen, seen.sum(0) >= 4))
    return found


def check(folder):
    "Both ways find the same people, pixels, and frames that count."
    expected, rows, kept_rows = plain(folder), 0, 0
    for (t, seen, kept), (_, pixels, seen_too, _) in zip(ours(folder), ours_pixels(folder)):
        for f in range(len(t)):
            joints, image, flags, four = expected[t.person, t.start + f]
            np.testing.assert_array_equal(t.joints[f], joints[:3].T.astype(np.float32))
            np.testing.assert_array_equal(t.confidence[f], joints[3].astype(np.float32))
            there = np.stack([p[f].T for p in pixels])
            assert np.isfinite(there[flags]).all()
            drawn = np.isfinite(there)
            np.testing.assert_allclose(there[drawn], image[drawn], rtol=1e-5, atol=1e-2)    # positions are rounded to float32 first
            assert seen[:, f].tolist() == seen_too[:, f].tolist() == flags.tolist() and kept[f] == four
            rows, kept_rows = rows + 1, kept_rows + bool(four)
    assert rows == len(expected) and 0 < kept_rows < rows, "some frames count and some do not"


def run(frames=2000, repeats=4, turn=0.4):
    "The rows of the table; the results are compared before anything is timed."
    with tempfile.TemporaryDirectory() as root:
        folder, cache = write(root, frames), Path(root)/"cache"
        check(folder)
        def first():
            shutil.rmtree(cache, ignore_errors=True)
            read_sequence(folder, cache)
        alone, pixels, loop, made, found = time_best(
            lambda: ours(folder), lambda: ours_pixels(folder), lambda: plain(folder), first, lambda: read_sequence(folder, cache),
            repeats=repeats, turn=turn)
        kept, = cache.iterdir()
        tar, kept = (folder/f"{POSES}.tar").stat().st_size, kept.stat().st_size
    people = f"{frames:,} frames, 1 to 3 people, 10 cameras; the loop parses each frame once"
    return [
        row("tar to arrays", alone, loop, ">= 50", f"{people}; joints, and which frames count for each camera", bytes=tar),
        row("tar to arrays and every pixel", pixels, loop, "", f"{people}; all projected joints are kept as well", bytes=tar),
        row("second read from the cache", found, made, ">= 10", "the first read parses, looks through 20 cameras, and writes", bytes=tar + kept),
        row("second read, against no cache", found, alone, "", "the reading of the first row, which neither hashes nor writes", bytes=tar + kept),
    ]
