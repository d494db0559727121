"""Pretrain a backbone on one process or many; the flags are those of ``effssl pretrain``.

    accelerate launch examples/pretrain.py --dataset my/images --backbone resnet50
    accelerate launch --multi_gpu --num_processes 8 examples/pretrain.py --dataset my/images
    torchrun --standalone --nproc_per_node 2 examples/pretrain.py --cpu --batch-size 64

On a CPU, accelerate launch gives a process one thread unless it is told otherwise
(``--num_cpu_threads_per_process 2``), and starts one process whatever ``--num_processes`` says:
use torchrun for more.
"""

import sys

import tyro

import effssl
from effssl.cli import expand_config, run


def main() -> None:
    """Parse the flags and train."""
    flags = (tyro.conf.FlagCreatePairsOff,)
    args = expand_config(sys.argv[1:])
    config = tyro.cli(effssl.PretrainConfig, description=__doc__, args=args, config=flags)
    effssl.pretrain(config)


if __name__ == "__main__":
    run(main)
