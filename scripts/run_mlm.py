"""Train a masked language model on any text, sparse or distilled as a recipe says.

    python scripts/run_mlm.py --model_name_or_path bert-base-uncased --dataset_name texts --do_train \\
        --recipe prune_ofa_90 --teacher_name_or_path bert-base-uncased --output_dir pruned

With `--sentence_pairs --next_sentence` the text is read as pairs of segments, and the model also learns
whether the second segment follows the first. With `--no_head` an encoder learns from the hidden states of its
teacher alone, which costs less:

    python scripts/run_mlm.py --no_head --model_name_or_path bert-base-uncased --dataset_name texts \\
        --do_train --recipe prune_encoder_90 --sentence_pairs --freeze embeddings --dropout 0 \\
        --output_dir pruned
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from inspect import signature

from datasets import Dataset, DatasetDict
from transformers import (
    MODEL_FOR_PRETRAINING_MAPPING,
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    DataCollatorForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    default_data_collator,
)

import common
import encoders
import session
import texts
import tokenization
from hf_sparse import SparseTrainer
from hf_sparse.metrics.pretrain import masked_accuracy, most_likely, pretraining_scores, scored_pairs
from hf_sparse.training.mlm import MaskedTokens
from hf_sparse.training.pretrain_trainer import PreTrainingTrainer

TASK = "fill-mask"


@dataclass
class MlmModelArguments(common.ModelArguments):
    """Model to train: an existing one, with its head or without, or a new one."""

    no_head: bool = field(
        default=False, metadata={"help": "Train the encoder alone, by the hidden states of its teacher."}
    )

    model_type: str | None = field(default=None, metadata={"help": "Type of a new model, such as bert."})
    config_overrides: str | None = field(
        default=None,
        metadata={"help": "Settings of a new model, such as hidden_size=128,num_hidden_layers=2."},
    )


@dataclass
class MlmDataArguments(texts.TextArguments):
    """Text to train on and how to mask it."""

    mlm_probability: float = field(default=0.15, metadata={"help": "Share of the tokens to predict."})
    # Without these settings the parser would require a value, since the default is None.
    next_sentence: bool | None = field(
        default=None,
        metadata={
            "help": "Train the next-sentence head, too. By default only if the model was saved with one.",
            "nargs": "?",
            "const": True,
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sentence_pairs and self.next_sentence:
            raise ValueError("--next_sentence needs pairs of segments; add --sentence_pairs, or leave it out")


def load_model(
    model: MlmModelArguments,
    data: MlmDataArguments,
    tokenizer: PreTrainedTokenizerBase,
    training: TrainingArguments,
) -> PreTrainedModel:
    """Load a model, with a random head if it has none, or make a new one."""
    if model.model_name_or_path is None:
        config = new_config(model, len(tokenizer))
    elif model.config_overrides is not None:
        raise ValueError("--config_overrides is for new models; leave it or --model_name_or_path out")
    else:
        config = AutoConfig.from_pretrained(model.config_name or model.model_name_or_path, **model.where)
    loaded = common.load_model(model_kind(config, data), model, training, config=config)
    # A table padded beyond the vocabulary keeps its size.
    if len(tokenizer) > loaded.get_input_embeddings().num_embeddings:
        loaded.resize_token_embeddings(len(tokenizer))
    return loaded


def model_kind(config: PreTrainedConfig, data: MlmDataArguments) -> type:
    """Return the auto class: the one for pre-training if next sentences are learned, too."""
    known = MODEL_FOR_PRETRAINING_MAPPING.get(type(config), None)
    possible = known is not None and learns_pairs(known)
    if data.next_sentence and not possible:
        raise ValueError(
            f"models of type {config.model_type!r} lack a next-sentence head to train; leave "
            "--next_sentence out, which trains them on masked tokens of the pairs, or take one such as BERT"
        )
    saved = (config.architectures or ["none"])[0]
    default = data.sentence_pairs and possible and saved.endswith("ForPreTraining")
    wanted = default if data.next_sentence is None else data.next_sentence
    return AutoModelForPreTraining if wanted else AutoModelForMaskedLM


def learns_pairs(architecture: type[PreTrainedModel]) -> bool:
    """Return whether a model has a next-sentence head."""
    return "next_sentence_label" in signature(architecture.forward).parameters


def new_config(model: MlmModelArguments, vocabulary: int) -> PreTrainedConfig:
    """Return the configuration of a new model."""
    if model.config_name is not None:
        config = AutoConfig.from_pretrained(model.config_name, **model.where)
    elif model.model_type is not None:
        config = AutoConfig.for_model(model.model_type, vocab_size=vocabulary)
    else:
        raise ValueError("a model is missing; give --model_name_or_path, or --model_type for a new one")
    if model.config_overrides is not None:
        config.update_from_string(model.config_overrides)
    return config


def masked_sets(
    splits: DatasetDict,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    data: MlmDataArguments,
    training: TrainingArguments,
    labeled: bool,
) -> dict[str, MaskedTokens]:
    """Return the train and validation sets; the latter is paired and masked the same in every run.

    If `labeled`, pairs keep the label of their second segment.
    """

    def rows(split: str) -> Dataset:
        found = texts.read(splits, split, tokenizer, length, data, training)
        return found if labeled or not data.sentence_pairs else found.remove_columns("next_sentence_label")

    sets = {}
    if training.do_train:
        sets["train_dataset"] = MaskedTokens(rows("train"), tokenizer, data.mlm_probability, training.seed)
    if training.do_eval:
        sets["eval_dataset"] = MaskedTokens(rows("validation"), tokenizer, data.mlm_probability, fixed=True)
    return sets


def refuse_for_encoders(
    model: MlmModelArguments, data: MlmDataArguments, training: TrainingArguments
) -> None:
    """Raise `ValueError` for options that do not apply to an encoder without a head."""
    if model.model_type is not None or model.config_overrides is not None:
        raise ValueError(
            "--model_type and --config_overrides are for new models, and --no_head trains an existing one; "
            "leave them out"
        )
    default = MlmDataArguments.mlm_probability
    unused = {
        "--next_sentence": data.next_sentence,
        f"--mlm_probability {data.mlm_probability}": data.mlm_probability != default,
        f"--eval_strategy {training.eval_strategy.value}": training.eval_strategy != "no",
    }
    if given := [option for option, wrong in unused.items() if wrong]:
        raise ValueError(
            f"{given[0]} is about a loss that --no_head does not use; leave it out. Distances on held-out "
            "texts are measured at the end, and of checkpoints by hf-sparse evaluate-distance"
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Train and evaluate as the command line says."""
    model_args, data, training, sparse = common.parse((MlmModelArguments, MlmDataArguments), argv, TASK)
    if training.do_predict:
        raise ValueError(
            "a masked language model predicts nothing new; leave --do_predict out, --do_eval scores it"
        )
    if model_args.no_head:
        refuse_for_encoders(model_args, data, training)
        encoders.run(model_args, data, training, sparse)
        return
    checkpoint = common.find_checkpoint(training)
    tokenizer = tokenization.load_tokenizer(model_args)
    model = load_model(model_args, data, tokenizer, training)
    length = tokenization.text_length(data.max_seq_length, tokenizer, model, most=512)
    reader = tokenization.for_both(tokenizer, model_args, training, sparse)
    splits, held_out = texts.hold_out(common.load_data(data, model_args), data, training)
    paired = learns_pairs(type(model))
    trainer = common.make_trainer(
        model,
        tokenizer,
        training,
        sparse,
        model_args,
        data.max_tokens,
        kind=PreTrainingTrainer if paired else SparseTrainer,
        **masked_sets(splits, reader, length, data, training, labeled=paired),
        data_collator=DataCollatorForTokenClassification(reader) if data.ragged else default_data_collator,
        compute_metrics=pretraining_scores if paired else masked_accuracy,
        preprocess_logits_for_metrics=scored_pairs if paired else most_likely,
    )
    trainer.facts |= common.facts(data, TASK, held_out)
    sizes = session.train(trainer, checkpoint) if training.do_train else {}
    if training.do_eval:
        results = session.evaluate(trainer, {"": trainer.eval_dataset}) | sizes
        # With a next-sentence head, eval_loss is the sum of both losses; perplexity is of the tokens alone.
        loss = results["eval_masked_loss" if paired else "eval_loss"]
        results["perplexity"] = math.exp(min(loss, 700))
        session.keep_results(trainer, "eval", results)
    session.hand_over(trainer)


if __name__ == "__main__":
    main()
