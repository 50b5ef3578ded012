"""``python -m monitoring.grafana.draw ANSWERS PICTURES``: one picture for each dashboard that has answers.

ANSWERS is a folder of ``NAME.json``, as the tests of the pipeline write it with PIPELINE_ANSWERS: for each
panel and query the series that the database returned. Needs Chromium, node and npm (@grafana/ui, once, 430 MB
in the user's cache). Exits 3 and says why where one of them is missing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DASHBOARDS = HERE.parent / "dashboards"
WIDTH_PX, ROW_PX, HEAD_PX = 1608, 38, 64
_LOADERS = ("svg=dataurl", "ttf=empty", "woff=empty", "woff2=empty")
_PAGE = """<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="page.css">
<style>body {{ margin: 0 }}</style><div id="root"></div>
<script>window.dashboard = {dashboard}; window.answers = {answers};</script><script src="page.js"></script>
"""


class CannotDraw(Exception):
    """What is missing, for a person."""


def cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home, "unified-llm-gateway", "grafana-ui")


def program(*names: str) -> str:
    """The first of these programs that is installed. Raises CannotDraw."""
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        raise CannotDraw(f"The dashboards are drawn with {names[0]}, which is not installed.")
    return found


def run(command: list[str], folder: Path) -> None:
    """Raises CannotDraw with the end of what the program said."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-8:])
        raise CannotDraw(f"{Path(command[0]).name} failed in {folder}:\n{said}")


def bundle() -> Path:
    """The folder with the page's script and style, made where it is missing or older than its source."""
    folder = cache()
    wanted = (HERE / "package.json").read_text(encoding="utf-8")
    if not (folder / "done.json").is_file() or (folder / "done.json").read_text(encoding="utf-8") != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "package.json").write_text(wanted, encoding="utf-8")
        run([program("npm"), "install", "--legacy-peer-deps", "--no-audit", "--no-fund"], folder)
        (folder / "done.json").write_text(wanted, encoding="utf-8")
    shutil.copy(HERE / "page.tsx", folder)
    options = [f"--loader:.{loader}" for loader in _LOADERS]
    defined = ['--define:process.env.NODE_ENV="production"', "--define:global=window"]
    esbuild = [str(folder / "node_modules" / ".bin" / "esbuild"), "page.tsx", "--bundle", "--minify"]
    run([*esbuild, "--format=iife", "--outfile=page.js", *defined, *options], folder)
    return folder


def draw(dashboard: dict[str, Any], answers: dict[str, Any], made: Path, picture: Path) -> None:
    """One dashboard into a PNG."""
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    chromium = program("chromium", "chromium-browser", "google-chrome")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("page.js", "page.css"):
            shutil.copy(made / name, folder)
        page = Path(folder, "page.html")
        texts = {"dashboard": json.dumps(dashboard), "answers": json.dumps(answers)}
        page.write_text(_PAGE.format(**texts), encoding="utf-8")
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--screenshot={picture}",
        ]
        size = f"--window-size={WIDTH_PX},{bottom * ROW_PX + HEAD_PX}"
        own = [f"--user-data-dir={folder}/profile", "--virtual-time-budget=8000"]
        run([chromium, *options, size, *own, page.as_uri()], Path(folder))
    if not picture.is_file():
        raise CannotDraw(f"Chromium ended well and wrote no {picture}.")


def main(answers: Path, pictures: Path, language: str = "en") -> None:
    made = bundle()
    pictures.mkdir(parents=True, exist_ok=True)
    for path in sorted(answers.glob("*.json")):
        dashboard = json.loads((DASHBOARDS / language / path.name).read_text(encoding="utf-8"))
        suffix = "" if language == "en" else ".zh-CN"
        picture = pictures / f"dashboard-{path.stem}{suffix}.png"
        draw(dashboard, json.loads(path.read_text(encoding="utf-8")), made, picture.resolve())
        sys.stdout.write(f"{picture}\n")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:4])
    except CannotDraw as why:
        sys.stderr.write(f"{why}\n")
        sys.exit(3)
