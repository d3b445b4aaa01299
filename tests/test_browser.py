"""The explorers in a real JupyterLab, in a real headless Chromium: they open, run, and change when somebody moves something."""
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

from motion_vq.checkpoints import append_line
from motion_vq.clips import load_clips
from motion_vq.core import write_json
from motion_vq.networks import preset
from motion_vq.synthetic import write_dataset
from motion_vq.trainer import train_preset
from motion_vq.training import train
from test_explore import write_sweep

EXPLORE = Path(__file__).parents[1]/"nbs"/"explore"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SHOW = os.environ.get("MOTION_VQ_SCREENSHOTS")    # a folder for pictures of what the browser shows; unset: none
WAIT = 180_000                                    # milliseconds that anything may take on a busy machine
IMAGE = ".jp-OutputArea-output .widget-image"
WORDS = ".jp-OutputArea-output .widget-vbox > .widget-html"
FAILED = ".jp-RenderedText[data-mime-type='application/vnd.jupyter.error'], .jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']"
TIMED = "import timeit; print('a redraw takes', sorted(timeit.repeat({}.redraw, number=1, repeat=9))[4], 's')"

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed: apt-get install chromium")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with the notebooks, and with people, runs and a sweep for them to find at once."
    root = tmp_path_factory.mktemp("lab")
    people = write_dataset(root/"people", train=2, validation=2, frames=40)
    clips, validation, _ = load_clips(people, "2d", 16, 32, cache=None)
    settings = train_preset("smoke", steps=2, eval_every=2, batch=2)
    for name, K in (("vqgan", 16), ("dvae", 64)): train(name, preset("smoke", codebook_size=K), settings, clips, validation, root/"runs"/name, progress=False)
    (root/"live").mkdir()
    for line in (dict(step=0, start=dict(pid=1, steps=60)), dict(step=10, rec=0.5, perplexity=9.0)): append_line(root/"live"/"log.jsonl", line)
    write_sweep(root/"sweep")
    given = dict(poses_and_heatmaps=dict(data="people", out="out"), reconstruction=dict(data="people", runs="runs", out="out"),
                 codebook=dict(data="people", runs="runs", out="out"), runs_and_sweeps=dict(runs="live", sweep="sweep", out="out"))
    for name, values in given.items():
        nb = nbformat.read(EXPLORE/f"{name}.ipynb", as_version=4)
        at = next(i for i, cell in enumerate(nb.cells) if "parameters" in cell.metadata.get("tags", []))
        nb.cells.insert(at + 1, nbformat.v4.new_code_cell("\n".join(f"{k} = {v!r}" for k, v in values.items())))
        for cell in nb.cells:
            if cell.cell_type == "code": cell.outputs = []
        nb.cells.append(nbformat.v4.new_code_cell(TIMED.format("curves" if name == "runs_and_sweeps" else "explorer")))
        nbformat.write(nb, root/f"{name}.ipynb")
    return root


@pytest.fixture(scope="module")
def lab(place, tmp_path_factory):
    "JupyterLab on that folder, with nobody's settings; its address."
    home = tmp_path_factory.mktemp("jupyter")
    env = {f"JUPYTER{name}_DIR": str(home/name) for name in ("_CONFIG", "_DATA", "_RUNTIME", "LAB_WORKSPACES", "LAB_SETTINGS")}
    write_json(home/"LAB_SETTINGS"/"@jupyterlab"/"apputils-extension"/"notification.jupyterlab-settings", dict(fetchNews="false", checkForUpdates=False))
    write_json(home/"LAB_SETTINGS"/"@jupyterlab"/"notebook-extension"/"tracker.jupyterlab-settings", dict(windowingMode="none"))    # all cells are there
    command = ["-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=8888", "--ServerApp.port_retries=500", "--IdentityProvider.token=t",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", f"--ServerApp.root_dir={place}"]
    with open(home/"log", "wb") as log:
        server = subprocess.Popen([sys.executable, *command], env=dict(os.environ, JUPYTER_PREFER_ENV_PATH="1", OMP_NUM_THREADS="1", **env),
                                  stdout=log, stderr=log, cwd=place)
    try:
        end, started = time.monotonic() + WAIT / 1000, home/"_RUNTIME"/f"jpserver-{server.pid}.json"
        while True:
            try:    # it writes down which port it got
                address = f"http://127.0.0.1:{json.loads(started.read_bytes())['port']}"
                urllib.request.urlopen(f"{address}/api/status?token=t", timeout=5).close()
                break
            except (OSError, ValueError):
                assert server.poll() is None and time.monotonic() < end, (home/"log").read_text()
                time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        try: server.wait(60)
        except subprocess.TimeoutExpired: server.kill(); server.wait()


@pytest.fixture(scope="module")
def context(lab):
    "A browser that has never been here."
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-dev-shm-usage"], timeout=WAIT)
        context = browser.new_context(viewport=dict(width=1300, height=1500))
        context.set_default_timeout(WAIT)
        yield context
        browser.close()


class Notebook:
    "A notebook in a tab of its own, with all that went wrong in it."
    def __init__(self, context, lab, name):
        self.name, self.errors, self.page = name, [], context.new_page()
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.goto(f"{lab}/lab/workspaces/{name}/tree/{name}.ipynb?token=t&reset")
        self.page.wait_for_selector("text=Python 3 (ipykernel) | Idle")

    def run_all(self):
        self.page.click(".lm-MenuBar-itemLabel:text-is('Run')")
        self.page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")

    def ran(self):
        "Wait until every cell has a number and none a star, or one has failed."
        self.page.wait_for_function("""failed => {
            if (document.querySelector(failed)) return true;
            const cells = [...document.querySelectorAll('.jp-CodeCell')].filter(c => c.querySelector('.cm-content')?.innerText.trim());
            return cells.length > 4 && cells.every(c => /\\[\\d+\\]/.test(c.querySelector('.jp-InputPrompt')?.innerText));
        }""", arg=FAILED)
        failed = self.page.locator(FAILED)
        assert failed.count() == 0, failed.first.inner_text()
        self.page.wait_for_selector(f"{IMAGE} >> nth=0")

    def picture(self, nth=0):
        "A digest of the bytes that the browser shows."
        data = self.page.evaluate("""async i => {
            for (let left = 20; ; left--)    // the first may still be on its way; while it plays, the bytes may be replaced before they are read
                try { if (!i.src) throw new Error('no picture'); return [...new Uint8Array(await (await fetch(i.src)).arrayBuffer())]; }
                catch (e) { if (!left) throw e; await new Promise(go => setTimeout(go, 100)); }
        }""", self.page.locator(IMAGE).nth(nth).element_handle())
        return hashlib.sha256(bytes(data)).hexdigest()

    def words(self, nth=0): return self.page.locator(WORDS).nth(nth).inner_text()

    def changes(self, act, nth=0):
        "Do something; wait until words and picture are others; seconds until the words were."
        self.page.bring_to_front()    # a tab behind another one may be drawn late, or never
        words, picture, start = self.words(nth), self.picture(nth), time.perf_counter()
        act()
        self.page.wait_for_function("([s, i, w]) => document.querySelectorAll(s)[i].innerText !== w", arg=[WORDS, nth, words])
        seconds = time.perf_counter() - start
        self.redrawn(picture, nth)
        return seconds

    def redrawn(self, picture, nth=0):
        "Wait until the picture, which an explorer sends last, is another."
        end = time.monotonic() + WAIT / 1000
        while self.picture(nth) == picture:
            assert time.monotonic() < end, f"{self.name}: the same picture"
            self.page.wait_for_timeout(20)

    def key(self, label, key="ArrowRight", nth=0):
        "Press a key on a slider."
        self.page.locator(f".widget-slider:has(.widget-label:text-is('{label}')) .noUi-handle").nth(nth).press(key)

    def play(self):
        "Press the button that plays, and once more when something has moved."
        button = self.page.locator(".jupyter-widgets.widget-play button").first
        self.changes(button.click)
        button.click()

    def choose(self, label, option):
        self.page.locator(f".widget-dropdown:has(.widget-label:text-is('{label}')) select").select_option(option)

    def redraw_seconds(self):
        "What the last cell measured: the kernel's own time for a redraw at the default size."
        return float(self.page.locator("text=/^a redraw takes/").last.text_content().split()[3])

    def done(self):
        if SHOW:
            for i in range(self.page.locator(IMAGE).count()):
                self.page.locator(".jp-OutputArea-output:has(.widget-image)").nth(i).screenshot(path=f"{SHOW}/{self.name}-{i}.png")
        assert self.errors == [], self.errors
        self.page.close()


@pytest.fixture
def say(capsys):
    "Print past pytest: what was measured is reported, not judged."
    def say(name, seen, kernel):
        with capsys.disabled(): print(f"\n{name}: a redraw takes {1000 * kernel:.0f} ms in the kernel; key to words in the browser {1000 * seen:.0f} ms", end="")
    return say


def test_poses_and_reconstruction_at_once(context, lab, say):
    "Two notebooks, two kernels, one browser."
    poses, rebuilt = (Notebook(context, lab, name) for name in ("poses_and_heatmaps", "reconstruction"))
    for notebook in (poses, rebuilt): notebook.page.bring_to_front(); notebook.run_all()
    for notebook in (poses, rebuilt): notebook.page.bring_to_front(); notebook.ran()
    seen = {notebook: notebook.changes(lambda: notebook.key("frame")) for notebook in (rebuilt, poses)}
    assert ", frame 101;" in poses.words() and "SSIM skill" in rebuilt.words()
    for notebook in (poses, rebuilt): notebook.play()
    poses.page.bring_to_front()
    poses.choose("view", "tri-plane")
    rebuilt.page.bring_to_front()
    rebuilt.choose("model", "vqgan")
    rebuilt.changes(lambda: rebuilt.key("window"))
    for notebook in (poses, rebuilt):
        notebook.page.bring_to_front()
        say(notebook.name, seen[notebook], notebook.redraw_seconds())
        notebook.done()


def test_codebook(context, lab, say):
    notebook = Notebook(context, lab, "codebook")
    notebook.run_all(); notebook.ran()
    buttons = notebook.page.locator(".widget-gridbox button")
    buttons.nth(15).wait_for()    # they may come after the picture
    assert buttons.count() == 16
    before = buttons.nth(6).inner_text()
    picture = notebook.picture()
    buttons.nth(6).click()
    notebook.redrawn(picture)    # a cell may hold the code of the first: the same words
    notebook.changes(lambda: notebook.page.locator("button:has-text('like it')").nth(0).click())
    assert buttons.nth(6).inner_text() != before
    seen = notebook.changes(lambda: notebook.page.locator("button:text-is('its own code')").click())
    assert buttons.nth(6).inner_text() == before
    notebook.changes(lambda: notebook.key("code in this cell"))
    say("codebook", seen, notebook.redraw_seconds())
    notebook.done()


def test_runs_and_sweeps(context, lab, place, say):
    notebook = Notebook(context, lab, "runs_and_sweeps")
    notebook.run_all(); notebook.ran()
    assert "step 10 of 60" in notebook.words(0)
    append_line(place/"live"/"log.jsonl", dict(step=20, rec=0.25, perplexity=12.0))
    seen = notebook.changes(lambda: notebook.page.locator("button:has-text('refresh')").first.click())
    assert "step 20 of 60" in notebook.words(0)
    notebook.changes(lambda: notebook.choose("model", "dvae"), 1)
    notebook.page.locator("button:has-text('open its report')").click()
    notebook.page.frame_locator("iframe[srcdoc]").locator("text=Report of dvae & 64").wait_for()
    say("runs_and_sweeps", seen, notebook.redraw_seconds())
    notebook.done()
