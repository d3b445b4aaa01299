"""Timing that compares: every figure is the best of several runs, ours and the reference's taken turn by turn in one process."""
import os
import platform
import subprocess
import time
import tracemalloc
from importlib.metadata import version
from pathlib import Path

import torch

import motion_vq

ROOT = Path(__file__).parents[1]
KEYS = ("name", "ours_s", "reference_s", "ratio", "target", "note")  # of every row; some have more of `row`'s


def time_best(
    *functions,        # each called without arguments
    repeats:int=5,     # rounds; in every round each function has its turn, so that all meet the same disturbances
    turn:float=0.03,   # seconds; a function that takes less is called again until they are over
    wait=lambda: None, # called before the clock is read: a device's `synchronize`
    clock=time.perf_counter, # `time.process_time` leaves out what other programs take; of several threads it counts the sum
)->list:               # the shortest time of a single call of each function, in seconds
    "The best times of functions that take turns, after a call of each that is not timed."
    best = [float("inf")] * len(functions)
    for f in functions: f()
    for _ in range(repeats):
        for i, f in enumerate(functions):
            end = time.perf_counter() + turn
            while True:
                wait()
                start = clock()
                result = f()
                wait()
                best[i] = min(best[i], clock() - start)
                del result
                if time.perf_counter() >= end: break
    return best


def peak_bytes(
    function,  # called without arguments
)->int:        # memory at its fullest, in bytes
    "The most memory that NumPy's arrays and Python's objects take during a call, what it returns included."
    function()
    tracemalloc.start()
    try:
        result = function()
        return tracemalloc.get_traced_memory()[1]
    finally: tracemalloc.stop()


def row(
    name:str,           # what is done
    ours_s:float,       # seconds
    reference_s:float,  # seconds
    target:str,         # what the ratio should reach, as text
    note:str="",        # what the reference is, and what else must be known
    **more,             # write_s, seconds of a plain write; peak_bytes, limit_bytes of memory; bytes and operations that ours needs
)->dict:
    "One line of the table."
    return dict(name=name, ours_s=ours_s, reference_s=reference_s, ratio=reference_s / ours_s, target=target, note=note, **more)


def processor()->str:
    "The processor's name, as the system gives it."
    try: lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError: return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def commit()->str:
    "The commit that is checked out, marked where files differ from it; \"unknown\" outside of a repository."
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], cwd=ROOT, capture_output=True, text=True)
    except OSError: return "unknown"
    return done.stdout.strip() or "unknown"


def machine()->dict:
    "What the figures depend on besides the code."
    return dict(cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(), processor=processor(), threads=torch.get_num_threads(), python=platform.python_version(),
                torch=torch.__version__, numpy=version("numpy"), numba=version("numba"), scikit_image=version("scikit-image"),
                motion_vq=motion_vq.__version__, commit=commit(),
                gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None)
