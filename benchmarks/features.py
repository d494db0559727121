"""Feature extraction in images a second, beside the bare forward pass on tensors in memory.

    python benchmarks/features.py            # about 4 minutes on two cores

Both use the same batches and precision, in one process. The bare pass and the extraction with each
number of workers take turns; figures are medians.
"""

import io
import statistics
import time

import torch
import tyro
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

import effssl
from effssl.data import load_source
from effssl.data._decode import decode_image
from effssl.data.sources import Source

CASES = {  # backbone, its arguments, number of images, their side in pixels
    "README's model, gray 28 px PNG": (
        "convnext_zepto_rms",
        {"in_chans": 1, "img_size": 32, "patch_size": 4},
        2048,
        28,
    ),
    "resnet18, RGB 256 px JPEG": ("resnet18", {"img_size": 224}, 256, 256),
    "resnet50, RGB 256 px JPEG": ("resnet50", {"img_size": 224}, 128, 256),
}
BATCH = 128


def images(count: int, side: int, channels: int) -> Source:
    """Return images of the sample, enlarged and encoded as JPEG if ``side`` is not theirs."""
    source = load_source(split=f"train[:{count}]", in_chans=channels)
    if side == 28:
        return source
    cells = []
    for value in source.dataset["image"]:
        pixels = torch.from_numpy(decode_image(value, 3)).permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).resize((side, side)).save(file, "JPEG", quality=90)
        cells.append({"bytes": file.getvalue(), "path": None})
    rows = Dataset.from_dict({"image": cells}, features=Features({"image": ImageFeature()}))
    rows = rows.cast_column("image", ImageFeature(decode=False))
    return Source(rows, "image", None, channels, count)


def bare(model: torch.nn.Module, batches: list[torch.Tensor]) -> None:
    """Run the forward pass of each batch."""
    with torch.inference_mode():
        for batch in batches:
            model(batch)


def main(repeats: int = 3, workers: tuple[int, ...] = (0, 1, 2)) -> None:
    """Print one row per case.

    Args:
        repeats: Number of runs of each kind.
        workers: Numbers of workers to try.
    """
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, batch {BATCH}")
    titles = "".join(f" {n} workers |" for n in workers)
    print(f"| | bare, images/s |{titles}\n|---|--:|{'--:|' * len(workers)}")
    for case, (backbone, options, count, side) in CASES.items():
        model = effssl.create_model(backbone, **options).eval()
        source = images(count, side, options.get("in_chans", 3))
        shape = model.backbone.pretrained_cfg["input_size"]
        batches = list(torch.randn(count, *shape).split(BATCH))
        runs = {"bare": lambda m=model, b=batches: bare(m, b)}
        for n in workers:
            runs[n] = lambda m=model, s=source, n=n: effssl.extract_features(
                m, s, batch_size=BATCH, workers=n
            )
        seconds = {name: [] for name in runs}
        for repeat in range(repeats + 1):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                if repeat:
                    seconds[name].append(time.perf_counter() - start)
        speed = {name: count / statistics.median(times) for name, times in seconds.items()}
        cells = "".join(f" {speed[n]:,.0f} ({speed[n] / speed['bare']:.2f}) |" for n in workers)
        print(f"| {case} | {speed['bare']:,.0f} |{cells}", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
