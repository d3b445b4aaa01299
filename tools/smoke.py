"""What the installed library does at least, on any Python that it is for: run it where motion_vq is installed and the repository is not."""
import subprocess
import tempfile
from pathlib import Path

import numpy as np

import motion_vq
from motion_vq.synthetic import motion
from motion_vq.tokens import Tokenizer

VERBS = """
info walk.npz
render walk.npz -o walk.gif --size 32
encode walk.npz -o walk.safetensors
info walk.safetensors --coder context
decode walk.safetensors -o again.npz
evaluate walk.npz --json
info motion-2d
train --help
sweep --help
download --help
""".strip().splitlines()


def main():
    joints = 10 * motion("gait", frames=300, seed=0)    # millimetres
    tokenizer = Tokenizer.from_pretrained("motion-3d")
    again = tokenizer.joints(tokenizer.encode(joints, fps=30))
    assert again.shape == joints.shape and abs(again - joints).mean() < 30
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder)/"walk.npz", joints=joints, fps=30, skeleton="panoptic19")
        for verb in VERBS: subprocess.run(["motion-vq", *verb.split()], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        assert np.array_equal(np.load(Path(folder)/"again.npz")["joints"], again)
    print(f"motion_vq {motion_vq.__version__} in {Path(motion_vq.__file__).parent}: {len(VERBS)} commands, all well")


if __name__ == "__main__": main()
