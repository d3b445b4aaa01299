"""Downloading from a server on this machine that does everything wrong; whatever it does, a file is right or absent."""
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
from contextlib import contextmanager, redirect_stdout
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motion_vq import download as dl
from motion_vq import fetch as fetching
from motion_vq import panoptic
from motion_vq.core import ConfigError, DataError
from motion_vq.poses import Camera

SEQ = "171204_pose1"
CALIBRATION, ARCHIVE = f"{SEQ}/calibration_{SEQ}.json", f"{SEQ}/hdPose3d_stage1_coco19.tar"


def archive(seed=0, frames=12, size=1500):
    "A whole archive of random frames; archives of different seeds have the same length and nothing else in common."
    out, rng = io.BytesIO(), np.random.default_rng(seed)
    with tarfile.open(fileobj=out, mode="w") as tar:
        for frame in range(frames):
            info = tarfile.TarInfo(f"hdPose3d_stage1_coco19/body3DScene_{frame:08d}.json")
            info.size = size
            tar.addfile(info, io.BytesIO(rng.bytes(size)))
    return out.getvalue()


def calibration(seed=0): return json.dumps({"seed": seed, "cameras": [{"numbers": list(range(200))}]}).encode()


TAR, JSON = archive(), calibration()


class Handler(BaseHTTPRequestHandler):
    """Answers as `server.moods`, one dict an answer, says; without one it is a good server. Keys: `data` (another version),
    `status`, `headers` (None takes one away), `ranges` ("ignored": 200 with all; "blind": looks at no If-Range), `until`
    (close behind this byte of the file), `chunked`, `silent` (close without a word), `hold` (wait before the rest)."""
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        path = self.path.removeprefix("http://panoptic.invalid").lstrip("/")
        server.asked.append((self.command, path, asked))
        if server.look: server.look()
        mood = server.moods.pop(0) if server.moods else {}
        self.close_connection = True
        data = mood.get("data", server.files.get(path))
        if mood.get("silent"): return
        if "status" in mood or data is None: return self.answer(mood.get("status", 404), {"Content-Length": 4} | mood.get("headers", {}), b"oops")
        etag, date = f'"{data[600:608].hex()}"', "Sat, 01 Jan 2022 00:00:00 GMT"
        headers = {"ETag": etag, "Last-Modified": date, "Content-Type": "application/octet-stream"} | mood.get("headers", {})
        fits = self.headers.get("If-Range") in (None, headers["ETag"], headers["Last-Modified"]) or mood.get("ranges") == "blind"
        start, end = 0, mood.get("until", len(data))
        if asked and fits and mood.get("ranges") != "ignored":
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data): return self.answer(416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": 0}, b"")
            headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} | headers
        body = data[start:max(start, end)]
        if mood.get("chunked"):
            body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:700], body[700:]) if part)
            headers, body = {"Transfer-Encoding": "chunked"} | headers, body + (b"0\r\n\r\n" if end >= len(data) else b"")
        else: headers = {"Content-Length": len(data) - start} | headers
        self.answer(206 if "Content-Range" in headers else 200, headers, body, mood.get("hold"))

    do_HEAD = do_GET

    def answer(self, status, headers, body, hold=None):
        self.send_response(status)
        self.send_header("Connection", "close")
        for name, value in headers.items():
            if value is not None: self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD": return
        self.wfile.write(body[:hold.after] if hold else body)
        if hold:
            hold.sent.set()
            hold.go.wait()
            self.wfile.write(body[hold.after:])

    def log_message(self, *args): pass


class Hold:
    "Send so many bytes, say so, and wait with the rest."
    def __init__(self, after): self.after, self.sent, self.go = after, threading.Event(), threading.Event()


class Server(ThreadingHTTPServer):
    daemon_threads, block_on_close = True, False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/data"
        self.reset()
        threading.Thread(target=self.serve_forever, kwargs=dict(poll_interval=0.01), daemon=True).start()

    def reset(self, **files):
        self.files = {f"{site}/{name}": data for site in ("data", "mirror") for name, data in {CALIBRATION: JSON, ARCHIVE: TAR, **files}.items()}
        self.moods, self.asked, self.look = [], [], None

    def handle_error(self, request, address): pass    # a client that is gone

    @property
    def mirror(self): return self.url.replace("/data", "/mirror")

    def ranges(self, name=ARCHIVE): return [asked for _, path, asked in self.asked if path.endswith(name)]


@pytest.fixture(scope="module")
def running():
    with pytest.MonkeyPatch.context() as patch:
        for name in "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY": patch.delenv(name, raising=False)
        with Server() as server:
            yield server
            server.shutdown()


@pytest.fixture
def server(running):
    running.reset()
    return running


def fetch(server, dest, *moods, servers=None, names=SEQ, **kwargs):
    "Download with these answers to the requests for the archive; the calibration comes first, and well. What was waited, too."
    waits = []
    server.moods = [{}, *moods]
    outcome = "something else"
    try:
        dl.download(dest, names, servers or server.url, wait=waits.append, **kwargs)
        outcome = "complete"
    except DataError:
        outcome = "clear error"
        raise
    finally: note(outcome, len(moods))
    return waits


TRIED = {}  # test -> how many downloads, answers of a server that were not good ones, outcomes


@pytest.fixture(scope="module", autouse=True)
def recorded(record):
    TRIED.clear()
    yield
    record("download", tests=TRIED)


def note(outcome, answers=1):
    "Under the name of the test that runs."
    test = re.search(r"::test_(\w+)", os.environ["PYTEST_CURRENT_TEST"])[1].replace("_", " ")
    seen = TRIED.setdefault(test, dict(downloads=0, answers=0))
    seen["downloads"] += 1
    seen["answers"] += answers
    seen[outcome] = seen.get(outcome, 0) + 1


def there(dest): return {path.relative_to(dest).as_posix(): path.read_bytes() for path in Path(dest).rglob("*") if path.is_file() and path.name != ".download.lock"}


def parts(dest): return [path for path in Path(dest).rglob("*.part")]


WHOLE = {CALIBRATION: JSON, ARCHIVE: TAR}


# ---------------------------------------------------------------- what is fetched

def test_splits_are_those_of_the_paper():
    train, validation = set(dl.TRAIN_SEQUENCES), set(dl.VALIDATION_SEQUENCES)
    assert len(dl.TRAIN_SEQUENCES) == len(train) == 47
    assert len(dl.VALIDATION_SEQUENCES) == len(validation) == 13
    assert not train & validation
    assert {"160224_haggling1", "170221_haggling_m3", "160906_pizza1", "171204_pose6", "160422_ultimatum1"} <= train
    assert {"170407_haggling_a1", "160422_haggling1", "170915_office1", "171204_pose5"} <= validation
    days = [d for d in ("170224", "170228", "170404", "170407") if f"{d}_haggling_b3" in train]
    assert days == ["170224", "170228", "170404"]                       # 170407_haggling_b3 is in validation

def test_servers_and_files_are_those_of_the_toolbox():
    assert dl.SERVERS == ("http://domedb.perception.cs.cmu.edu/webdata/dataset", "http://vcl.snu.ac.kr/panoptic/webdata/dataset")
    assert dl.sequence_files(SEQ) == (CALIBRATION, ARCHIVE)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a\\b", "a b", "a*", "a\n", "ä"])
def test_a_name_cannot_lead_elsewhere(name):
    with pytest.raises(ConfigError, match="sequence's name"): dl.sequence_files(name)


def test_what_is_downloaded_is_read(server, tmp_path):
    "Written in the Panoptic layout, served, downloaded and read by `read_split`, without any further step."
    rng, eye = np.random.default_rng(0), np.eye(3)
    camera = Camera("00_00", 0, 0, np.array([[1400., 0, 960], [0, 1400, 540], [0, 0, 1]]), np.zeros(5), eye, np.array([0., 0, 300]), (1920, 1080))
    names = {"train": ("160906_band1", SEQ), "validation": ("160906_ian1",)}    # in the paper's order
    wanted = {name: rng.uniform(-100, 100, (5, 19, 3)).astype(np.float32) for split in names.values() for name in split}
    for name, joints in wanted.items():
        track = panoptic.Track(name, 0, 100, joints, np.full((5, 19), 0.5, np.float32))
        panoptic.write_sequence(tmp_path/"served", name, [track], {0: camera})
    server.reset(**there(tmp_path/"served"))
    paths = dl.download(tmp_path/"data", wanted, server.url)
    assert there(tmp_path/"data") == there(tmp_path/"served") and sorted(paths) == sorted((tmp_path/"data").rglob("*_*.*"))
    for split, expected in names.items():
        found = panoptic.read_split(tmp_path/"data", split)
        assert [s.name for s in found] == list(expected) and [list(s.cameras) for s in found] == [[0]]*len(found)
        assert all((s.tracks[0].joints == wanted[s.name]).all() and len(s.tracks) == 1 for s in found)


def test_terms_are_named_before_the_first_request(server, tmp_path):
    seen = []
    with redirect_stdout(io.StringIO()) as out:
        server.look = lambda: seen.append(out.getvalue())
        fetch(server, tmp_path)
    assert len(seen) == 2 and "non-commercial research only" in seen[0] and "cite" in seen[0] and "http://domedb.perception.cs.cmu.edu" in seen[0]


def test_finished_files_are_left_alone(server, tmp_path):
    fetch(server, tmp_path)
    times = {path: path.stat().st_mtime_ns for path in map(tmp_path.joinpath, WHOLE)}
    server.reset()
    assert fetch(server, tmp_path) == [] and server.asked == []
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_an_archive_that_was_cut_by_others_is_replaced_by_a_whole_one(server, tmp_path, capsys):
    (tmp_path/SEQ).mkdir()
    (tmp_path/ARCHIVE).write_bytes(TAR[:5000])
    with pytest.raises(DataError, match="404"): fetch(server, tmp_path, {"status": 404})
    assert there(tmp_path) == {CALIBRATION: JSON, ARCHIVE: TAR[:5000]}      # nothing better came, so it stays
    server.reset()
    dl.download(tmp_path, SEQ, server.url)
    assert there(tmp_path) == WHOLE and "not a whole tar archive" in capsys.readouterr().err


# ---------------------------------------------------------------- lines that break

OFFSETS = [0, 1, 511, 512, 513, 4096, 9999, len(TAR)//2, len(TAR) - 1025, len(TAR) - 1]


@pytest.mark.parametrize("offset", OFFSETS)
def test_a_broken_line_is_mended(server, tmp_path, offset):
    assert fetch(server, tmp_path, {"until": offset}) == [1]
    assert there(tmp_path) == WHOLE and server.ranges() == [None, f"bytes={offset}-" if offset else None]


def test_ten_breaks_in_one_file_ask_for_no_byte_twice(server, tmp_path):
    "Each brought new bytes, so none counts as a failure in a row; the pause stays a second."
    fetched = fetch(server, tmp_path, *({"until": offset} for offset in OFFSETS))
    assert there(tmp_path) == WHOLE and server.ranges() == [None, None, *(f"bytes={offset}-" for offset in OFFSETS[1:])]
    assert fetched == [1, *[1]*9]


def test_a_part_survives_giving_up_and_the_same_command_goes_on(server, tmp_path):
    with pytest.raises(DataError, match=rf"{ARCHIVE} \(5,000 bytes of it are here\).*broke after 5,000 bytes of {len(TAR):,}.*same command") as e:
        fetch(server, tmp_path, {"until": 5000}, *[{"silent": True}]*4, {"until": 5000})
    assert server.url in str(e.value)
    assert ARCHIVE not in there(tmp_path) and [part.read_bytes() for part in parts(tmp_path)] == [TAR[:5000]]
    server.reset()
    dl.download(tmp_path, SEQ, server.url)
    assert there(tmp_path) == WHOLE and server.ranges() == ["bytes=5000-"] and server.ranges(CALIBRATION) == []


def test_failures_in_a_row_are_counted_and_waits_double(server, tmp_path):
    moods = {"silent": True}, {"silent": True}, {"until": 3000}, {"silent": True}, {"until": 3001}, {"status": 500}
    assert fetch(server, tmp_path, *moods) == [1, 2, 1, 2, 1, 2]
    assert there(tmp_path) == WHOLE


def test_bytes_that_come_again_are_no_progress(server, tmp_path):
    "A server without ranges that always breaks at the same byte is not asked for ever."
    with pytest.raises(DataError, match="broke after 3,000"): fetch(server, tmp_path, *[{"until": 3000, "ranges": "ignored"}]*50)
    assert len(server.ranges()) == fetching.ATTEMPTS and ARCHIVE not in there(tmp_path)


def test_a_part_that_was_complete_is_not_asked_for_again(server, tmp_path):
    "Killed between the last byte and the rename."
    with pytest.raises(DataError): fetch(server, tmp_path, *[{"until": 5000}]*9)
    parts(tmp_path)[0].write_bytes(TAR)
    server.reset()
    dl.download(tmp_path, SEQ, server.url)
    assert there(tmp_path) == WHOLE and server.asked == []


def test_a_part_that_is_too_long_is_begun_again(server, tmp_path):
    with pytest.raises(DataError): fetch(server, tmp_path, *[{"until": 5000}]*9)
    parts(tmp_path)[0].write_bytes(TAR + b"x")
    server.reset()
    dl.download(tmp_path, SEQ, server.url)
    assert there(tmp_path) == WHOLE and server.ranges() == [None]


# ---------------------------------------------------------------- another version, other servers' habits

@pytest.mark.parametrize("ranges", ["honoured", "ignored", "blind"])
def test_another_version_is_never_glued_to_the_first(server, tmp_path, ranges):
    "It changed while the line was broken; the server says so (200), or sends its rest all the same (206, other ETag)."
    second = archive(seed=1)
    assert len(second) == len(TAR)
    server.reset(**{ARCHIVE: second})
    fetch(server, tmp_path, {"data": TAR, "until": 9000}, {"ranges": ranges})
    assert there(tmp_path) == {CALIBRATION: JSON, ARCHIVE: second}
    assert server.ranges() == [None, "bytes=9000-", *[None]*(ranges == "blind")]


def test_a_shorter_version_is_begun_again(server, tmp_path):
    "The part is longer than the new file: 416."
    second = archive(seed=1, frames=3)
    server.reset(**{ARCHIVE: second})
    fetch(server, tmp_path, {"data": TAR, "until": 15000}, {"ranges": "blind"})
    assert there(tmp_path)[ARCHIVE] == second and server.ranges() == [None, "bytes=15000-", None]


@pytest.mark.parametrize("ends", ["before", "after"])
def test_the_end_of_a_process_between_two_versions(server, tmp_path, monkeypatch, ends):
    "Killed around the note on the new version, after the part of the old one was begun: they are not taken for each other's."
    second, write_json = archive(seed=1), fetching.write_json
    server.reset(**{ARCHIVE: second})

    def end(path, value):
        if ends == "after": write_json(path, value)
        raise KeyboardInterrupt

    def wait(seconds): monkeypatch.setattr(fetching, "write_json", end)
    server.moods = [{}, {"data": TAR, "until": 9000}]
    with pytest.raises(KeyboardInterrupt): dl.download(tmp_path, SEQ, server.url, wait=wait)
    monkeypatch.undo()
    dl.download(tmp_path, SEQ, server.url)
    assert there(tmp_path) == {CALIBRATION: JSON, ARCHIVE: second}


def test_a_server_that_ignores_ranges(server, tmp_path):
    fetch(server, tmp_path, {"until": 9000, "ranges": "ignored"}, {"until": 12000, "ranges": "ignored"}, {"ranges": "ignored"})
    assert there(tmp_path) == WHOLE


@pytest.mark.parametrize("headers, resumes", [
    ({"ETag": None}, True),                                # the date does
    ({"ETag": 'W/"1"'}, True),                             # so it does where the tag is weak
    ({"ETag": 'W/"1"', "Last-Modified": None}, False),     # a weak tag alone does not tell bytes apart
    ({"ETag": None, "Last-Modified": None}, False),
], ids=["date", "weak and date", "weak", "nothing"])
def test_what_a_part_can_be_resumed_by(server, tmp_path, headers, resumes):
    fetch(server, tmp_path, {"until": 9000, "headers": headers}, {"headers": headers})
    assert there(tmp_path) == WHOLE and server.ranges() == [None, "bytes=9000-" if resumes else None]


@pytest.mark.parametrize("span", ["bytes 0-9/10", f"bytes 8999-{len(TAR) - 1}/{len(TAR)}", f"bytes 9000-{len(TAR)}/{len(TAR) + 1}", "nonsense"])
def test_a_part_in_another_place_is_not_taken(server, tmp_path, span):
    fetch(server, tmp_path, {"until": 9000}, {"headers": {"Content-Range": span}})
    assert there(tmp_path) == WHOLE and server.ranges() == [None, "bytes=9000-", None]


def test_a_part_nobody_asked_for_is_not_taken(server, tmp_path):
    fetch(server, tmp_path, {"headers": {"Content-Range": f"bytes 0-{len(TAR) - 1}/{len(TAR)}"}})
    assert there(tmp_path) == WHOLE and server.ranges() == [None, None]


def test_a_rest_in_two_answers(server, tmp_path):
    "A server may send less than it was asked for, and say so."
    span = {"Content-Range": f"bytes 4000-8999/{len(TAR)}", "Content-Length": 5000}
    fetch(server, tmp_path, {"until": 4000}, {"until": 9000, "headers": span})
    assert there(tmp_path) == WHOLE and server.ranges() == [None, "bytes=4000-", "bytes=9000-"]


def test_chunks(server, tmp_path):
    "Without a length the end is marked; a body without its end is not whole, even if the archive in it is."
    fetch(server, tmp_path, {"chunked": True, "until": len(TAR) - 512}, {"chunked": True, "until": 300}, {"chunked": True})
    assert there(tmp_path) == WHOLE and server.ranges() == [None]*3


def test_redirects_are_followed(server, tmp_path):
    to = {"status": 302, "headers": {"Location": server.mirror + "/" + ARCHIVE}}
    fetch(server, tmp_path, to, {"until": 9000}, to, {})
    assert there(tmp_path) == WHOLE and server.ranges() == [None, None, "bytes=9000-", "bytes=9000-"]


# ---------------------------------------------------------------- wrong files

PAGE = b"\n<!DOCTYPE html><html><title>Log in</title></html>"


@pytest.mark.parametrize("mood, why", [
    ({"data": PAGE, "headers": {"Content-Type": "text/html; charset=utf-8"}}, "a web page"),
    ({"headers": {"Content-Type": "text/html"}}, "answered with a web page"),
    ({"data": PAGE}, "sent a web page"),                                            # says that it is data
    ({"data": b"", "headers": {"Content-Length": 0}}, "sent .*not a whole tar"),
    ({"data": TAR[:9000]}, "sent .*not a whole tar"),                          # was truncated before it was served
    ({"data": TAR[:3*2048]}, "sent .*its end is missing"),                     # between two members
    ({"data": bytes(10240)}, "archive without frames"),
    ({"headers": {"Content-Length": 9000}}, "sent .*not a whole tar"),         # too small: the rest cannot be known of
    ({"headers": {"Content-Length": None}}, "did not say how long"),
    ({"headers": {"Content-Length": "many"}}, "did not say how long"),
    ({"headers": {"Content-Encoding": "gzip"}}, "encoded"),
    ({"status": 404}, "404"), ({"status": 403}, "403"), ({"status": 304}, "304"),
], ids=str)
def test_what_is_no_archive_is_refused(server, tmp_path, mood, why):
    "The library's error; the archive is absent, nothing of it is kept, and no attempt is repeated."
    with pytest.raises(DataError, match=f"1 of 2 files were refused.*{ARCHIVE}: {server.url}: .*{why}.*same command"): fetch(server, tmp_path, mood)
    assert there(tmp_path) == {CALIBRATION: JSON} and len(server.ranges()) == 1


@pytest.mark.parametrize("data", [PAGE, b"", JSON[:-1], JSON[:40], b"[]", b'{"error": "no such file"}', b"\xff\xfe"], ids=str)
def test_what_is_no_calibration_is_refused(server, tmp_path, data):
    server.moods = [{"data": data}]
    with pytest.raises(DataError, match="1 of 2 files"): dl.download(tmp_path, SEQ, server.url)
    assert there(tmp_path) == {ARCHIVE: TAR}


def test_a_length_that_is_too_large_is_not_believed(server, tmp_path):
    moods = [{"headers": {"Content-Length": len(TAR) + 100}}, *[{"ranges": "ignored", "headers": {"Content-Length": len(TAR) + 100}}]*20]
    with pytest.raises(DataError, match=f"broke after {len(TAR):,} bytes of {len(TAR) + 100:,}"): fetch(server, tmp_path, *moods)
    assert ARCHIVE not in there(tmp_path)
    server.reset()
    dl.download(tmp_path, SEQ, server.url)       # honest again: 416, since nothing is left to send, then the whole
    assert there(tmp_path) == WHOLE


def test_a_redirect_in_circles_is_refused(server, tmp_path):
    with pytest.raises(DataError, match="too many redirects"):
        fetch(server, tmp_path, *[{"status": 302, "headers": {"Location": server.url + "/" + ARCHIVE}}]*30)
    assert there(tmp_path) == {CALIBRATION: JSON}


# ---------------------------------------------------------------- the mirror, and patience

@pytest.mark.parametrize("mood", [{"status": 404}, {"data": PAGE}, {"data": TAR[:9000]}, {"status": 503, "headers": {"Retry-After": "3600"}}], ids=str)
def test_the_mirror_is_asked_at_once(server, tmp_path, mood):
    assert fetch(server, tmp_path, mood, servers=[server.url, server.mirror]) == []
    assert there(tmp_path) == WHOLE and [path.split("/")[0] for _, path, _ in server.asked] == ["data", "data", "mirror"]


def test_a_redirect_to_a_log_in_without_certificate(server, tmp_path):
    "What the first server does when it is half up: no reason to ask again, but to go to the mirror."
    to = {"status": 302, "headers": {"Location": server.url.replace("http:", "https:")}}
    assert fetch(server, tmp_path, to, servers=[server.url, server.mirror]) == [] and there(tmp_path) == WHOLE


def test_a_line_that_stalls(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "STALL", 0.2)
    hold = Hold(9000)
    try: assert fetch(server, tmp_path, {"hold": hold}) == [1]
    finally: hold.go.set()
    assert there(tmp_path) == WHOLE and server.ranges() == [None, "bytes=9000-"]


@pytest.mark.parametrize("mood", [{"status": 503}, {"status": 500}, {"status": 429}, {"silent": True}], ids=str)
def test_the_mirror_is_asked_in_the_end(server, tmp_path, mood):
    "And the server that failed to the end is left out for the files that follow."
    server.reset(**{name.replace(SEQ, "a"): data for name, data in WHOLE.items()})
    assert fetch(server, tmp_path, *[mood]*fetching.ATTEMPTS, servers=[server.url, server.mirror], names=[SEQ, "a"]) == [1, 2, 4, 8, 16]
    assert there(tmp_path) == WHOLE | {name.replace(SEQ, "a"): data for name, data in WHOLE.items()}
    assert [path.split("/")[0] for _, path, _ in server.asked] == ["data"]*(1 + fetching.ATTEMPTS) + ["mirror"]*3


def test_a_part_of_one_server_is_not_continued_by_the_other(server, tmp_path):
    "The mirror has another version, and says that it is the same; of the first server's part nothing goes into it."
    second, same = archive(seed=1), {"headers": {"ETag": '"1"'}}
    fetch(server, tmp_path, {"until": 9000, **same}, *[{"silent": True}]*5, {"until": 9000, "data": second, **same}, {"data": second, **same},
          servers=[server.url, server.mirror])
    assert there(tmp_path) == {CALIBRATION: JSON, ARCHIVE: second}
    assert server.ranges()[-2:] == [None, "bytes=9000-"]


@pytest.mark.parametrize("value, seconds", [("7", 7), ("0", 0), ("soon", 1), (None, 1)])
def test_retry_after_is_kept_to(server, tmp_path, value, seconds):
    assert fetch(server, tmp_path, {"status": 503, "headers": {"Retry-After": value}}) == [seconds]
    assert there(tmp_path) == WHOLE


def test_retry_after_may_be_a_date(server, tmp_path):
    value = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=50), usegmt=True)
    [seconds] = fetch(server, tmp_path, {"status": 503, "headers": {"Retry-After": value}})
    assert 0 <= seconds <= 50 and there(tmp_path) == WHOLE


def test_a_file_that_nobody_has_does_not_stop_the_others(server, tmp_path):
    server.reset(**{name.replace(SEQ, "b"): data for name, data in WHOLE.items()})
    with pytest.raises(DataError, match=r"2 of 6 files were refused.*a/calibration_a.json: http.*404.*mirror: answered 404.*Leave out"):
        dl.download(tmp_path, [SEQ, "a", "b"], [server.url, server.mirror])
    assert there(tmp_path) == WHOLE | {name.replace(SEQ, "b"): data for name, data in WHOLE.items()}


def test_nobody_there(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))              # bound, not listening: refuses
        url, waits = f"http://127.0.0.1:{free.getsockname()[1]}/data", []
        with pytest.raises(DataError, match="no server works any more.*Connection refused.*same command later"):
            dl.download(tmp_path, [SEQ, "a", "b"], url, wait=waits.append)
    assert waits == [1, 2, 4, 8, 16] and there(tmp_path) == {}


VERSIONS = [archive(seed) for seed in range(3)]
FRAMES = [data.rstrip(b"\0") for data in VERSIONS]    # a length that is too small by a few of the zeros at the end cannot be told
MOODS = st.one_of(
    st.just({}), st.builds(lambda n: {"until": n}, st.integers(0, len(TAR))),
    st.builds(lambda n, r, s: {"until": n, "ranges": r, "data": VERSIONS[s]}, st.integers(0, len(TAR)), st.sampled_from(["ignored", "blind", ""]), st.integers(0, 2)),
    st.builds(lambda n: {"data": TAR[:n]}, st.integers(0, len(TAR.rstrip(b"\0")))),
    st.builds(lambda n: {"headers": {"Content-Length": n}}, st.integers(0, 2*len(TAR))),
    st.builds(lambda s: {"status": s}, st.sampled_from([404, 416, 500, 503])),
    st.builds(lambda e, n: {"headers": {"ETag": e, "Last-Modified": None}, "until": n}, st.sampled_from(['"1"', 'W/"1"', None]), st.integers(0, len(TAR))),
    st.builds(lambda n: {"chunked": True, "until": n}, st.integers(0, len(TAR))),
    st.sampled_from([{"data": PAGE}, {"silent": True}, {"status": 503, "headers": {"Retry-After": "5"}}]))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(MOODS, max_size=14))
def test_whatever_the_server_does_the_file_is_right_or_absent(running, moods):
    "Of one version from end to end, or not there and the library's own error; and an honest server then puts it right."
    running.reset()
    with tempfile.TemporaryDirectory() as dest:
        try: fetch(running, dest, *moods, servers=[running.url, running.mirror])
        except DataError: assert ARCHIVE not in there(dest)
        else: assert there(dest).keys() == {CALIBRATION, ARCHIVE} and there(dest)[ARCHIVE].rstrip(b"\0") in FRAMES
        running.moods = []
        dl.download(dest, SEQ, running.url, wait=[].append)
        assert there(dest).keys() == {CALIBRATION, ARCHIVE} and there(dest)[ARCHIVE].rstrip(b"\0") in FRAMES


# ---------------------------------------------------------------- processes that end, and the disk

LARGE = archive(frames=8, size=3*2**20)    # 24 MiB, more than the buffers between two sockets


@contextmanager
def child(server, dest, before=""):
    "The command in a process of its own, in the middle of a large archive; the server holds back the rest."
    hold = Hold(20*2**20)
    server.reset(**{ARCHIVE: LARGE})
    server.moods = [{}, {"hold": hold}]
    code = f"import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); {before}\nfrom motion_vq.download import main\nsys.exit(main())"
    process = subprocess.Popen([sys.executable, "-c", code, str(dest), "--sequences", SEQ, "--server", server.url],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try: yield process, hold
    finally:
        hold.go.set()
        process.kill()
        process.communicate()


def resumes(server, dest):
    [part] = parts(dest)
    size = part.stat().st_size
    assert 0 < size < len(LARGE) and part.read_bytes() == LARGE[:size]
    server.reset(**{ARCHIVE: LARGE})
    dl.download(dest, SEQ, server.url)
    note("complete")
    assert server.asked == [("GET", f"data/{ARCHIVE}", f"bytes={size}-")]
    assert there(dest) == {CALIBRATION: JSON, ARCHIVE: LARGE}


def test_a_killed_download_is_resumed(server, tmp_path):
    with child(server, tmp_path) as (process, hold):
        assert hold.sent.wait(60)
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
    resumes(server, tmp_path)


def test_an_interrupted_download_is_resumed(server, tmp_path):
    with child(server, tmp_path) as (process, hold):
        assert hold.sent.wait(60)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "interrupted: what has come is kept" in err and "Traceback" not in err
    resumes(server, tmp_path)


def test_a_second_process_keeps_off(server, tmp_path):
    with child(server, tmp_path) as (process, hold):
        assert hold.sent.wait(60)
        with pytest.raises(DataError, match="another process is downloading"): dl.download(tmp_path, SEQ, server.url)
        hold.go.set()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "2 files are in" in out, err
    assert there(tmp_path) == {CALIBRATION: JSON, ARCHIVE: LARGE} and len(server.asked) == 2
    server.reset(**{ARCHIVE: LARGE})
    dl.download(tmp_path, SEQ, server.url)       # the lock went with the process


def test_a_full_disk(server, tmp_path):
    "The system's limit on a file's size stands for the disk's end: the same call fails, with another number."
    with child(server, tmp_path, f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({2**20 + 7}, {2**20 + 7}))") as (process, hold):
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "cannot be written (File too large): make room" in err and "Traceback" not in err
    assert [part.stat().st_size for part in parts(tmp_path)] == [2**20 + 7]
    resumes(server, tmp_path)


def test_bytes_are_on_the_disk_before_they_have_their_name(server, tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append(os.fstat(file).st_size), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda old, new: (calls.append(Path(new).name), replace(old, new)))
    fetch(server, tmp_path)
    assert calls[-2:] == [len(TAR), Path(ARCHIVE).name]


def test_a_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path/"file").touch()
    with pytest.raises(DataError, match=r"file.*cannot be written \(Not a directory\)"): dl.download(tmp_path/"file"/"data", SEQ, server.url)


# ---------------------------------------------------------------- arguments, proxy, command line

def test_arguments_that_do_not_fit(tmp_path):
    for servers in "ftp://a/b", "domedb.perception.cs.cmu.edu", "http://[a/b", "http://a b/", "http:///a", []:
        with pytest.raises(ConfigError, match="server"): dl.download(tmp_path/"data", SEQ, servers)
    (tmp_path/"train").mkdir()
    with pytest.raises(ConfigError, match="would not be read"): dl.download(tmp_path, SEQ)
    assert there(tmp_path) == {} and not (tmp_path/"data").exists()


def test_a_proxy_of_the_environment_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/data"))
    monkeypatch.delenv("no_proxy", raising=False)
    dl.download(tmp_path, SEQ, "http://panoptic.invalid/data")
    assert there(tmp_path) == WHOLE and len(server.asked) == 2


def test_progress_is_shown(server, tmp_path, capsys):
    fetch(server, tmp_path/"a", {"until": 9000}, progress=True)
    err = capsys.readouterr().err
    assert f"{ARCHIVE}: 100%" in err and "broke after 9,000 bytes" in err and "next attempt in 1 s" in err
    fetch(server, tmp_path/"b")
    assert "%" not in capsys.readouterr().err    # no terminal, no bar


def test_dry_run_lists_sizes_and_writes_nothing(server, tmp_path, capsys):
    server.moods = [{"status": 503, "headers": {"Retry-After": "0"}}]
    assert dl.main([str(tmp_path/"data"), "--sequences", SEQ, "--server", server.url, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "Terms of use" in out and f"{len(JSON)} {CALIBRATION}\n" in out and f"{len(TAR):,} {ARCHIVE}\n" in out
    assert f"{len(JSON) + len(TAR):,} bytes to fetch, 0 here" in out
    assert not (tmp_path/"data").exists() and {method for method, _, _ in server.asked} == {"HEAD"}


def test_dry_run_knows_what_is_here_and_what_nobody_has(server, tmp_path, capsys):
    fetch(server, tmp_path)
    before = there(tmp_path)
    server.reset()
    assert dl.main([str(tmp_path), "--sequences", SEQ, "a", "--server", server.url, server.mirror, "--dry-run"]) == 1
    out, err = capsys.readouterr()
    assert f"{len(TAR):,} {ARCHIVE}  here" in out and "? a/calibration_a.json" in out and "404" in out
    assert f"0 bytes to fetch, {len(JSON) + len(TAR):,} here; the sizes of 2 files are unknown" in out
    assert "2 files have no known size" in err and there(tmp_path) == before and len(server.asked) == 4


def test_dry_run_with_nobody_there_asks_once(server, tmp_path):
    server.moods, waits = [{"silent": True}]*99, []
    found = [*dl.sizes(tmp_path, [SEQ, "a"], [server.url], waits.append)]
    assert [size for _, size, _ in found] == [None]*4 and "gave no answer" in found[0][2] and found[1][2] == "no server works any more"
    assert waits == [1, 2, 4, 8, 16] and len(server.asked) == fetching.ATTEMPTS


def command(*args, **kwargs): return subprocess.run([sys.executable, "-m", "motion_vq.download", *map(str, args)], capture_output=True, text=True, timeout=60, **kwargs)


def test_command_line(server, tmp_path):
    done = command(tmp_path, "--sequences", SEQ, "--server", server.url)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("Terms of use") and there(tmp_path) == WHOLE
    done = command(tmp_path, "--sequences", "a", "--server", server.url)
    assert done.returncode == 1 and "2 of 2 files were refused" in done.stderr and "Traceback" not in done.stderr
    assert "Terms of use" in done.stdout
    shown = command("--help")
    assert shown.returncode == 0 and "example:\n  python -m motion_vq.download data/panoptic --sequences" in shown.stdout and dl.TERMS in shown.stdout
