"""Evaluation of features: with labels, and without."""

from effssl.evaluation._record import record as record
from effssl.evaluation.accuracy import Accuracy as Accuracy
from effssl.evaluation.evaluate import PROTOCOLS as PROTOCOLS
from effssl.evaluation.evaluate import Evaluation as Evaluation
from effssl.evaluation.evaluate import evaluate as evaluate
from effssl.evaluation.features import extract_features as extract_features
from effssl.evaluation.features import extract_views as extract_views
from effssl.evaluation.fewshot import FewShot as FewShot
from effssl.evaluation.fewshot import fewshot as fewshot
from effssl.evaluation.finetune import finetune as finetune
from effssl.evaluation.invariance import alignment as alignment
from effssl.evaluation.invariance import lidar as lidar
from effssl.evaluation.invariance import uniformity as uniformity
from effssl.evaluation.knn import knn as knn
from effssl.evaluation.linear import linear_probe as linear_probe
from effssl.evaluation.spectrum import effective_rank as effective_rank
from effssl.evaluation.spectrum import eigenvalues as eigenvalues
from effssl.evaluation.spectrum import power_law as power_law
from effssl.evaluation.spectrum import rankme as rankme
from effssl.evaluation.spectrum import spectrum as spectrum
from effssl.evaluation.spectrum import unit_std as unit_std
from effssl.transform import create_transform as create_transform
