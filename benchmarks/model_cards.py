"""The cards of the models that the project trains, as they are published: `model_cards/NAME/`."""

import argparse
import shutil
from pathlib import Path

from hf_sparse.atomic.directories import replacing_directory
from hf_sparse.atomic.files import write_atomically
from hf_sparse.hub.card.options import CardOptions
from hf_sparse.hub.card.render import render
from hf_sparse.hub.card.write import describe
from hf_sparse.hub.push_directory import staged

CARDS = Path(__file__).resolve().parents[1] / "model_cards"
DEMO = "bert-tiny-python-docs-sparse90-int8"


def write(directory: Path, repo_id: str, license: str | None, language: str | None) -> Path:
    """Write card, facts and pictures of a run's model; what was there of an earlier one is replaced."""
    home = CARDS / repo_id.rpartition("/")[2]
    card = CardOptions(license=license, language=language)
    with (
        staged(directory, repo_id, packed=True, card=card) as made,
        replacing_directory(home, lambda _: True) as place,
    ):
        facts = describe(directory, made.folder, repo_id, card=card)
        shutil.copytree(made.folder / "pictures", place / "pictures")
        write_atomically(place / "facts.json", facts.to_json().encode())
        write_atomically(place / "README.md", str(render(facts)).encode())
    return home


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, required=True, help="output directory of hf-sparse demo")
    parser.add_argument("--repo", default=DEMO, help="where the model is published, name or owner/name")
    parser.add_argument("--licence", help="as the Hub writes it, such as apache-2.0")
    parser.add_argument("--language", default="en", help="of the texts, as the Hub writes it")
    given = parser.parse_args()
    print(write(given.demo / "task-int8", given.repo, given.licence, given.language))


if __name__ == "__main__":
    main()
