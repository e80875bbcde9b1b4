"""Pruning of an encoder without a head while its hidden states follow those of a dense one."""

from inspect import signature

from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    DataCollatorWithPadding,
    PreTrainedModel,
    TrainingArguments,
)

import common
import session
import texts
import tokenization
from hf_sparse import Recipe, SparseArguments, SparseTrainer, find_targets
from hf_sparse.distillation.distance import layer_distances
from hf_sparse.distillation.features import term_names

_POOLER = "pooler."


def run(
    source: common.ModelArguments,
    data: texts.TextArguments,
    training: TrainingArguments,
    sparse: SparseArguments,
) -> None:
    """Train an encoder without a head by a dense teacher; evaluate how far its hidden states are from it."""
    if not training.do_train:
        raise ValueError(
            "an encoder without a head lacks a loss to evaluate, it has only a distance to its teacher; add "
            "--do_train, or use hf-sparse evaluate-distance"
        )
    recipe = sparse.build_recipe()
    if recipe.distillation is None:
        raise ValueError(
            "--no_head trains an encoder by its teacher's hidden states, and the recipe lacks distillation; "
            f"give --recipe prune_encoder_90, or another with task: 0, logits: 0 and {term_names()}"
        )
    if source.model_name_or_path is None:
        raise ValueError("--no_head needs an existing encoder; give --model_name_or_path")
    checkpoint = common.find_checkpoint(training)
    tokenizer = tokenization.load_tokenizer(source)
    model = load_encoder(source, training)
    check_pooler(model, recipe)
    length = tokenization.text_length(data.max_seq_length, tokenizer, model, most=512)
    splits, held_out = texts.hold_out(common.load_data(data, source), data, training)
    reader = tokenization.for_both(tokenizer, source, training, sparse)
    collate = DataCollatorWithPadding(reader)
    columns = {"input_ids", "token_type_ids", "attention_mask"}

    def rows(split: str) -> Dataset:
        found = texts.read(splits, split, reader, length, data, training)
        return found.select_columns([name for name in found.column_names if name in columns])

    # Read before training, which may take days, so that errors in it are found now.
    held_out_rows = rows("validation") if training.do_eval else None
    trainer = common.make_trainer(
        model,
        tokenizer,
        training,
        sparse,
        source,
        data.max_tokens,
        train_dataset=rows("train"),
        data_collator=collate,
    )
    trainer.facts |= common.facts(data, "feature-extraction", held_out)
    if training.do_eval and widths_differ(trainer):
        common.logger.warning(
            "Hidden states of student and teacher differ in width, so no distance is measured."
        )
        held_out_rows = None
    session.train(trainer, checkpoint)
    if held_out_rows is not None:
        batches = DataLoader(held_out_rows, training.per_device_eval_batch_size, collate_fn=collate)
        session.keep_results(trainer, "eval", distances(trainer, batches))
    session.hand_over(trainer)


def load_encoder(source: common.ModelArguments, training: TrainingArguments) -> PreTrainedModel:
    """Load an encoder with the pooler that it was saved with, if any; hidden states do not pass it."""
    config = AutoConfig.from_pretrained(source.config_name or source.model_name_or_path, **source.where)
    if config.is_encoder_decoder:
        raise ValueError(
            f"{source.model_name_or_path} is an encoder-decoder, and --no_head trains encoders; take one, or "
            "leave --no_head out"
        )
    architecture = MODEL_MAPPING.get(type(config), None)
    options = {}
    if architecture is not None and "add_pooling_layer" in signature(architecture.__init__).parameters:
        _, loading = AutoModel.from_pretrained(
            source.model_name_or_path, output_loading_info=True, **source.where
        )
        if any(name.startswith(_POOLER) for name in loading["missing_keys"]):
            options["add_pooling_layer"] = False
    model = common.load_model(AutoModel, source, training, config=config, **options)
    pooler = getattr(model, "pooler", None)
    if pooler is None:
        common.logger.info("No pooler is kept: the model was saved without one.")
    else:
        pooler.requires_grad_(False)
        common.logger.info("The pooler is kept as it is: hidden states do not pass through it.")
    return model


def check_pooler(model: PreTrainedModel, recipe: Recipe) -> None:
    """Raise `ValueError` if weights of the pooler would be removed, since nothing trains the rest of it."""
    if recipe.sparsity is None:
        return
    targets = find_targets(model, recipe.sparsity.include, recipe.sparsity.exclude)
    if any(target.name.startswith(_POOLER) for target in targets):
        raise ValueError(
            "sparsity.include names the pooler, which hidden states do not pass, so it would "
            "lose weights and never recover; leave it out, or train with a head"
        )


def widths_differ(trainer: SparseTrainer) -> bool:
    return trainer.model.config.hidden_size != trainer.distiller.teacher.config.hidden_size


def distances(trainer: SparseTrainer, batches: DataLoader) -> dict[str, float]:
    """Measure the relative error of the hidden states of each layer, of models of one width."""
    found = layer_distances(trainer.model, trainer.distiller.teacher, batches)
    return {f"eval_distance_{layer}": value for layer, value in found.items()} | {
        "eval_samples": len(batches.dataset)
    }
