"""Models made without drawing their weights, while other threads draw as usual."""

import threading

import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, T5Config, T5ForConditionalGeneration

from hf_sparse.checkpoint.packed.model import Undrawn
from tests.support.tiny import SIZES

KINDS = {
    BertForSequenceClassification: BertConfig(**SIZES),
    T5ForConditionalGeneration: T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2),
}


def test_nothing_is_drawn_and_buffers_are_as_ever() -> None:
    for kind, config in KINDS.items():
        plain, before = kind(config), torch.get_rng_state()
        with Undrawn():
            model = kind(config)
        assert torch.equal(torch.get_rng_state(), before)
        buffers = dict(model.named_buffers())
        assert all(torch.equal(buffers[name], value) for name, value in plain.named_buffers())
        assert model.state_dict().keys() == plain.state_dict().keys()


def drawn() -> bool:
    model = BertForSequenceClassification(KINDS[BertForSequenceClassification])
    layer = nn.Linear(64, 64)
    return 0.01 < model.bert.embeddings.word_embeddings.weight.std() < 0.04 and layer.weight.std() > 0.05


def test_other_threads_draw_meanwhile_and_all_do_afterwards() -> None:
    # Two enter before the first leaves: no_init_weights of transformers would stay in place for good.
    entered, left, found = threading.Barrier(2, timeout=30), threading.Event(), []

    def second() -> None:
        with Undrawn():
            entered.wait()
            left.wait(30)

    other = threading.Thread(target=second)
    with Undrawn():
        other.start()
        entered.wait()
    found.append(drawn())
    left.set()
    other.join()
    assert found == [True] and drawn()


def test_truncated_drawing_ends() -> None:
    # It draws until all numbers are within bounds, and what lies in uninitialized memory may not be.
    weight, done = torch.full((4, 4), 9.0), []

    def draw() -> None:
        with Undrawn():
            done.append(nn.init.trunc_normal_(weight, std=0.02))

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    thread.join(20)
    assert done and (done[0].abs() <= 2).all()
