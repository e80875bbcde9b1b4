"""Which weights of each architecture are pruned, with the reason for those that are not."""

import pytest
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    AlbertForSequenceClassification,
    BertConfig,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    ElectraForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
)

from hf_sparse.targets import LeftOut, find_targets

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
BERT = BertConfig(**SIZES)
ROBERTA = RobertaConfig(**SIZES)
DISTILBERT = DistilBertConfig(vocab_size=50, dim=32, n_layers=2, n_heads=2, hidden_dim=64)
ELECTRA = ElectraConfig(embedding_size=16, **SIZES)
ALBERT = AlbertConfig(embedding_size=16, **SIZES)
LLAMA = LlamaConfig(num_key_value_heads=1, tie_word_embeddings=False, **SIZES)
TIED_LLAMA = LlamaConfig(num_key_value_heads=1, tie_word_embeddings=True, **SIZES)

HEAD = "head: outside the base model"
OUTSIDE = "outside the layer stack (embedding projection or pooler)"
TIED = "tied to an embedding"

BERT_LAYER = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
]
DISTILBERT_LAYER = [
    "attention.q_lin",
    "attention.k_lin",
    "attention.v_lin",
    "attention.out_lin",
    "ffn.lin1",
    "ffn.lin2",
]
ALBERT_LAYER = [
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.dense",
    "ffn",
    "ffn_output",
]
LLAMA_LAYER = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
]


def weights(prefix: str, layer: list[str], layers: int = 2) -> list[str]:
    return [f"{prefix}.{index}.{name}.weight" for index in range(layers) for name in layer]


BERT_WEIGHTS = weights("bert.encoder.layer", BERT_LAYER)
ROBERTA_WEIGHTS = weights("roberta.encoder.layer", BERT_LAYER)
DISTILBERT_WEIGHTS = weights("distilbert.transformer.layer", DISTILBERT_LAYER)
ELECTRA_WEIGHTS = weights("electra.encoder.layer", BERT_LAYER)
ALBERT_WEIGHTS = weights("albert.encoder.albert_layer_groups.0.albert_layers", ALBERT_LAYER, layers=1)
LLAMA_WEIGHTS = weights("model.layers", LLAMA_LAYER)


@pytest.mark.parametrize(
    ("architecture", "config", "names", "left_out"),
    [
        (
            BertForPreTraining,
            BERT,
            BERT_WEIGHTS,
            {
                "bert.pooler.dense": OUTSIDE,
                "cls.predictions.transform.dense": HEAD,
                "cls.predictions.decoder": TIED,
                "cls.seq_relationship": HEAD,
            },
        ),
        (
            BertForSequenceClassification,
            BERT,
            BERT_WEIGHTS,
            {"bert.pooler.dense": OUTSIDE, "classifier": HEAD},
        ),
        (RobertaForMaskedLM, ROBERTA, ROBERTA_WEIGHTS, {"lm_head.dense": HEAD, "lm_head.decoder": TIED}),
        (
            RobertaForSequenceClassification,
            ROBERTA,
            ROBERTA_WEIGHTS,
            {"classifier.dense": HEAD, "classifier.out_proj": HEAD},
        ),
        (
            DistilBertForMaskedLM,
            DISTILBERT,
            DISTILBERT_WEIGHTS,
            {"vocab_transform": HEAD, "vocab_projector": TIED},
        ),
        (
            DistilBertForSequenceClassification,
            DISTILBERT,
            DISTILBERT_WEIGHTS,
            {"pre_classifier": HEAD, "classifier": HEAD},
        ),
        (
            ElectraForPreTraining,
            ELECTRA,
            ELECTRA_WEIGHTS,
            {
                "electra.embeddings_project": OUTSIDE,
                "discriminator_predictions.dense": HEAD,
                "discriminator_predictions.dense_prediction": HEAD,
            },
        ),
        (
            ElectraForMaskedLM,
            ELECTRA,
            ELECTRA_WEIGHTS,
            {
                "electra.embeddings_project": OUTSIDE,
                "generator_predictions.dense": HEAD,
                "generator_lm_head": TIED,
            },
        ),
        (
            ElectraForSequenceClassification,
            ELECTRA,
            ELECTRA_WEIGHTS,
            {
                "electra.embeddings_project": OUTSIDE,
                "classifier.dense": HEAD,
                "classifier.out_proj": HEAD,
            },
        ),
        (
            AlbertForMaskedLM,
            ALBERT,
            ALBERT_WEIGHTS,
            {
                "albert.encoder.embedding_hidden_mapping_in": OUTSIDE,
                "predictions.dense": HEAD,
                "predictions.decoder": TIED,
            },
        ),
        (
            AlbertForSequenceClassification,
            ALBERT,
            ALBERT_WEIGHTS,
            {
                "albert.encoder.embedding_hidden_mapping_in": OUTSIDE,
                "albert.pooler": OUTSIDE,
                "classifier": HEAD,
            },
        ),
        (LlamaForCausalLM, LLAMA, LLAMA_WEIGHTS, {"lm_head": HEAD}),
        (LlamaForCausalLM, TIED_LLAMA, LLAMA_WEIGHTS, {"lm_head": TIED}),
    ],
)
def test_the_targets_are_the_linears_of_the_layer_stack(architecture, config, names, left_out) -> None:
    targets = find_targets(architecture(config))
    assert targets.names == names
    assert {entry.name: entry.reason for entry in targets.left_out} == left_out


@pytest.mark.parametrize("architecture", [BertForPreTraining, BertForSequenceClassification, BertModel])
def test_every_linear_is_either_a_target_or_left_out(architecture) -> None:
    model = architecture(BERT)
    targets = find_targets(model)
    listed = [target.name.removesuffix(".weight") for target in targets]
    listed += [entry.name for entry in targets.left_out]
    assert sorted(listed) == sorted(
        name for name, module in model.named_modules() if isinstance(module, nn.Linear)
    )


def test_a_bare_base_model_has_the_same_targets_without_its_prefix() -> None:
    assert find_targets(BertModel(BERT)).names == weights("encoder.layer", BERT_LAYER)


def test_names_are_keys_of_the_state_dict_and_weights_are_the_models_own() -> None:
    model = BertForPreTraining(BERT)
    parameters = dict(model.named_parameters())
    assert all(parameters[target.name] is target.weight for target in find_targets(model))


def test_a_stack_beside_the_base_model_is_a_head_though_it_shares_the_prefix() -> None:
    model = BertForSequenceClassification(BERT)
    model.bert_experts = nn.ModuleList([nn.Linear(32, 32)])
    targets = find_targets(model)
    assert targets.names == BERT_WEIGHTS
    assert LeftOut("bert_experts.0", HEAD) in targets.left_out


def test_an_untied_decoder_is_left_out_as_a_head() -> None:
    model = BertForPreTraining(BertConfig(tie_word_embeddings=False, **SIZES))
    assert LeftOut("cls.predictions.decoder", HEAD) in find_targets(model).left_out


def test_albert_holds_its_shared_layer_once() -> None:
    targets = find_targets(AlbertForMaskedLM(ALBERT))
    assert len(targets) == 6
    assert len({id(target.weight) for target in targets}) == 6


def test_two_modules_with_one_weight_give_one_target() -> None:
    model = BertModel(BERT)
    model.encoder.layer[1].output.dense.weight = model.encoder.layer[0].output.dense.weight
    targets = find_targets(model)
    assert len(targets) == 11
    assert "encoder.layer.0.output.dense.weight" in targets.names
    assert (
        LeftOut("encoder.layer.1.output.dense", "shares its weight with encoder.layer.0.output.dense")
        in targets.left_out
    )


def test_a_model_without_linears_has_nothing_to_prune() -> None:
    with pytest.raises(ValueError, match="Embedding has nothing to prune; name Linears with include"):
        find_targets(nn.Embedding(4, 4))


def test_a_lone_linear_is_named_by_its_weight() -> None:
    assert find_targets(nn.Linear(4, 2), include=[""]).shapes == {"weight": (2, 4)}


def test_the_preview_names_targets_and_what_is_left_out() -> None:
    model = nn.Module()
    model.layers = nn.ModuleList([nn.Linear(4, 2), nn.Linear(600, 2)])
    model.head = nn.Linear(2, 2)
    assert str(find_targets(model)) == (
        "2 targets, 1,208 weights\n"
        "  layers.0.weight  2 x 4\n"
        "  layers.1.weight  2 x 600\n"
        "1 Linears left out\n"
        "  head: outside the layer stack (embedding projection or pooler)"
    )
