"""Few-shot classification of frozen features: n labels a class, drawn many times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from effssl.evaluation._batched_logistic import fit_logistic
from effssl.evaluation._episodes import EPISODES, SHOTS, check_episodes, draw_episodes
from effssl.evaluation.accuracy import Accuracy, check_labeled
from effssl.progress import Stage

C = 10.0
"""Weight of the cross-entropies of the logistic regression, in scikit-learn's terms."""
_VALUES = 16_000_000  # of features of episodes, and of scores, at a time


@dataclass(frozen=True)
class FewShot:
    """Result of `fewshot` for one number of labels a class.

    Attributes:
        nearest_mean: Accuracy of the nearest class mean.
        linear: Accuracy of the logistic regression.
    """

    nearest_mean: Accuracy
    linear: Accuracy


def fewshot(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    shots: Sequence[int] = SHOTS,
    episodes: int = EPISODES,
    seed: int = 0,
    progress: bool = False,
) -> dict[int, FewShot]:
    """Classify all test images with n labeled training images a class, drawn many times.

    Features are centered with the mean of all training images, which takes no label, and scaled to
    unit length: Wang et al., "SimpleShot", 2019, https://arxiv.org/abs/1911.04623. The nearest
    class mean is theirs. The logistic regression on such features follows Tian et al., "Rethinking
    Few-Shot Image Classification", ECCV 2020, https://arxiv.org/abs/2003.11539, with ``C`` of
    scikit-learn 10 instead of 1: on images held out of train, 1 held raw pixels back more than
    features, which would have flattered these. Nothing is chosen on test.

    The computation runs on the device of the features. The episodes depend on labels and seed
    alone, so that they are the same for all encoders.

    Args:
        train_features: (N, F).
        train_labels: Classes from 0, (N,).
        test_features: (M, F).
        test_labels: (M,).
        shots: Numbers of labeled images a class; an episode of more has those of fewer.
        episodes: Number of draws.
        seed: Seed of the draws.
        progress: Whether to show a progress bar.

    Returns:
        Accuracies by number of labels; their ``episodes`` are by episode.

    Raises:
        ValueError: If a class of train has fewer images than shots, there are fewer than two
            episodes, or train and test do not fit together (`check_labeled`).
    """
    classes = check_labeled(train_features, train_labels, test_features, test_labels)
    check_episodes(shots, episodes, train_labels)
    present = train_labels.unique()
    mean = train_features.mean(0)
    train, test = F.normalize(train_features - mean), F.normalize(test_features - mean)
    drawn = draw_episodes(train_labels, max(shots), episodes, seed)
    found = {}
    with Stage("few labels", len(dict.fromkeys(shots)) * episodes, "draw", shown=progress) as stage:
        for count in dict.fromkeys(shots):
            tallies = [_Tally(test_labels, classes) for _ in range(2)]
            for rows in _parts(drawn[:, :, :count], train.shape[1]):
                features = train[rows.to(train.device)]  # (E, classes present, count, F)
                for tally, fitted in zip(tallies, _classifiers(features), strict=True):
                    tally.add(test, *fitted, present)
                stage.update(len(rows))
            found[count] = FewShot(*(tally.accuracy() for tally in tallies))
    return found


def _classifiers(features: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield weight (E, classes, F) and bias (E, classes) of each classifier of episodes."""
    _, classes, count, _ = features.shape
    means = features.mean(2)
    yield means, -means.square().sum(2) / 2  # the largest score is at the nearest mean
    labels = torch.arange(classes, device=features.device).repeat_interleave(count)
    yield fit_logistic(features.flatten(1, 2), labels, classes, C)


def _parts(drawn: Tensor, width: int) -> Iterator[Tensor]:
    """Yield episodes, (E, classes, count), as many at a time as fit into memory."""
    each = drawn[0].numel() * width
    yield from drawn.split(max(1, _VALUES // each))


class _Tally:
    """Counts of right predictions by episode, image and class."""

    def __init__(self, labels: Tensor, classes: int) -> None:
        self.labels, self.classes = labels, classes
        self.by_image = torch.zeros_like(labels)
        self.by_episode: list[Tensor] = []
        self.confusion = labels.new_zeros(classes * classes)

    def add(self, test: Tensor, weight: Tensor, bias: Tensor, present: Tensor) -> None:
        """Classify all test images by the classifiers of some episodes.

        Args:
            test: Features, (M, F).
            weight: (E, classes present, F).
            bias: (E, classes present).
            present: The class of each, rising.
        """
        hits = self.labels.new_zeros(len(weight))
        size = max(1, _VALUES // bias.numel())
        for start in range(0, len(test), size):
            some = slice(start, start + size)
            scores = test[some] @ weight.flatten(0, 1).T + bias.flatten()
            guesses = present[scores.unflatten(1, bias.shape).argmax(2)]  # (images, E)
            labels = self.labels[some].unsqueeze(1)
            right = guesses == labels
            self.by_image[some] += right.sum(1)
            hits += right.sum(0)
            cells = (labels * self.classes + guesses).flatten()
            self.confusion.scatter_add_(0, cells, torch.ones_like(cells))  # bincount would wait
        self.by_episode.append(hits)

    def accuracy(self) -> Accuracy:
        """Return the accuracy over all episodes."""
        hits = torch.cat(self.by_episode).cpu()
        confusion = self.confusion.view(self.classes, self.classes).cpu()
        return Accuracy.of_episodes(hits, self.by_image.cpu(), confusion)
