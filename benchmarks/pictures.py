"""Pictures of a card and of a report page in a browser, for README; needs Chromium, Pillow, matplotlib."""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image

from hf_sparse.atomic.files import replacing_file

# The last model of the main job.
RUN = "task-int8"
ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Resembles a page on the Hub.
STYLE = """
body { font: 16px/1.5 sans-serif; color: #1f2328; max-width: 860px; margin: 24px auto; padding: 0 24px }
h1, h2 { border-bottom: 1px solid #d1d9e0; padding-bottom: 6px }
code { background: #eff1f3; border-radius: 6px; padding: 2px 5px; font-size: 86% }
pre { background: #f6f8fa; border-radius: 6px; padding: 14px }
pre code { background: none; padding: 0 }
table { border-collapse: collapse }
td, th { border: 1px solid #d1d9e0; padding: 5px 12px }
img { max-width: 100% }
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", required=True, type=Path, help="output directory of hf-sparse demo")
    demo = parser.parse_args().demo
    (card,) = (ROOT / "model_cards").glob("*/README.md")
    with tempfile.TemporaryDirectory() as home:
        page = Path(home) / "report"
        subprocess.run(["hf-sparse", "report", demo / RUN, "--output-dir", page], check=True)
        screenshot(page / "report.html", 1280, 1560, PICTURES / "report.png")
        written = Path(home) / "card"
        shutil.copytree(card.parent, written)
        text = MarkdownIt("commonmark", {"html": True}).enable("table").render(ModelCard.load(card).text)
        shown = f"<!doctype html><meta charset=utf-8><style>{STYLE}</style>{text}"
        (written / "card.html").write_text(shown, encoding="utf-8")
        screenshot(written / "card.html", 960, 1172, PICTURES / "card.png")


def screenshot(page: Path, width: int, height: int, picture: Path) -> None:
    """Write the upper part of a page as PNG in few colors."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise SystemExit(f"no browser found to show pages; install one of {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory() as profile, replacing_file(picture) as written:
        shot = Path(profile) / "shot.png"
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        command += ["--disable-background-networking", "--hide-scrollbars", f"--user-data-dir={profile}"]
        command += [f"--window-size={width},{height}", f"--screenshot={shot}", page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True)
        Image.open(shot).convert("RGB").quantize(128).save(written, "PNG", optimize=True)


if __name__ == "__main__":
    main()
