"""Bits are applied alike by the compiled code, without it, and to weights in another memory order."""

import pytest
import torch
from torch import Tensor

from hf_sparse.native.build import COMPILERS
from hf_sparse.sparsity.streamed import mask_storage
from hf_sparse.sparsity.streamed.mask_storage import BitMask

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SHAPES = [(1, 1), (3, 5), (7, 9), (33, 31), (600, 257)]


@pytest.fixture(params=["compiled", "numpy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "numpy":
        monkeypatch.setattr(mask_storage, "_load", lambda: None)
    elif mask_storage._load() is None:
        pytest.skip(f"there is no compiler of {COMPILERS}")
    return request.param


def noise(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    values[::2, ::3] = -torch.inf
    values[1::2, ::2] = torch.nan
    return values


def random_keep(shape: tuple[int, int]) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.4


def mask_of(keep: Tensor, turned: bool) -> BitMask:
    mask = BitMask((keep.shape[0], keep.shape[1]))
    weight = torch.empty(keep.t().shape).t() if turned else torch.empty(keep.shape)
    assert mask.set(keep, weight) == int((~keep).sum())
    return mask


def bits_of(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.uint8)


@pytest.mark.parametrize("turned_mask", [False, True])
@pytest.mark.parametrize("turned_values", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_removed_entries_are_cleared_and_moved(
    way: str, shape: tuple[int, int], dtype: torch.dtype, turned_mask: bool, turned_values: bool
) -> None:
    keep, before = random_keep(shape), noise(shape, dtype)
    mask = mask_of(keep, turned_mask)
    assert torch.equal(mask.unpack(), keep)
    values = before.t().contiguous().t() if turned_values else before.clone()
    mask.clear(values)
    kept = torch.where(keep, before, torch.zeros((), dtype=dtype))
    assert torch.equal(bits_of(values), bits_of(kept))
    values, aside = before.clone(), torch.full_like(before, 7)
    mask.take(values, aside)
    assert torch.equal(bits_of(values), bits_of(kept))
    assert torch.equal(bits_of(aside), bits_of(torch.where(keep, torch.zeros((), dtype=dtype), before)))


def test_removed_entries_that_are_not_zero_are_counted(way: str) -> None:
    keep = random_keep((600, 257))
    for turned in (False, True):
        assert mask_of(keep, turned).count_removed(torch.ones(600, 257)) == int((~keep).sum())
        assert mask_of(keep, turned).count_removed(keep.float()) == 0


def test_where_nothing_is_removed_no_memory_is_taken() -> None:
    mask = BitMask((4, 8))
    values, aside = torch.ones(4, 8), torch.ones(4, 8)
    mask.clear(values)
    mask.take(values, aside)
    assert values.all() and not aside.any() and mask.unpack().all()
    assert mask._bits is None and mask.nbytes == 4


@pytest.mark.parametrize("shape", [(4, 8), (4, 6)])
def test_the_first_entry_of_each_block_is_found(shape: tuple[int, int]) -> None:
    keep = random_keep(shape)
    for turned in (False, True):
        assert torch.equal(mask_of(keep, turned).first_of(2, 2), keep[::2, ::2])


def test_entries_that_would_return_are_noticed() -> None:
    keep = random_keep((5, 9))
    for turned in (False, True):
        mask = mask_of(keep, turned)
        assert not mask.revives(mask_storage._pack(keep.flatten()).numpy())
        again = keep.clone()
        again[tuple((~keep).nonzero()[-1])] = True
        assert mask.revives(mask_storage._pack(again.flatten()).numpy())


@pytest.mark.parametrize("size", [1, 7, 8, 1001])
def test_other_devices_pack_alike(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_storage, "_CHUNK_ON_DEVICE", 64)
    flags = random_keep((1, size)).flatten()
    bits = mask_storage._pack_by_torch(flags)
    assert torch.equal(bits, mask_storage._pack(flags))
    assert torch.equal(mask_storage._unpack_by_torch(bits)[:size], flags)


def test_a_tensor_of_another_size_is_refused(way: str) -> None:
    mask = mask_of(random_keep((8, 8)), turned=False)
    with pytest.raises(ValueError, match=r"a mask of \(8, 8\) does not fit a tensor of \(4, 8\)"):
        mask.clear(torch.ones(4, 8))


def test_equal_masks_have_equal_digests() -> None:
    keep = random_keep((5, 9))
    one, other = mask_of(keep, turned=False), mask_of(keep.clone(), turned=False)
    assert one.digest() == other.digest()
    keep[0, 0] = ~keep[0, 0]
    assert mask_of(keep, turned=False).digest() != one.digest() != BitMask((5, 9)).digest()
