"""Write the cards of the models that the project trains, as they are published: `model_cards/NAME/`.

    python benchmarks/model_cards.py --demo hf_sparse_demo
    python benchmarks/model_cards.py --run WORK/sst2_int8_90 --repo_id NAME --base_model OWNER/BASE
    python benchmarks/model_cards.py

The first measures the last model of a demo, the second that of any run. The third writes the text of all committed cards again, from the
facts beside them: after a change of the text of cards.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from hf_sparse.atomic.directories import replacing_directory
from hf_sparse.atomic.files import write_atomically
from hf_sparse.cli.options import with_new_options
from hf_sparse.hub.card.card_data import facts_from_json
from hf_sparse.hub.card.options import CardOptions
from hf_sparse.hub.card.render import render
from hf_sparse.hub.card.write import describe
from hf_sparse.hub.push_directory import staged

CARDS = Path(__file__).resolve().parents[1] / "model_cards"
DEMO = "bert-tiny-python-docs-sparse90-int8"
OLD_OPTIONS = {"--repo": "--repo_id", "--licence": "--license"}


def write(directory: Path, repo_id: str, card: CardOptions) -> Path:
    """Write card, facts and pictures of a run's model; what was there of an earlier one is replaced."""
    home = CARDS / repo_id.rpartition("/")[2]
    with (
        staged(directory, repo_id, packed=True, card=card) as made,
        replacing_directory(home, lambda _: True) as place,
    ):
        facts = describe(directory, made.folder, repo_id, card=card)
        shutil.copytree(made.folder / "pictures", place / "pictures")
        write_atomically(place / "facts.json", facts.to_json().encode())
        write_atomically(place / "README.md", str(render(facts)).encode())
    return home


def write_again() -> Iterator[Path]:
    """Write every committed card again from its facts; yield their folders."""
    for path in sorted(CARDS.glob("*/facts.json")):
        facts = facts_from_json(path.read_text(encoding="utf-8"))
        write_atomically(path, facts.to_json().encode())
        write_atomically(path.with_name("README.md"), str(render(facts)).encode())
        yield path.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--demo", type=Path, help="Output directory of hf-sparse demo.")
    parser.add_argument("--run", type=Path, help="Output directory of a training script.")
    parser.add_argument("--repo_id", default=DEMO, help="Name on the Hub: OWNER/NAME, or NAME.")
    parser.add_argument("--license", help="License identifier as the Hub writes it, such as apache-2.0.")
    parser.add_argument("--base_model", help="Name on the Hub of the model that it was made from.")
    parser.add_argument("--language", default="en", help="Language code of the texts.")
    given = parser.parse_args(list(with_new_options(sys.argv[1:], OLD_OPTIONS)))
    run = given.run if given.demo is None else given.demo / "task-int8"
    if run is None:
        folders = list(write_again())
    else:
        card = CardOptions(license=given.license, language=given.language, base_model=given.base_model)
        folders = [write(run, given.repo_id, card)]
    print(*folders, sep="\n")


if __name__ == "__main__":
    main()
