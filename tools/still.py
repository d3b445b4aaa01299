"""Take out of the notebooks' stored outputs what belongs to the kernel or the machine that they came from: live widgets, which are an
error message without their kernel (their picture stays), and the outputs of cells with the tag `clock`, which depend on how fast it was."""
import json
from pathlib import Path

NBS = Path(__file__).parents[1] / "nbs"
LIVE = "application/vnd.jupyter.widget-view+json"


def still(nb: dict) -> bool:
    "Remove the widget from each output that also has a picture, the state of the widgets if none is left, and what the clock said; whether there was any."
    timed = [cell for cell in nb["cells"] if "clock" in cell["metadata"].get("tags", []) and cell["outputs"]]
    for cell in timed: cell["outputs"] = []
    data = [output["data"] for cell in nb["cells"] for output in cell.get("outputs", []) if "data" in output]
    removed = [d.pop(LIVE, None) for d in data if "image/png" in d]
    if not any(LIVE in d for d in data): removed.append(nb["metadata"].pop("widgets", None))
    return bool(timed) or any(part is not None for part in removed)


if __name__ == "__main__":
    for path in sorted(NBS.rglob("*.ipynb")):
        if {".ipynb_checkpoints", "_runs"} & {*path.parts}: continue
        nb = json.loads(path.read_text(encoding="utf-8"))
        if still(nb): path.write_text(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
