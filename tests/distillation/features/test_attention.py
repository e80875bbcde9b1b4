"""Attention probabilities are compared by their divergence, where they can be had."""

import pytest
import torch
from pairs import KINDS, batch, compare, make, mean, positions, term_of
from test_hidden_models import t5
from torch.nn.functional import kl_div


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_mean_divergence_over_heads_at_each_query(kind: str) -> None:
    student, teacher, inputs = make(kind), make(kind, 1), batch(kind)
    with torch.no_grad():
        ours = student(**inputs, output_attentions=True).attentions
        theirs = teacher(**inputs, output_attentions=True).attentions
    keep = positions(inputs, ours[0][:, 0])
    expected = 0.0
    for mine, wanted in zip(ours, theirs, strict=True):
        terms = torch.where(wanted > 0, wanted * (wanted.log() - mine.log()), 0.0).sum(-1)
        expected += terms.mean(1)[keep].mean() / 2
    actual = mean(compare("attention", student, teacher, inputs), inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=0.0)


def test_the_gradient_is_that_of_the_textbook() -> None:
    student, teacher, inputs = make("bert"), make("bert", 1), batch("bert")
    mean(compare("attention", student, teacher, inputs, layers="last"), inputs).backward()
    ours = student.bert.encoder.layer[1].attention.self.query.weight.grad.clone()
    student.zero_grad()
    mine = student(**inputs, output_attentions=True).attentions[-1]
    wanted = teacher(**inputs, output_attentions=True).attentions[-1].detach()
    keep = inputs["attention_mask"].bool()[:, None].expand(mine.shape[:-1])
    kl_div(mine[keep].clamp(min=1e-30).log(), wanted[keep], reduction="sum").div(
        2 * inputs["attention_mask"].sum()
    ).backward()
    theirs = student.bert.encoder.layer[1].attention.self.query.weight.grad
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
