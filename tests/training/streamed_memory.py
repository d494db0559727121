"""Print the peak memory, in MB, of reading a stream or of training on it.

    python tests/training/streamed_memory.py DATA read
    python tests/training/streamed_memory.py DATA RUN_FOLDER

The first reads and decodes one epoch as a run does, the second is a run of one epoch.
"""

import sys
from pathlib import Path

import torch

import effssl
from effssl import PretrainConfig
from effssl.data import load_source
from effssl.data._loader import BatchShard, decode_size
from effssl.training._batches import create_batches, create_loader


def peak() -> float:
    # ru_maxrss would include what the parent held when it started this process
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


def main(data: str, output: str) -> None:
    config = PretrainConfig(
        dataset=data,
        streaming=True,
        backbone="test_resnet",
        img_size=32,
        preset="cifar",
        projector_dim=16,
        views=2,
        batch_size=100,
        epochs=1,
        workers=2,
        precision="fp32",
        cpu=True,
        output=output,
    )
    if output != "read":
        effssl.pretrain(config)
    else:
        source = load_source(data, streaming=True)
        shard, options = BatchShard(100), {"short_side": decode_size(32), "workers": 2}
        batches = create_batches(source, shard, config.seed, **options)
        cpu = torch.device("cpu")
        loader = create_loader(source, batches, cpu, cache_bytes=0, **options)
        read = sum(len(batch.rows) for batch in loader)
        assert read == source.num_images
    print(peak())


if __name__ == "__main__":
    main(*sys.argv[1:])
