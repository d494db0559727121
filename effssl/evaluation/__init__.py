"""Evaluation of frozen features."""

from effssl.evaluation.evaluate import PROTOCOLS as PROTOCOLS
from effssl.evaluation.evaluate import evaluate as evaluate
from effssl.evaluation.evaluate import record as record
from effssl.evaluation.features import extract_features as extract_features
from effssl.evaluation.knn import knn as knn
from effssl.evaluation.linear import linear_probe as linear_probe
from effssl.evaluation.transform import create_transform as create_transform
