"""Training is exact: killed, interrupted or out of disk at any moment, in one process or several, it ends with the same bits."""
import contextlib
import itertools
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch

from motion_vq import training
from motion_vq.checkpoints import load_checkpoint, read_log
from motion_vq.clips import load_clips
from motion_vq.core import CheckpointError, ConfigError, DataError
from motion_vq.networks import preset
from motion_vq.synthetic import write_dataset
from motion_vq.trainer import train_preset
from motion_vq.training import attach, main, only_writer, train

MODEL = preset("cpu", codebook_size=16, widths=(8, 8), features=4, refine=4, disc_widths=(8, 8, 8))
CONFIG = train_preset("smoke", steps=6, batch=2, eval_every=2, log_every=1, eval_clips=2, gan_start=0.5, precision="float32", average=0.9)
STEPS, EVERY = 24, 2  # of the runs that are processes of their own: a save every other step


@pytest.fixture(scope="module")
def root(tmp_path_factory): return write_dataset(tmp_path_factory.mktemp("data")/"people", train=2, validation=2, frames=40, seed=0)


@pytest.fixture(scope="module")
def clips(root): return load_clips(root, "2d", 16, 32)[:2]


def sha256(folder): return load_checkpoint(Path(folder)/"last.json")[1]["sha256"]


# --- the command as a user gives it, and ways to end it ---

# Python loads a module of this name at its start. It kills the process from within a save: at the n-th time that a
# checkpoint's temporary file is about to be flushed, about to be renamed, or has just been renamed.
SITECUSTOMIZE = """
import os, signal, sys
from pathlib import Path

def mortal(function, left, of_checkpoint, after):
    def call(*args, **kw):
        ours = of_checkpoint(*args)
        if ours: left[0] -= 1
        if ours and not left[0] and not after: os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kw)
        if ours and not left[0]: os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call

def is_open(fd):
    return any(p.stat().st_ino == os.fstat(fd).st_ino for p in Path(os.environ["CRASH_OUT"]).glob(".*.part") if named(p))

def named(path, *to): return Path(path).name.startswith((".last", ".best"))

if os.environ.get("CRASH_AT") and os.environ.get("RANK", "0") == "0" and "torch.distributed.run" not in sys.orig_argv:
    at, count = os.environ["CRASH_AT"].split(":")
    if at == "fsync": os.fsync = mortal(os.fsync, [int(count)], is_open, False)
    else: os.replace = mortal(os.replace, [int(count)], named, at == "replaced")
"""


class Command:
    "A training in processes of its own, all of which bear its mark."
    numbers = itertools.count()

    def __init__(self, root, out, workers=0, processes=1, crash_at=""):
        self.mark, self.out, site = f"{os.getpid()}-{next(self.numbers)}", Path(out), Path(out).parent/"site"
        site.mkdir(parents=True, exist_ok=True)
        (site/"sitecustomize.py").write_text(SITECUSTOMIZE)
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
        command = [sys.executable, *torchrun, "-m", "motion_vq.training", "--data", root, "--kind", "2d", "--scale", "smoke",
                   "--batch", 2, "--steps", STEPS, "--eval-every", EVERY, "--workers", workers, "--device", "cpu", "--out", out]
        env = dict(os.environ, OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore", PYTHONPATH=str(site),
                   CRASH_MARK=self.mark, CRASH_AT=crash_at, CRASH_OUT=str(out))
        self.before = self._start()
        self.told = open(site/"told.txt", "w+")
        self.process = subprocess.Popen([*map(str, command)], env=env, stdout=self.told, stderr=self.told, start_new_session=True)

    def alive(self):
        "Every process of this training that still runs, wherever it stands now: main, ranks and loader workers."
        def marked(p):
            try: return p.status() != psutil.STATUS_ZOMBIE and p.environ().get("CRASH_MARK") == self.mark
            except psutil.Error: return False
        return [p for p in psutil.process_iter() if marked(p)]

    def rank(self, number):
        return next((p for p in self.alive() if p.ppid() == self.process.pid and p.environ().get("RANK") == str(number)), None)

    def until(self, happened):
        "Look until something has happened, or the process has ended."
        while not (seen := happened()) and self.process.poll() is None: time.sleep(0.003)
        return seen

    def trains(self):
        "Wait until this start is in the log."
        return self.until(lambda: self._start() not in (None, self.before))

    def _start(self): return next((line["start"]["pid"] for line in reversed(read_log(self.out/"log.jsonl")) if "start" in line), None)

    def kill(self, victim):
        "SIGKILL one rank, or all processes at once; the loader's workers are left to themselves."
        main = self.process.pid
        chosen = [self.rank(victim)] if victim != "all" else [p for p in self.alive() if main in (p.pid, p.ppid())]
        for p in chosen:
            if p is not None and p.is_running(): p.kill()

    def end(self, timeout=120):
        "Exit status and what was said."
        status = self.process.wait(timeout)
        self.told.seek(0)
        text = self.told.read()
        self.told.close()
        return status, text

    def leaves_nobody(self): return not psutil.wait_procs(self.alive(), timeout=30)[1]


@pytest.fixture(scope="module")
def uninterrupted(root, tmp_path_factory):
    "A run to the end, for each number of processes."
    runs = {}
    def get(processes):
        if processes not in runs:
            out = runs[processes] = tmp_path_factory.mktemp(f"whole{processes}")/"run"
            status, text = Command(root, out, processes=processes).end()
            assert status == 0, text
        return runs[processes]
    return get


# --- twenty kills ---

def kills(root, folder, whole, workers, processes):
    "Kill a run five times, in every fifth of its steps, and let it finish; what was done, and what the last start said."
    rng, out = random.Random(f"{workers} {processes}"), folder/"run"
    pace = attach(whole).lines[-1]["seconds_per_step"] * EVERY
    plan = ["moment", "moment", "appears", *rng.sample(["fsync", "replace", "replaced"], 2)]
    rng.shuffle(plan)
    tried, commands = [], []
    for n, how in enumerate(plan):
        saved, target = tried[-1]["saved"] if tried else 0, int(STEPS * (n + rng.random()) / len(plan))
        near = lambda: attach(out).saved >= target - EVERY
        victim = rng.choice([0, 1, "all"]) if processes > 1 and how in ("moment", "appears") else 0 if processes > 1 else "all"
        inside = how in ("fsync", "replace", "replaced")
        command = Command(root, out, workers, processes, f"{how}:{rng.randint(1, 2) + 2 * max(0, (target - saved) // EVERY)}" if inside else "")  # a save has two files at least
        commands.append(command)
        began = time.monotonic()
        if not inside:
            command.trains(), command.until(near)
            if how == "appears": command.until(lambda: any(out.glob(".last*.part")) or any(out.glob(".best*.part")))
            else:
                try: command.process.wait(pace * rng.random())
                except subprocess.TimeoutExpired: pass
            command.kill(victim)
        status, text = command.end()
        tried.append(dict(how=how, victim=victim, workers=workers, processes=processes, killed=status != 0,
                          during_a_save=inside or any(out.glob(".*.part")), saved=attach(out).saved,
                          seconds=time.monotonic() - began))
    status, text = Command(root, out, workers, processes).end()
    return dict(kills=tried, finished=status == 0, nobody_left=all(c.leaves_nobody() for c in commands)), text


RUNS = [(workers, processes) for processes in (1, 2) for workers in (0, 2)]


@pytest.fixture(scope="module")
def killed(request, root, uninterrupted, tmp_path_factory):
    "The chosen runs, as many at a time as there are processors, up to two; a test waits for its own."
    chosen = [tuple(item.callspec.params[k] for k in ("workers", "processes")) for item in request.session.items
              if getattr(item, "originalname", "") == "test_five_kills_leave_the_same_bits"]
    with ThreadPoolExecutor(min(2, len(os.sched_getaffinity(0)))) as pool:
        folders = {run: tmp_path_factory.mktemp("killed") for run in chosen}
        yield {run: (folders[run]/"run", pool.submit(kills, root, folders[run], uninterrupted(run[1]), *run)) for run in chosen}


@pytest.mark.parametrize("workers,processes", RUNS)
def test_five_kills_leave_the_same_bits(killed, uninterrupted, record, workers, processes):
    out, future = killed[workers, processes]
    (facts, text), whole = future.result(), uninterrupted(processes)
    same = facts["finished"] and sha256(out) == sha256(whole)
    record(f"kills_{processes}_processes_{workers}_workers", same=same, sha256=sha256(whole), steps=STEPS, save_every=EVERY, **facts)
    assert len(facts["kills"]) == 5 and all(k["killed"] for k in facts["kills"]), facts
    assert facts["finished"], text
    assert same, facts
    assert facts["nobody_left"]
    assert [k["saved"] for k in facts["kills"]] == sorted(k["saved"] for k in facts["kills"]), "no save was lost"
    for kind in ("rec", "eval"):
        steps = [[line["step"] for line in read_log(folder/"log.jsonl") if kind in line] for folder in (out, whole)]
        assert steps[0] == steps[1], "the log has each step once"
    assert sha256_of_best(out) == sha256_of_best(whole)
    assert not list(out.glob(".*.part")) and len(list(out.glob("*.safetensors"))) == 2


def sha256_of_best(out): return load_checkpoint(out/"best.json")[1]["sha256"]


# --- Ctrl-C, and a parent that is gone ---

def test_ctrl_c_in_a_terminal(root, uninterrupted, record, tmp_path):
    "A terminal sends it to all processes of the command, loader workers too; a second start is refused meanwhile."
    out = tmp_path/"run"
    command = Command(root, out, workers=2)
    assert command.trains()
    assert attach(out).running and attach(out).steps == STEPS
    os.killpg(command.process.pid, signal.SIGINT)
    status, text = command.end()
    assert status == 130 and "the same command goes on" in text and "Traceback" not in text, text
    assert command.leaves_nobody()
    run = attach(out)
    assert not run.running and 0 < run.saved < STEPS and "stopped" in str(run)
    command = Command(root, out)
    status, text = command.end()
    assert status == 0, text
    record("interrupt_1_process", saved=run.saved, same=sha256(out) == sha256(uninterrupted(1)))
    assert sha256(out) == sha256(uninterrupted(1)) and "finished" in str(attach(out))


def test_two_processes_stop_together_and_do_not_outlive_torchrun(root, uninterrupted, record, tmp_path):
    out, saved = tmp_path/"run", []
    for number in (signal.SIGINT, signal.SIGKILL):
        command = Command(root, out, processes=2)
        assert command.trains()
        command.process.send_signal(number)  # to torchrun alone
        status, text = command.end()
        assert status != 0 and command.leaves_nobody() and "[rank" not in text, text
        saved.append(attach(out).saved)
    assert 0 < saved[0] < saved[1] < STEPS, f"both saved after a step: {saved}"
    status, text = Command(root, out, processes=2).end()
    assert status == 0, text
    record("interrupt_2_processes", saved=saved, same=sha256(out) == sha256(uninterrupted(2)))
    assert sha256(out) == sha256(uninterrupted(2))
    with pytest.raises(ConfigError, match="another number of processes .2, and here 1"):
        train("vqgan", preset("smoke", "2d"), train_preset("smoke", steps=STEPS, batch=2, eval_every=EVERY), *load_clips(root, "2d", 16, 32)[:2], out)


# --- a full disk ---

@contextlib.contextmanager
def room_for(size):
    "Files of this process may have `size` bytes: a write beyond ends in the middle, with an error of the system."
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("small")
    train("vqgan", MODEL, CONFIG, *clips, out, progress=False)
    return out


@pytest.mark.parametrize("what", ["checkpoint", "log"])
def test_a_full_disk_is_named_and_the_run_goes_on(clips, whole, record, tmp_path, monkeypatch, what):
    save = training._evaluate_and_save
    def until_the_disk_is_full(trainer, *args):
        best = save(trainer, *args)
        if trainer.step == 4:  # the adversary has begun, and its optimiser has a state
            size = (tmp_path/"log.jsonl").stat().st_size
            full.enter_context(room_for(size + 10 if what == "log" else size + 40_000))
        return best
    with contextlib.ExitStack() as full, monkeypatch.context() as m, pytest.raises(CheckpointError) as error:
        m.setattr(training, "_evaluate_and_save", until_the_disk_is_full)
        train("vqgan", MODEL, CONFIG, *clips, tmp_path, progress=False)
    message = str(error.value)
    needed = int(re.search(r"(\d+) bytes are needed, \d+ are free", message)[1])
    if what == "checkpoint": assert "-0000006.safetensors" in message and needed > 40_000
    else: assert "log.jsonl" in message and 10 < needed < 4000
    assert not list(tmp_path.glob(".*.part"))
    assert load_checkpoint(tmp_path/"last.json")[1]["step"] == 4 == attach(tmp_path).saved
    train("vqgan", MODEL, CONFIG, *clips, tmp_path, progress=False)
    record(f"full_disk_{what}", message=message.replace(str(tmp_path), "..."), same=sha256(tmp_path) == sha256(whole))
    assert sha256(tmp_path) == sha256(whole)


def test_best_is_not_lost_between_two_saves(clips, whole, tmp_path, monkeypatch):
    save, at, begun = training.save_checkpoint, load_checkpoint(whole/"best.json")[1]["step"], []
    def dies(folder, name, tensors, meta):
        if meta["step"] == at: begun.append(name)
        if len(begun) == 2: raise OSError("the power went")
        return save(folder, name, tensors, meta)
    with monkeypatch.context() as m, pytest.raises(OSError):
        m.setattr(training, "save_checkpoint", dies)
        train("vqgan", MODEL, CONFIG, *clips, tmp_path, progress=False)
    train("vqgan", MODEL, CONFIG, *clips, tmp_path, progress=False)
    assert sha256_of_best(tmp_path) == sha256_of_best(whole) and sha256(tmp_path) == sha256(whole)


# --- one writer, and those who look on ---

def test_a_second_training_in_a_folder_is_refused(clips, whole):
    before = {p.name: p.read_bytes() for p in whole.iterdir()}
    with only_writer(whole):
        assert attach(whole).running
        with pytest.raises(ConfigError, match="another process is training"):
            train("vqgan", MODEL, CONFIG, *clips, whole, progress=False)
    assert before == {p.name: p.read_bytes() for p in whole.iterdir()}
    run = attach(whole)
    assert not run.running and (run.step, run.saved, run.steps) == (6, 6, 6) and [line["step"] for line in run.lines] == list(range(1, 7))


def test_attaching_to_nothing_says_so(tmp_path):
    with pytest.raises(DataError, match="no run has started"): attach(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_start_is_written_down(whole):
    start, meta = read_log(whole/"log.jsonl")[0], load_checkpoint(whole/"last.json")[1]
    place = dict(world=1, batch=2, share=2, device="cpu", workers=0, threads=torch.get_num_threads())
    assert start == dict(step=0, start=dict(pid=os.getpid(), steps=6, **place)) and meta["place"] == place


def test_leftovers_of_a_kill_are_removed(clips, whole, tmp_path):
    (tmp_path/".last-0000002.safetensors.12345678.part").write_bytes(b"half")
    (tmp_path/"log.jsonl").write_text('{"step":2,"rec":0.5}\n{"ste')
    train("vqgan", MODEL, CONFIG, *clips, tmp_path, progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in whole.iterdir())
    assert [line["step"] for line in read_log(tmp_path/"log.jsonl") if "rec" in line] == list(range(1, 7))


# --- the command's wrong uses ---

@pytest.mark.parametrize("change,status,says", [
    (["--batch", "0"], 2, "batch of 0"), (["--device", "typewriter"], 2, "typewriter"), (["--data", "nowhere"], 1, "nowhere"),
    (["--kind", "4d"], 2, "4d"), (["--steps", "many"], 2, "many")])
def test_wrong_use_is_told_and_exits_with_its_status(root, tmp_path, capsys, change, status, says):
    given = ["--data", str(root), "--out", str(tmp_path/"run"), "--scale", "smoke", "--device", "cpu", "--steps", "1", *change]
    try: got = main(given)
    except SystemExit as e: got = e.code
    said = capsys.readouterr().err
    assert got == status and says in said and "Traceback" not in said
    assert not list(tmp_path.glob("run/last*"))


def test_other_data_in_the_same_folder_are_refused(root, tmp_path, capsys):
    other = write_dataset(tmp_path/"other", train=2, validation=2, frames=40, seed=1)
    given = lambda data: ["--data", str(data), "--out", str(tmp_path/"run"), "--scale", "smoke", "--device", "cpu", "--steps", "1", "--batch", "1"]
    assert main(given(root)) == 0
    assert main(given(other)) == 1 and "data_sha256" in capsys.readouterr().err


# --- two processes are one ---

PAIR = """
import sys, torch
from pathlib import Path
from motion_vq.clips import batch, load_clips
from motion_vq.core import MotionVQError
from motion_vq.losses import clipped, reconstruction_loss
from motion_vq.networks import preset
from motion_vq.processes import joined, rank, world
from motion_vq.quantize import EMAVectorQuantizer
from motion_vq.trainer import Trainer, train_preset

data, out = sys.argv[1:]
model = preset("cpu", codebook_size=16, widths=(8, 8), features=4, refine=4, disc_widths=(8, 8, 8), quantizer="vq")
config = train_preset("smoke", steps=6, batch=4, gan_start=0.0, clip=0.0, precision="float32")
with joined("cpu"):
    clips = load_clips(data, "2d", 16, 32)[0]
    trainer = Trainer("vqgan", model, config)
    trainer.start(clips)
    trainer.check_alike()
    x, target, _ = batch(clips, 0, 0, 4, rank=rank(), world=world())
    trainer.model.train().anneal(0.0)
    made = trainer.model(x)
    pred = clipped(made.reconstruction)
    rec = reconstruction_loss(target, pred, foreground=0.0)   # without weights each term is a mean over clips
    loss = rec + made.loss + trainer.adversary.generator_loss(rec, target, pred, trainer.model.last_layer)
    trainer._minimise(loss, trainer.model)
    found = {f"model.{k}": p.grad for k, p in trainer.model.named_parameters() if p.grad is not None}
    trainer._minimise(trainer.adversary.discriminator_loss(target, pred), trainer.adversary)
    found |= {f"adversary.{k}": p.grad for k, p in trainer.adversary.named_parameters()}
    ema = EMAVectorQuantizer(8, 3, dead_below=0.0)
    ema.started.fill_(True); ema.total.copy_(ema.codebook.copy_(torch.arange(24.).view(8, 3)))
    vectors = 12 + 8 * torch.randn(4, 3, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    ema(vectors.chunk(world())[rank()])
    found |= {f"ema.{k}": v for k, v in ema.state_dict().items() if v.is_floating_point()}
    mortal = EMAVectorQuantizer(8, 3, dead_below=1e9)          # every code is revived at once, from another half in each
    torch.manual_seed(rank()); mortal(vectors.chunk(world())[rank()])
    torch.manual_seed(0)
    trainer.model.quantizer.register_buffer("revived", mortal.codebook)
    trainer.check_alike()
    if rank() == 0: torch.save(found, out)
    if rank() == 1: next(trainer.model.parameters()).data.view(-1)[0].add_(1e-6)
    try: trainer.check_alike()
    except MotionVQError as e: print(e)
for task in Path("/proc/self/task").glob("*/comm"):
    if "gloo" in task.read_text(): print("still there:", task.read_text())
"""


def test_two_halves_of_a_batch_have_the_gradients_and_codes_of_the_whole(root, tmp_path):
    (tmp_path/"pair.py").write_text(PAIR)
    found, told = [], []
    for processes in (1, 2):
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"] if processes > 1 else []
        done = subprocess.run([sys.executable, *torchrun, tmp_path/"pair.py", root, tmp_path/f"{processes}.pt"], timeout=120,
                              env=dict(os.environ, OMP_NUM_THREADS="1"), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.append(torch.load(tmp_path/f"{processes}.pt", weights_only=True)); told.append(done.stdout)
    assert found[0].keys() == found[1].keys() and len(found[0]) > 40
    for name, one in found[0].items(): torch.testing.assert_close(found[1][name], one, rtol=1e-5, atol=1e-5 * max(one.abs().max(), 1e-3), msg=name)
    assert "still there" not in told[1], "a thread of Gloo outlives the group, and may abort the process at its end"
    assert not told[0] and told[1].count("the state at step 0: rank 1 of 2 differs from rank 0") == 2, "a changed weight is found, by both"
