"""Loading a model folder: effssl beside timm alone, on the same file.

    python benchmarks/loading.py

effssl also checks shapes and sha256, and loads the projector. Figures are medians of alternating
loads in one process, with the file in the system's cache.
"""

import statistics
import tempfile
import time
from pathlib import Path

import timm
import torch
import tyro

import effssl


def main(
    backbones: tuple[str, ...] = (
        "resnet50",
        "resnet18",
        "vit_small_patch16_224",
        "convnext_atto",
        "mobilenetv3_small_050",
        "swin_tiny_patch4_window7_224",
    ),
    repeats: int = 15,
) -> None:
    """Print one row per backbone.

    Args:
        backbones: Names in timm.
        repeats: Number of loads of each kind.
    """
    print(f"torch {torch.__version__}, timm {timm.__version__}, {torch.get_num_threads()} threads")
    print("| backbone | MB | timm | effssl | effssl / timm |\n|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as root:
        for backbone in backbones:
            folder = Path(root) / backbone
            effssl.save_pretrained(effssl.create_model(backbone), folder)
            loads = {
                "timm": lambda f=folder: timm.create_model(f"local-dir:{f}", pretrained=True),
                "effssl": lambda f=folder: effssl.from_pretrained(f),
            }
            seconds = {name: [] for name in loads}
            for _ in range(repeats + 1):
                for name, load in loads.items():
                    start = time.perf_counter()
                    load()
                    seconds[name].append(time.perf_counter() - start)
            # the first load of each kind fills caches
            ms = {name: 1e3 * statistics.median(times[1:]) for name, times in seconds.items()}
            size = (folder / "model.safetensors").stat().st_size / 1e6
            ratio = ms["effssl"] / ms["timm"]
            print(
                f"| {backbone} | {size:.0f} | {ms['timm']:.0f} ms | {ms['effssl']:.0f} ms | "
                f"{ratio:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    tyro.cli(main)
