#!/usr/bin/python3
"""A small convolutional network in resolution buckets: height and width vary, and padding changes no answer.

Writes to the folder -o:
  images.pt                        the artifact, model `images`, buckets of `RESOLUTIONS`, a declarative kernel
                                   that pads at the right and at the bottom
  requests/N_image.npy             float32 [1, 3, height, width], 0 to 1
  requests/N_scores.npy            float32 [1, 10]: the answers of the network without buckets
  requests/N_heat_map.npy          float32 [1, 1, height / 4, width / 4], rounded up
  requests/index.json              {"model", "tolerance", "requests": [{"height", "width", "image", "scores",
                                    "heat_map" (file names), "bucket"}]}

The saved file is loaded with plain `torch.jit.load` and has to give the same within the tolerance.

Why padding changes nothing: pixels outside the image are -1, so that the network knows them. After each layer
it sets them to zero, which is what a convolution sees beyond the edge of an image; and the mean is over what
is inside.
"""

import argparse
import json
import pathlib
import sys

import torch
from torch import nn

from bucketd import npy, torch_neuronx

RESOLUTIONS = ((64, 64), (64, 128), (128, 64), (128, 128), (256, 256))
OUTSIDE = -1.0
TOLERANCE = 1e-4
SCORES = 10
# Of the heat map: this many pixels of the image are one of it, in each direction.
STRIDE = 4

_SIZES = ((64, 64), (48, 60), (37, 101), (64, 65), (120, 50), (128, 128), (100, 127), (129, 1), (200, 131), (256, 256))


class ImageNetwork(nn.Module):
    """Scores [1, 10] and a heat map [1, 1, ceil(height / 4), ceil(width / 4)] of an image [1, 3, height, width].

    Pixels are 0 to 1, or `OUTSIDE` below and at the right of the image.
    """

    def __init__(self, width=16):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.halvings = nn.ModuleList(
            [
                nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
                nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
            ]
        )
        self.heat = nn.Conv2d(2 * width, 1, 3, padding=1)
        self.scores = nn.Linear(2 * width, SCORES)

    def forward(self, image):
        inside = (image[:, :1] >= 0).to(image.dtype)
        hidden = torch.relu(self.first((image - 0.5) * inside)) * inside
        for halving in self.halvings:
            inside = inside[:, :, ::2, ::2]
            hidden = torch.relu(halving(hidden)) * inside
        mean = hidden.sum((2, 3)) / inside.sum((2, 3)).clamp(min=1.0)
        return self.scores(mean), self.heat(hidden)


def image_network(seed=0):
    """A network with weights drawn from `seed`, the same on every call; scaled so that answers are of size 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ImageNetwork()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter)
            else:
                nn.init.uniform_(parameter, -0.5, 0.5)
    return model.eval().requires_grad_(False)


def random_image(height, width, seed=0):
    """Coloured rectangles and some noise: float32 [1, 3, height, width]."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + height * 1009 + width)
    image = 0.1 * torch.rand(1, 3, height, width, generator=generator)
    for _ in range(8):
        top, left = (int(torch.randint(size, (1,), generator=generator)) for size in (height, width))
        colour = 0.9 * torch.rand(1, 3, 1, 1, generator=generator)
        image[:, :, top : top + 1 + height // 3, left : left + 1 + width // 3] = colour
    return image


def trace_images(model, resolutions=RESOLUTIONS):
    config = torch_neuronx.BucketModelConfig(
        torch_neuronx.PadKernel(dims=[2, 3], value=OUTSIDE),
        name="images",
        input_names=["image"],
        output_names=["scores", "heat_map"],
    )
    examples = [random_image(height, width) for height, width in resolutions]
    return torch_neuronx.bucket_model_trace(lambda: (model, {}), examples, config)


def cropped(scores, heat_map, height, width):
    """The outputs as a caller of the daemon gets them: the heat map without padding."""
    return scores, heat_map[:, :, : -(-height // STRIDE), : -(-width // STRIDE)]


def largest_difference(model, bucketed, image):
    """Between the network without buckets and a bucket model, over both outputs."""
    with torch.no_grad():
        expected = model(image)
    found = cropped(*bucketed(image), *image.shape[2:])
    return max(float((left - right).abs().max()) for left, right in zip(expected, found))


def write_requests(folder, model):
    """Writes images and the answers of `model`; gives the images."""
    folder.mkdir(parents=True, exist_ok=True)
    index, images = [], []
    for number, (height, width) in enumerate(_SIZES):
        image = random_image(height, width, seed=number)
        tensors = dict(zip(("image", "scores", "heat_map"), (image, *model(image))))
        bucket = next(b for b, (h, w) in enumerate(RESOLUTIONS) if height <= h and width <= w)
        entry = {"height": height, "width": width, "bucket": bucket}
        for name, tensor in tensors.items():
            entry[name] = f"{number}_{name}.npy"
            npy.save(folder / entry[name], tensor)
        index.append(entry)
        images.append(image)
    content = {"model": "images", "tolerance": TOLERANCE, "requests": index}
    (folder / "index.json").write_text(json.dumps(content, indent=1) + "\n")
    return images


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="folder")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = image_network()
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "images.pt"
    trace_images(model).save(path)
    loaded = torch.jit.load(str(path))
    largest = 0.0
    for image in write_requests(options.output / "requests", model):
        largest = max(largest, largest_difference(model, loaded, image))
    print(f"{path}: {len(RESOLUTIONS)} resolutions; {len(_SIZES)} images, largest difference {largest:.1e}")
    if not largest <= TOLERANCE:
        sys.exit(f"the difference is above {TOLERANCE}")


if __name__ == "__main__":
    main()
