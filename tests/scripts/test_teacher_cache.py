"""Scripts load the teacher from --cache_dir."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
)

from tests.scripts.tiny_data import sentences, write_table

COMMIT = "0" * 40


def test_a_teacher_is_found_in_the_cache(
    script: Callable[[str], ModuleType],
    config: BertConfig,
    tokenizer: BertTokenizerFast,
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    downloads = tmp_path / "downloads" / "models--somebody--teacher"
    (downloads / "refs").mkdir(parents=True)
    (downloads / "refs" / "main").write_text(COMMIT)
    torch.manual_seed(1)
    teacher = BertForSequenceClassification(
        BertConfig(**config.to_dict() | {"id2label": {0: "positive", 1: "negative"}})
    )
    teacher.save_pretrained(downloads / "snapshots" / COMMIT)
    tokenizer.save_pretrained(downloads / "snapshots" / COMMIT)
    write_table(tmp_path / "train.jsonl", {"sentence": sentences(4), "label": [0, 1, 0, 1]})

    given = f"--model_name_or_path {model_dir} --train_file {tmp_path / 'train.jsonl'} --task_name sst2"
    taught = "--do_train --max_steps 4 --recipe gmp_finetune --teacher_name_or_path somebody/teacher"
    kept = f"--cache_dir {tmp_path / 'downloads'} --output_dir {tmp_path / 'out'}"
    fixed = "--recipe_override distillation.temperature=2.0 --use_cpu True --disable_tqdm True"
    script("run_glue").main(f"{given} {taught} {kept} {fixed}".split())
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.id2label == {0: "positive", 1: "negative"}
