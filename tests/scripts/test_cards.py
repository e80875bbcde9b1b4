"""Cards that scripts write beside the models they train."""

from pathlib import Path

from huggingface_hub import ModelCard

from tests.scripts.test_run_glue import Script, arguments, table
from tests.scripts.tiny_data import write_table


def test_a_script_ends_with_a_card_of_what_it_measured(
    script: Script, model_dir: Path, tmp_path: Path
) -> None:
    for split, rows in (("train", 8), ("validation", 6)):
        write_table(tmp_path / "data" / f"{split}.csv", table(["sentence"], [0, 1], rows))
    options = ["--task_name", "sst2", "--do_train", "--sparsity", "0.5"]
    script("run_glue").main(arguments(model_dir, tmp_path / "data", tmp_path / "out", *options))
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.pipeline_tag == "text-classification"
    assert "6 examples of data (validation)" in card.text and "50.0 %" in card.text
    assert str(tmp_path) not in card.content
