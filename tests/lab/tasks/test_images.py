"""Images are cut and mirrored at random: the right pixels, each square as often, repeatably."""

import pytest
import torch
from torch import Tensor, nn

from grawa.lab.tasks.images import Colours, center_crop, crop_and_flip, normalised


def numbered(count: int, size: int) -> Tensor:
    """Images each of whose pixels has a value of its own, from 1."""
    pixels = torch.arange(1, size * size + 1, dtype=torch.uint8).view(1, 1, size, size)
    return pixels.repeat(count, 3, 1, 1)


def squares(size: int, padding: int) -> set[bytes]:
    """All squares that can be cut, and their mirror images."""
    padded = nn.functional.pad(numbered(1, size)[0, 0], (padding,) * 4)
    cuts = [
        padded[top : top + size, left : left + size]
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    ]
    return {bytes(cut.flatten().tolist()) for one in cuts for cut in (one, one.flip(1))}


def as_bytes(images: Tensor) -> list[bytes]:
    return [bytes(image[0].flatten().tolist()) for image in images]


def test_every_square_comes_and_no_other() -> None:
    cut = crop_and_flip(numbered(2000, 6), 6, 1, torch.Generator().manual_seed(0))
    assert cut.dtype == torch.uint8
    assert set(as_bytes(cut)) == squares(6, 1)
    assert len(squares(6, 1)) == 18


def test_all_colours_of_an_image_are_cut_alike() -> None:
    cut = crop_and_flip(numbered(50, 6), 6, 2, torch.Generator().manual_seed(1))
    assert torch.equal(cut[:, 0], cut[:, 1])
    assert torch.equal(cut[:, 0], cut[:, 2])


def test_half_are_mirrored() -> None:
    images = numbered(4000, 4)
    cut = crop_and_flip(images, 4, 0, torch.Generator().manual_seed(2))
    mirrored = (cut == images.flip(3)).flatten(1).all(dim=1)
    straight = (cut == images).flatten(1).all(dim=1)
    assert bool((mirrored | straight).all())
    assert float(mirrored.double().mean()) == pytest.approx(0.5, abs=0.03)


def test_a_seed_says_it_all() -> None:
    images = numbered(100, 6)
    first, same, other = (
        crop_and_flip(images, 6, 2, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_smaller_square_is_cut_from_anywhere() -> None:
    cut = crop_and_flip(numbered(500, 6), 4, 0, torch.Generator().manual_seed(0))
    assert cut.shape == (500, 3, 4, 4)
    assert {int(image.min()) for image in cut[:, 0]} == {1, 2, 3, 7, 8, 9, 13, 14, 15}


def test_the_middle_is_the_middle() -> None:
    assert center_crop(numbered(1, 6), 2)[0, 0].tolist() == [[15, 16], [21, 22]]
    assert torch.equal(center_crop(numbered(1, 6), 6), numbered(1, 6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_colours_have_mean_zero_and_variance_one_in_the_models_dtype(dtype: torch.dtype) -> None:
    images = torch.randint(256, (64, 3, 16, 16), dtype=torch.uint8)
    values = images.double() / 255
    mean, std = (values.mean(dim=(0, 2, 3)).tolist(), values.std(dim=(0, 2, 3)).tolist())
    colours = Colours(tuple(mean), tuple(std))
    found = normalised(images, colours, nn.Linear(1, 1).to(dtype))
    assert found.dtype == dtype
    zero, one = torch.zeros(3, dtype=dtype), torch.ones(3, dtype=dtype)
    torch.testing.assert_close(found.mean(dim=(0, 2, 3)), zero, rtol=0.0, atol=1e-5)
    torch.testing.assert_close(found.std(dim=(0, 2, 3)), one, rtol=1e-4, atol=0.0)
