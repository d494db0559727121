"""The picture of images and their views."""

import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from effssl import MultiView
from effssl.views import ViewOptions
from effssl.views._picture import draw_views

STILL = ViewOptions(scale=(1, 1), ratio=(1, 1), flip=0, jitter=0, grey=0, mean=(0.3,), std=(0.2,))


def test_a_row_shows_the_image_and_its_views_without_the_normalization():
    images = [torch.randint(0, 256, (3, 96, 96), dtype=torch.uint8) for _ in range(2)]
    picture = pil_to_tensor(draw_views(images, MultiView(STILL, views=3, size=96)))
    height, width = picture.shape[1:]
    assert (height, width) == (2 * 100 + 4 + 20, 4 * 100 + 4)
    for row, image in enumerate(images):
        top = 24 + 100 * row
        for column in range(4):
            left = 4 + 100 * column
            shown = picture[:, top : top + 96, left : left + 96]
            assert (shown.int() - image).abs().max() <= 1


def test_images_of_any_shape_and_channels_fit_their_cells():
    for channels, height, width in [(1, 28, 28), (2, 8, 40), (3, 300, 200), (5, 16, 16)]:
        image = torch.randint(0, 256, (channels, height, width), dtype=torch.uint8)
        multi_view = MultiView("multispectral", views=2, size=32)
        picture = draw_views([image], multi_view, torch.Generator().manual_seed(0))
        assert isinstance(picture, Image.Image) and picture.size == (3 * 100 + 4, 100 + 4 + 20)
