"""Take the live widgets out of the notebooks' stored outputs: without their kernel they are an error message, and their picture stays."""
import json
from pathlib import Path

NBS = Path(__file__).parents[1] / "nbs"
LIVE = "application/vnd.jupyter.widget-view+json"


def still(nb: dict) -> bool:
    "Remove the widget from each output that also has a picture; whether there was one."
    data = [output["data"] for cell in nb["cells"] for output in cell.get("outputs", []) if "data" in output]
    return any([d.pop(LIVE, None) is not None for d in data if "image/png" in d])


if __name__ == "__main__":
    for path in sorted(NBS.rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts: continue
        nb = json.loads(path.read_text(encoding="utf-8"))
        if still(nb): path.write_text(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
