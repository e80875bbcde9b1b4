"""Mask updates take little memory beside the weights, and choose what a plain sort would."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import MixtralConfig, MixtralModel

from hf_sparse.sparsity import topk
from hf_sparse.sparsity.layout import Layout
from hf_sparse.sparsity.mask_update import choose, grow
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.methods.magnitude import absolute
from hf_sparse.sparsity.patterns.block import Block
from hf_sparse.sparsity.patterns.parse import parse_pattern
from hf_sparse.sparsity.patterns.pattern import Pattern
from hf_sparse.sparsity.streamed import ranked_scores, score_tally, streamed_update
from hf_sparse.targets import Targets, find_targets
from tests.support.memory import most_extra_bytes

PATTERNS = ["unstructured", "4x4", "1x4", "2:4"]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make all fixed sizes small, as they are beside the weights of a large model."""
    for module in (ranked_scores, topk):
        monkeypatch.setattr(module, "CHUNK", 1 << 12)
    monkeypatch.setattr(score_tally, "_LIST", 1 << 12)
    monkeypatch.setattr(score_tally, "_BINS_LOG2", 10)
    monkeypatch.setattr(topk, "_SAMPLE", 256)
    monkeypatch.setattr(ranked_scores, "_ROWS", 4)
    monkeypatch.setattr(streamed_update, "_SCRATCH", 0)


def layers(count: int, kind: str = "normal") -> Targets:
    """Return 512 x 512 weights in bf16."""
    torch.manual_seed(0)
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Linear(512, 512, bias=False) for _ in range(count)).to(torch.bfloat16)
    for layer in model.layers:
        nn.init.normal_(layer.weight) if kind == "normal" else nn.init.constant_(layer.weight, 0.5)
    return find_targets(model)


def stored(targets: Targets) -> Masks:
    """Return masks that remove the first weights of each target, and so take memory already."""
    masks = Masks(targets)
    for target in targets:
        keep = torch.ones(target.shape, dtype=torch.bool)
        keep[:4, :2] = False
        target.weight.detach()[:4, :4] = 0
        masks.set(target.name, keep)
    return masks


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", ["normal", "equal"])
@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_an_update_takes_a_small_part_of_the_weights(pattern: str, allocation: str, kind: str) -> None:
    targets = layers(12, kind)
    masks, layout = stored(targets), Layout(targets, parse_pattern(pattern), allocation)
    budgets = layout.budgets(lambda final: 0.4)
    taken = most_extra_bytes(lambda: grow(masks, budgets, absolute, layout.blocks))
    # Scores in fp32 would take twice the weights; a mask of bytes half of them.
    assert taken < 0.08 * sum(target.weight.nbytes for target in targets)
    assert sum(map(masks.removed, targets.names)) == sum(
        budget.removed * layout.blocks[budget.names[0]].size for budget in budgets
    )


@pytest.mark.usefixtures("small_chunks")
def test_experts_are_weights_like_others() -> None:
    options = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_local_experts": 4}
    with torch.device("meta"):
        model = MixtralModel(
            MixtralConfig(**options, num_attention_heads=4, num_key_value_heads=4, vocab_size=64)
        )
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    targets = find_targets(model)
    assert any("[3]" in name for name in targets.names)
    masks, layout = stored(targets), Layout(targets, parse_pattern("unstructured"), "global")
    budgets = layout.budgets(lambda final: 0.5)
    taken = most_extra_bytes(lambda: grow(masks, budgets, absolute, layout.blocks))
    assert taken < 0.1 * sum(target.weight.nbytes for target in targets)
    assert sum(map(masks.removed, targets.names)) == budgets[0].removed


def test_fewer_threads_work_where_each_needs_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    update = streamed_update.StreamedUpdate(Masks(layers(2)), absolute, {})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(streamed_update.StreamedUpdate, "_bytes", lambda *_: 0)
    monkeypatch.setattr(streamed_update, "_SCRATCH", 8 * streamed_update._CHUNKS)
    assert update._threads(update.masks.targets.names) == 4


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5, 6, 8, 12, 16, 24])
def test_bits_of_blocks_are_those_of_their_weights(rows: int, columns: int) -> None:
    block = Block(rows, columns)
    # As few blocks a row as make whole bytes, and more than fit into a byte of flags.
    for count in (8 // math.gcd(columns, 8), 24):
        keep = torch.rand(5, count, generator=torch.Generator().manual_seed(columns)) < 0.5
        expected = np.packbits(block.expand(keep).numpy())
        assert np.array_equal(streamed_update._bits_of_blocks(keep.numpy(), block), expected)


def naive(weights: list[Tensor], gone: list[Tensor], pattern: Pattern, removed: int) -> list[Tensor]:
    """Choose by sorting all blocks of all weights: removed ones first, then by score, then by place."""
    scores = []
    for weight, out in zip(weights, gone, strict=True):
        block = pattern.fit("", tuple(weight.shape))
        own = block.pool(weight.float().abs().masked_fill(out, -torch.inf))
        scores.append(own.flatten())
    flat = torch.cat(scores)
    keep = torch.ones(flat.numel(), dtype=torch.bool)
    keep[flat.argsort(stable=True)[:removed]] = False
    parts = keep.split([own.numel() for own in scores])
    blocks = [pattern.fit("", tuple(weight.shape)) for weight in weights]
    return [
        block.expand(part.view(weight.shape[0] // block.rows, -1))
        for weight, part, block in zip(weights, parts, blocks, strict=True)
    ]


@pytest.mark.usefixtures("small_chunks")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), pattern=st.sampled_from(PATTERNS), turned=st.booleans(), anew=st.booleans())
def test_the_choice_is_that_of_a_sort(data: st.DataObject, pattern: str, turned: bool, anew: bool) -> None:
    seed, step = data.draw(st.integers(0, 99)), data.draw(st.sampled_from([0.0, 0.25, 0.5]))
    generator = torch.Generator().manual_seed(seed)
    shapes = [(16, 20), (8, 64)]
    weights = [torch.randn(shape, generator=generator).bfloat16() for shape in shapes]
    if step:
        weights = [(weight / step).round() * step for weight in weights]
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Linear(columns, rows, bias=False) for rows, columns in shapes)
    for layer, weight in zip(model.layers, weights, strict=True):
        layer.weight = nn.Parameter(weight.t().contiguous().t() if turned else weight.clone())
    targets = find_targets(model)
    masks, layout = Masks(targets), Layout(targets, parse_pattern(pattern), "global")
    before = [torch.zeros(shape, dtype=torch.bool) for shape in shapes]
    for share in (0.2, 0.45):
        (budget,) = layout.budgets(lambda final, share=share: share)
        (choose if anew else grow)(masks, [budget], absolute, layout.blocks)
        kept = naive(
            [target.weight.detach() for target in targets], before, parse_pattern(pattern), budget.removed
        )
        assert all(torch.equal(masks[name], keep) for name, keep in zip(targets.names, kept, strict=True))
        masks.apply_to_weights()
        before = [~masks[name] for name in targets.names]
