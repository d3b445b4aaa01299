"""Write environment.yml, for those who use conda, from the requirements in settings.ini."""
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHON = "3.11"    # the one that constraints.txt was made on; the library itself needs settings.ini's min_python


def render() -> str:
    "The text that environment.yml should have."
    config = ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT / "settings.ini", encoding="utf-8")
    cfg = config["DEFAULT"]
    lines = [
        "# Written from settings.ini by `make environment`: change it there.",
        f"name: {cfg['lib_name']}",
        "channels:",
        "  - conda-forge",
        "dependencies:",
        f"  - python={PYTHON}",
        "  - pip",
        "  - pip:",
    ]
    pip = ["-c constraints.txt", *cfg["requirements"].split(), *cfg["dev_requirements"].split(), "-e ."]
    return "\n".join(lines + [f'      - "{line}"' for line in pip]) + "\n"


if __name__ == "__main__":
    (ROOT / "environment.yml").write_text(render(), encoding="utf-8")
