"""Keys of training.json that effssl writes below config, versions and history."""

import dataclasses

from effssl.loss_specs import LOSSES
from effssl.views.options import ViewOptions

CONFIG = frozenset(
    (
        "backbone pretrained in_chans img_size patch_size projector_dim loss loss_weight multiview "
        "dataset split image_column label_column value_range background max_pixels streaming "
        "workers cache_gb max_broken views local_views local_size local_scale local_pairs view "
        "preset batch_size micro_batch epochs max_steps max_minutes optimizer lr lr_scaling "
        "weight_decay warmup_epochs ema grad_clip precision compile deterministic seed cpu resume "
        "overwrite checkpoint_steps checkpoint_minutes keep_checkpoints stop_when_disk_full "
        "timeout_minutes evaluate_every log_every tracker init init_projector projector_layers "
        "projector_hidden freeze_epochs layer_decay drop_path grad_checkpointing"
    ).split()
)
"""Fields of a run's configuration whose values are published."""
VIEW = frozenset(field.name for field in dataclasses.fields(ViewOptions))
"""Fields of ``view`` in it."""
PRIVATE = frozenset({"output"})
"""Fields that are there without their values, since they are paths."""
VERSIONS = frozenset({"python", "effssl", "torch", "torchvision", "timm", "accelerate", "datasets"})
"""Packages whose versions are told."""
_SIGNS = ("std", "rank", "alpha", "rankme")
COLUMNS = frozenset(
    {"step", "epoch", "loss", "lr", "grad_norm", "views_per_s", "waiting", "memory_mb", "broken"}
    | {part for spec in LOSSES.values() for part in spec.parts}
    | {"knn", "knn_start", "skipped_steps", "skipped_batches"}
    | {f"{of}_{sign}" for of in ("feature", "projection") for sign in _SIGNS}
)
"""Metrics over training, with the parts of all losses."""
