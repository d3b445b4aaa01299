"""Take the live widgets out of the notebooks' stored outputs: without their kernel they are an error message, and their picture stays."""
import json
from pathlib import Path

NBS = Path(__file__).parents[1] / "nbs"
LIVE = "application/vnd.jupyter.widget-view+json"


def still(nb: dict) -> bool:
    "Remove the widget from each output that also has a picture, and the state of the widgets if none is left; whether there was any."
    data = [output["data"] for cell in nb["cells"] for output in cell.get("outputs", []) if "data" in output]
    removed = [d.pop(LIVE, None) for d in data if "image/png" in d]
    if not any(LIVE in d for d in data): removed.append(nb["metadata"].pop("widgets", None))
    return any(part is not None for part in removed)


if __name__ == "__main__":
    for path in sorted(NBS.rglob("*.ipynb")):
        if {".ipynb_checkpoints", "_runs"} & {*path.parts}: continue
        nb = json.loads(path.read_text(encoding="utf-8"))
        if still(nb): path.write_text(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
