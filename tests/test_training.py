"""Training repeats to the bit, survives a kill, and no damaged file passes for a model."""
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from motion_vq import checkpoints, training
from motion_vq.adversary import PatchDiscriminator
from motion_vq.checkpoints import append_line, load_checkpoint, read_log, save_checkpoint, unpack
from motion_vq.clips import load_clips
from motion_vq.core import CheckpointError, ConfigError, DataError
from motion_vq.networks import preset
from motion_vq.synthetic import write_dataset
from motion_vq.trainer import Trainer, foreground_at, lr_at, resolve_precision, train_preset
from motion_vq.training import evaluate, load_model, predictor, train

MODEL = preset("smoke", "3d", codebook_size=16, widths=(8, 16, 16, 16), code_dim=16, disc_widths=(8, 8, 8))
CONFIG = train_preset("smoke", steps=12, batch=2, eval_every=4, log_every=2, eval_clips=2, gan_start=0.5, precision="float32")


@pytest.fixture(scope="module")
def root(tmp_path_factory): return write_dataset(tmp_path_factory.mktemp("data")/"people", train=2, validation=2, frames=40, seed=0)


@pytest.fixture(scope="module")
def clips(root): return load_clips(root, "3d", CONFIG.frames, CONFIG.size)[:2]


def weights(folder): return load_checkpoint(Path(folder)/"last.json")[1]["sha256"]


@pytest.fixture(scope="module")
def finished(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    train("vqgan", MODEL, CONFIG, *clips, out, progress=False)
    return out


def test_same_seed_same_bits_other_seed_other_bits(clips, finished, tmp_path):
    train("vqgan", MODEL, CONFIG, *clips, tmp_path/"same", progress=False)
    assert weights(tmp_path/"same") == weights(finished)
    train("vqgan", MODEL, training.configure(CONFIG, seed=1), *clips, tmp_path/"other", progress=False)
    assert weights(tmp_path/"other") != weights(finished)


SCRIPT = """
import sys, torch
from motion_vq import training
from motion_vq.clips import load_clips
sys.path.insert(0, {tests!r})
from test_training import MODEL, CONFIG
torch.set_num_threads({threads})
clips = load_clips({root!r}, "3d", CONFIG.frames, CONFIG.size)[:2]
step = training.Trainer.train_step
def told(self, *a):
    losses = step(self, *a)
    print("step", self.step, flush=True)
    return losses
training.Trainer.train_step = told
training.train({name!r}, MODEL, CONFIG, *clips, {out!r}, progress=False)
"""


@pytest.mark.parametrize("name,last", [("vqgan", 6), ("vqgan", 11), ("dvae", 5)])
def test_a_killed_run_goes_on_to_the_same_bits(root, clips, tmp_path, name, last):
    train(name, MODEL, CONFIG, *clips, tmp_path/"straight", progress=False)
    script = SCRIPT.format(tests=str(Path(__file__).parent), root=str(root), out=str(tmp_path/"killed"), name=name,
                           threads=torch.get_num_threads())
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.strip() == f"step {last}": os.kill(process.pid, signal.SIGKILL); break
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    reached = load_checkpoint(tmp_path/"killed"/"last.json")[1]["step"]
    assert reached == last // 4 * 4 or reached == last
    train(name, MODEL, CONFIG, *clips, tmp_path/"killed", progress=False)
    assert weights(tmp_path/"killed") == weights(tmp_path/"straight")
    steps = [line["step"] for line in read_log(tmp_path/"killed"/"log.jsonl") if "rec" in line]
    assert steps == list(range(2, 13, 2)), "the log has each step once"


@pytest.mark.parametrize("at", [3, 7])
def test_an_interrupt_inside_a_step_leaves_a_run_that_goes_on_to_the_same_bits(clips, finished, tmp_path, monkeypatch, at):
    minimise = Trainer._minimise
    def pressed(self, loss, module, *opts):
        minimise(self, loss, module, *opts)
        if self.step == at and module is self.model: os.kill(os.getpid(), signal.SIGINT)  # before the adversary's own step
    monkeypatch.setattr(Trainer, "_minimise", pressed)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt): train("vqgan", MODEL, CONFIG, *clips, tmp_path, progress=False)
    assert signal.getsignal(signal.SIGINT) is handler
    assert load_checkpoint(tmp_path/"last.json")[1]["step"] == at + 1, "the step was finished"
    monkeypatch.undo()
    train("vqgan", MODEL, CONFIG, *clips, tmp_path, progress=False)
    assert weights(tmp_path) == weights(finished)


def test_a_second_interrupt_does_not_wait(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "_minimise", lambda *a: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    with pytest.raises(KeyboardInterrupt): train("vqgan", MODEL, CONFIG, *clips, tmp_path, progress=False)
    assert not list(tmp_path.glob("*.json"))


def test_training_off_the_main_thread_leaves_signals_alone(clips, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    with ThreadPoolExecutor(1) as pool: pool.submit(train, "vqgan", MODEL, CONFIG, *clips, tmp_path, progress=False).result()
    assert signal.getsignal(signal.SIGINT) is handler
    assert load_checkpoint(tmp_path/"last.json")[1]["step"] == CONFIG.steps


def test_a_finished_run_is_not_trained_again(clips, finished, monkeypatch):
    monkeypatch.setattr(Trainer, "train_step", lambda *a: pytest.fail("trained again"))
    before = weights(finished)
    assert train("vqgan", MODEL, CONFIG, *clips, finished, progress=False).step == CONFIG.steps
    assert weights(finished) == before


def test_other_settings_in_the_same_folder_are_refused(clips, finished):
    with pytest.raises(ConfigError, match="another config"):
        train("vqgan", MODEL, training.configure(CONFIG, lr=1e-4), *clips, finished, progress=False)
    with pytest.raises(ConfigError, match="another name"): train("dvae", MODEL, CONFIG, *clips, finished, progress=False)


def test_the_adversary_waits_for_its_start_and_then_learns(clips, finished):
    playing = [line["step"] for line in read_log(finished/"log.jsonl") if "game" in line]
    assert playing == [8, 10, 12], "steps after half of twelve, logged every two"
    trainer = Trainer("vqgan", MODEL, CONFIG)
    fresh = {k: v.clone() for k, v in trainer.adversary.state_dict().items()}
    unpack(load_checkpoint(finished/"last.json")[0], **trainer.parts)
    assert any(not torch.equal(v, fresh[k]) for k, v in trainer.adversary.state_dict().items())


def test_a_diverged_run_stops_and_keeps_the_last_checkpoint(clips, tmp_path):
    config = training.configure(CONFIG, lr=1e30, clip=0.0, warmup=0, log_every=1)
    with pytest.raises(DataError, match="learning rate"): train("dvae", MODEL, config, *clips, tmp_path, progress=False)
    assert not list(tmp_path.glob("*.part"))


def test_evaluation_sees_every_window_once(clips, finished):
    model = load_model(finished/"last.json", "vqgan")
    validation = clips[1]
    whole = evaluate(predictor(model), validation, 16, batch_size=3)
    assert whole.n_clips == len(validation)
    again = evaluate(predictor(model), validation, 16, batch_size=1).result()
    for k, v in whole.result().items(): assert again[k] == pytest.approx(v, rel=1e-5, abs=1e-6), k


def copy_run(finished, folder):
    for path in finished.glob("last*"): (folder/path.name).write_bytes(path.read_bytes())
    return folder/"last.json", next(folder.glob("last-*.safetensors"))


def test_a_flipped_bit_anywhere_is_found(finished, tmp_path):
    description, tensors = copy_run(finished, tmp_path)
    rng = np.random.default_rng(0)
    for path in (description, tensors):
        good = path.read_bytes()
        for at in [0, 7, 8, len(good) - 1, *rng.integers(len(good), size=40)]:
            bad = bytearray(good); bad[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(bad)
            with pytest.raises(CheckpointError, match="last"): load_model(description)
        path.write_bytes(good)
    load_model(description)


def test_truncated_and_missing_files_are_found(finished, tmp_path):
    description, tensors = copy_run(finished, tmp_path)
    for path in (description, tensors):
        good = path.read_bytes()
        for n in (0, 1, 8, len(good) // 2, len(good) - 2):
            path.write_bytes(good[:n])
            with pytest.raises(CheckpointError, match=path.name): load_model(description)
        path.unlink()
        with pytest.raises(CheckpointError, match=path.name): load_model(description)
        path.write_bytes(good)


def test_another_model_is_refused(finished, tmp_path):
    with pytest.raises(CheckpointError, match="'vqgan'.*'dvae'"): load_model(finished/"last.json", "dvae")
    tensors, meta = load_checkpoint(finished/"last.json")
    meta["model"]["codebook_size"] = 32
    with pytest.raises(CheckpointError, match="does not fit"): load_model(save_checkpoint(tmp_path, "last", tensors, meta))


def test_saving_keeps_the_earlier_checkpoint_until_the_new_one_is_whole(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, "last", dict(a=torch.zeros(3)), dict(step=1))
    monkeypatch.setattr(checkpoints, "write_json", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(CheckpointError, match="No space left.* bytes are needed"):
        save_checkpoint(tmp_path, "last", dict(a=torch.ones(3)), dict(step=2))
    tensors, meta = load_checkpoint(tmp_path/"last.json")
    assert meta["step"] == 1 and torch.equal(tensors["a"], torch.zeros(3))


def test_a_log_cut_short_is_read_to_its_last_whole_line(tmp_path):
    for i in range(3): append_line(tmp_path/"log.jsonl", dict(step=i))
    whole = (tmp_path/"log.jsonl").read_bytes()
    (tmp_path/"log.jsonl").write_bytes(whole + b'{"step": 3, "re')
    assert [line["step"] for line in read_log(tmp_path/"log.jsonl")] == [0, 1, 2]


def test_learning_rate_rises_then_falls():
    config = train_preset("cpu")
    values = [lr_at(s, config) for s in range(config.steps)]
    peak = values.index(max(values))
    assert values[:peak + 1] == sorted(values[:peak + 1]) and values[peak:] == sorted(values[peak:], reverse=True)
    assert values[-1] < 0.011 and all(v > 0 for v in values)
    assert {lr_at(s, train_preset("paper")) for s in (0, 10, 99_999)} == {1.0}


def test_the_foreground_weighs_less_and_less():
    config = train_preset("cpu", steps=100, foreground=(4.0, 1.0))
    assert [foreground_at(s, config) for s in (0, 40, 80, 99)] == pytest.approx([4, 2.5, 1, 1])
    assert {foreground_at(s, train_preset("paper")) for s in (0, 99_999)} == {0.0}


def test_wrong_settings_say_what_is_right():
    with pytest.raises(ConfigError, match="lr"): train_preset("cpu", learning_rate=1)
    with pytest.raises(ConfigError, match="float32"): resolve_precision("float16", "cpu")
    with pytest.raises(ConfigError, match="frames is 12.*8 or 16"): Trainer("vqgan", MODEL, training.configure(CONFIG, frames=12))
    with pytest.raises(ConfigError, match="dvae"): Trainer("vqvae", MODEL, CONFIG)


def test_a_clip_too_short_for_the_discriminator_is_named():
    for widths in ((4, 4), (4, 4, 4), (4, 4, 4, 4)):
        least = preset("smoke", disc_widths=widths).smallest
        judge = PatchDiscriminator(1, widths)
        assert judge(torch.zeros(1, 1, least, least, least)).shape[2:] == (1, 1, 1)
        with pytest.raises(RuntimeError): judge(torch.zeros(1, 1, least - 1, least, least))
    model, config = preset("smoke", disc_widths=(4, 4, 4, 4)), train_preset("smoke")
    with pytest.raises(ConfigError, match="frames is 16.*needs 24"): Trainer("vqgan", model, config)
    Trainer("dvae", model, config); Trainer("vqgan", model, training.configure(config, gan_weight=0.0))  # nobody judges


def test_the_optimiser_is_chosen_by_name():
    make = lambda **changes: Trainer("vqgan", MODEL, training.configure(CONFIG, **changes))
    assert make(optimizer="adamw").muon is None
    both = make(optimizer="muon")
    sizes = [sum(p.numel() for p in opt.param_groups[0]["params"]) for opt in (both.opt, both.muon)]
    assert sum(sizes) == sum(p.numel() for p in both.model.parameters()), "each weight has one optimiser"
    with pytest.raises(ConfigError, match="optimizer.*adamw"): make(optimizer="sgd")


def test_bfloat16_needs_hardware_for_it(monkeypatch):
    for tiles in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda tiles=tiles: {"amx_bf16": tiles})
        assert resolve_precision("auto", "cpu") == ("bfloat16" if tiles else "float32") and resolve_precision("float32", "cpu") == "float32"
        if tiles: assert resolve_precision("bfloat16", "cpu") == "bfloat16"
        else:
            with pytest.raises(ConfigError, match="AMX.*take float32"): resolve_precision("bfloat16", "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name, scale", [("vqgan", "cpu"), ("dvae", "cpu"), ("vqgan", "smoke"), ("plain_dvae", "plain")])
def test_a_run_on_a_graphics_card(root, tmp_path, name, scale):
    "It starts, is judged and saved, goes on after an end, and what it saved works on the CPU."
    clips = load_clips(root, "3d", 16, 32)[:2]
    run = lambda steps: train(name, preset(scale, "3d", codebook_size=16), training.configure(CONFIG, steps=steps, precision="auto"), *clips, tmp_path/str(steps), "cuda", progress=False)
    run(4)
    assert np.isfinite(load_checkpoint(tmp_path/"4"/"last.json")[1]["eval"]["ssim"])
    model = load_model(tmp_path/"4"/"best.json")
    assert next(model.parameters()).device.type == "cpu"
    assert np.isfinite(evaluate(predictor(model), clips[1], 16).result()["ssim"])
    run(4)    # finished: nothing is done
