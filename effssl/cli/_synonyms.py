"""Words of other libraries and tools for what effssl calls otherwise."""

from __future__ import annotations

import difflib
from collections.abc import Collection

# words in a line mean the same; a command has one of them, or more
_SAME = tuple(
    frozenset(line.split())
    for line in """
    author owner user org organization
    backbone arch architecture model encoder network net model-name
    batch-size bs b batch batchsize train-batch-size total-batch-size per-device-train-batch-size
    cache-gb cache cache-size
    checkpoint-minutes checkpoint-steps save-every save-freq save-steps save-interval
    commit-message message msg m
    cpu no-cuda no-gpu use-cpu force-cpu
    create-pr pr pull-request
    dataset data data-path data-dir data-root data-folder d train-dir train-data root folder input
    delete-all clear clean purge all
    dry-run n noop
    drop-path drop-path-rate stochastic-depth stochastic-depth-prob
    ema ema-decay model-ema model-ema-decay ema-momentum use-ema
    epochs epoch e num-epochs n-epochs max-epochs num-train-epochs ep
    evaluate-every eval-every eval-freq eval-interval val-interval
    freeze-epochs freeze freeze-backbone frozen-epochs freeze-encoder
    grad-checkpointing gradient-checkpointing use-checkpoint activation-checkpointing
    grad-clip clip clip-grad clip-grad-norm max-grad-norm gradient-clip-val
    image-column image-key image-col
    img-size image-size imgsz input-size image-res resolution crop-size size res
    in-chans channels in-channels num-channels n-channels chans
    init init-from weights pretrained-weights pretrained-path initial-checkpoint finetune load-from
    k knn-k nb-knn num-neighbors n-neighbors neighbors
    keep-checkpoints save-total-limit max-checkpoints
    label-column label label-key label-col target target-column
    layer-decay layer-wise-lr-decay layerwise-lr-decay llrd lr-decay-rate
    local-scale local-crops-scale
    local-size local-crop-size local-crops-size local-img-size
    local-views local-crops local-crops-number num-local-crops n-local-crops multi-crop
    log-every log-interval log-freq print-freq print-every logging-steps
    loss objective method algorithm criterion ssl-method
    loss-weight lambd lambda lmbda beta off-diagonal-weight
    lr learning-rate learningrate base-lr blr lr0 eta
    lr-scaling scale-lr lr-scale
    max-minutes budget-minutes minutes max-time time-limit budget
    max-steps steps num-steps iterations iters max-iter max-iters max-iterations
    micro-batch accum-iter accumulate grad-accum gradient-accumulation-steps accum-steps
    optimizer opt optim
    output out o output-dir out-dir output-path output-folder save-dir save-path log-dir json
    overwrite force f
    patch-size patch
    per-class by-class per-class-accuracy
    precision amp fp16 bf16 half mixed-precision dtype
    preset augmentation augment aug augs transform transforms augmentations
    private visibility
    projector-hidden hidden-dim proj-hidden-dim projector-hidden-dim mlp-dim
    projector-layers proj-layers num-layers nlayers head-layers
    projector-dim projector proj-dim projection-dim out-dim embedding-dim emb-dim dim proj
    protocols protocol tasks eval-protocol metrics
    resume continue resume-from auto-resume ckpt checkpoint resume-from-checkpoint
    revision branch tag rev commit
    seed seeds random-seed random-state manual-seed s
    shares labels label-fraction train-percent share percent fractions
    split train-split test-split subset
    temperature temp tau t
    test-split test val val-split validation-split eval-split test-set valid-split
    tracker logger report-to wandb tensorboard log-with
    train-split train-set
    views num-views n-views crops num-crops n-crops num-augs augmentations num-augmentations v
    warmup-epochs warmup warm-up warmup-steps
    weight-decay wd
    workers num-workers w j jobs num-proc threads dataloader-num-workers n-workers
    """.strip().splitlines()
)

# what to do instead of giving a flag that there is not, by a flag of the commands that can do it
_LAUNCH = (
    "cpu",
    "a process trains on one device; for several give torchrun --standalone --nproc_per_node 8 -m "
    "effssl.cli {command} ...",
)
_DEVICE = ("cpu", "a GPU is taken where there is one, and --cpu takes none")
_SCHEDULE = (
    "warmup-epochs",
    "the learning rate rises for --warmup-epochs and falls to zero as a cosine",
)
_ADVICE = {
    "gpus": _LAUNCH,
    "gpu": _LAUNCH,
    "ngpus": _LAUNCH,
    "num-gpus": _LAUNCH,
    "n-gpus": _LAUNCH,
    "devices": _LAUNCH,
    "num-processes": _LAUNCH,
    "nproc-per-node": _LAUNCH,
    "world-size": _LAUNCH,
    "distributed": _LAUNCH,
    "multi-gpu": _LAUNCH,
    "device": _DEVICE,
    "cuda": _DEVICE,
    "accelerator": _DEVICE,
    "lr-scheduler": _SCHEDULE,
    "lr-schedule": _SCHEDULE,
    "scheduler": _SCHEDULE,
    "sched": _SCHEDULE,
    "schedule": _SCHEDULE,
    "min-lr": _SCHEDULE,
    "cos": _SCHEDULE,
}
_COMMANDS = {
    "train": "pretrain",
    "pre-train": "pretrain",
    "fit": "pretrain",
    "run": "pretrain",
    "eval": "evaluate",
    "test": "evaluate",
    "val": "evaluate",
    "validate": "evaluate",
    "benchmark": "evaluate",
    "knn": "evaluate MODEL --protocols knn",
    "linear": "evaluate MODEL --protocols linear",
    "linear-probe": "evaluate MODEL --protocols linear",
    "fewshot": "evaluate MODEL --protocols fewshot",
    "few-shot": "evaluate MODEL --protocols fewshot",
    "finetune": "evaluate MODEL --protocols finetune",
    "fine-tune": "evaluate MODEL --protocols finetune",
    "extract": "features",
    "extract-features": "features",
    "embed": "features",
    "embeddings": "features",
    "encode": "features",
    "predict": "features",
    "infer": "features",
    "plot": "report",
    "html": "report",
    "augment": "views",
    "augmentations": "views",
    "show": "views",
    "preview": "views",
    "upload": "push",
    "publish": "push",
    "push-to-hub": "push",
    "models": "list",
    "ls": "list",
    "search": "list",
    "clean": "cache",
    "suggest": "recommend",
    "plan": "recommend",
    "help": "--help",
    "version": "--version",
}


_VALUES = {
    "barlow": "bt",
    "nt-xent": "simclr",
    "ntxent": "simclr",
    "infonce": "simclr",
    "lejepa": "sigreg",
    "emp-ssl": "coding_rate",
    "empssl": "coding_rate",
    "coding-rate": "coding_rate",
    "w-mse": "wmse",
    "barlow-twins": "bt",
    "barlowtwins": "bt",
    "vic-reg": "vicreg",
    "gray": "grey",
    "grayscale": "grey",
    "float32": "fp32",
    "32": "fp32",
    "no": "fp32",
    "float16": "fp16",
    "16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
    "k-nn": "knn",
    "linear-probe": "linear",
    "few-shot": "fewshot",
    "n-shot": "fewshot",
    "fine-tune": "finetune",
    "fine-tuning": "finetune",
}


def synonyms(word: str) -> set[str]:
    """Return the words that mean the same as the name of a flag, without its hyphens."""
    return {name for names in _SAME if word in names for name in names} - {word}


def advice(word: str, command: str, flags: Collection[str]) -> str:
    """Return what to do instead of giving a flag that no command has, or an empty text.

    Args:
        word: Name of the flag, without its hyphens.
        command: Name of the command.
        flags: Names of the flags that the command has.
    """
    needed, text = _ADVICE.get(word, ("", ""))
    return text.format(command=command) if needed in flags else ""


def command_for(word: str) -> str | None:
    """Return the command that does what a word of other tools says, if there is one."""
    return _COMMANDS.get(word)


def value_for(word: str) -> str | None:
    """Return the choice that a word of other libraries stands for, if there is one."""
    word = word.replace("_", "-")
    near = difflib.get_close_matches(word, _VALUES, n=1, cutoff=0.75)  # misspelled
    return _VALUES.get(word) or (_VALUES[near[0]] if near else None)
