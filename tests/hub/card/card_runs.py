"""Train a dense teacher and a pruned int8 student, with all files that a card is made of."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import BertForSequenceClassification, BertTokenizerFast, EvalPrediction

from hf_sparse import Recipe, SparseTrainer, find_targets, measure_sparsity
from hf_sparse.checkpoint.formats import write_format
from hf_sparse.checkpoint.load import load_model
from hf_sparse.runs.latency import LatencyReport, LatencyRow, machine
from tests.support.tiny import VOCABULARY, arguments, bert, pruning, sentences

REPO = "somebody/tiny-int8"
FACTS = {"task": "text-classification", "dataset": "nyu-mll/glue", "config": "sst2", "split": "validation"}
NAMES = {0: "bad", 1: "good"}


@dataclass(frozen=True)
class Runs:
    """Directories of two runs, and of what is pushed of the second."""

    dense: Path
    run: Path
    staged: Path

    @property
    def home(self) -> Path:
        return self.run.parent


def make_runs(home: Path) -> Runs:
    """Train, evaluate and time both."""
    start = bert(id2label=NAMES, label2id={name: number for number, name in NAMES.items()})
    start.config._name_or_path = "somebody/bert-tiny"
    train(home / "dense", start, Recipe(), None, max_steps=60, learning_rate=3e-3)
    recipe = pruning("quantization={}", "distillation={task: 0.0, logits: 1.0}")
    dense = BertForSequenceClassification.from_pretrained(home / "dense")
    student = BertForSequenceClassification.from_pretrained(home / "dense")
    # Otherwise both would have the same score.
    torch.nn.init.zeros_(student.classifier.weight)
    train(home / "int8", student, recipe, dense, learning_rate=1e-9)
    (home / "int8" / "latency.json").write_text(json.dumps(timed().to_dict()))
    return Runs(home / "dense", home / "int8", stage(home / "int8", home / "staged"))


def train(
    folder: Path, model: BertForSequenceClassification, recipe: Recipe, teacher: object, **settings: object
) -> None:
    """Train a model and leave all files of a run."""
    trainer = SparseTrainer(
        model=model,
        args=arguments(folder, hub_token="hf_secretsecretsecretsecret", **settings),
        train_dataset=sentences(),
        eval_dataset=sentences(40, seed=2),
        compute_metrics=accuracy,
        recipe=recipe,
        teacher=teacher,
        processing_class=tokenizer(),
    )
    trainer.facts |= FACTS
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    targets = find_targets(trainer.model)
    measured = {"eval_samples": 40, "sparsity": measure_sparsity(trainer.model, targets).overall}
    trainer.save_metrics("eval", trainer.evaluate() | measured)


def stage(run: Path, folder: Path) -> Path:
    """Write the model of a run as a push does, in both formats."""
    model = load_model(run)
    write_format(model, folder, "compressed-tensors", tokenizer())
    write_format(model, folder / "packed", "packed", tokenizer())
    return folder


def copy(runs: Runs, home: Path) -> Runs:
    """Copy all directories to another place, where a test may change them."""
    shutil.copytree(runs.home, home)
    change(home / "int8" / "hf_sparse_run.json", base_model=str(home / "dense"), teacher=str(home / "dense"))
    return Runs(home / "dense", home / "int8", home / "staged")


def change(path: Path, **values: object) -> None:
    """Change values of a JSON file; delete those that are None."""
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def timed() -> LatencyReport:
    """A report of latencies as a benchmark makes it: 2 milliseconds here, 5 in PyTorch."""
    rows = (
        LatencyRow.measured("hf_sparse fuse", True, (0.002, 0.002, 0.003), 4_000_000, 1.5e-6),
        LatencyRow.measured("PyTorch float32", False, (0.005, 0.005, 0.006), 9_000_000, 0.0),
    )
    found = machine("avx2") | {"processor": "Some Processor 9000", "cores": 2}
    reasons = {"OpenVINO int8": "openvino is not installed"}
    return LatencyReport(
        "int8", "BertForSequenceClassification", 1, 32, 1, found, "PyTorch float32", 2.0, rows, reasons
    )


def accuracy(answers: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((answers.predictions.argmax(-1) == answers.label_ids).mean())}


def tokenizer() -> BertTokenizerFast:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [f"w{number}" for number in range(VOCABULARY - len(words))]
    return BertTokenizerFast(vocab={word: number for number, word in enumerate(words)}, model_max_length=32)
