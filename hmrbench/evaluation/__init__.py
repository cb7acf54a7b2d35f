"""Accuracy: a job with all cheap checks, the loop, scores, and what an unfinished run keeps."""

from hmrbench.evaluation.job import EvaluationSettings, Job, boxes_of, card_and_spec, prepare, prepare_pictures
from hmrbench.evaluation.loop import predict
from hmrbench.evaluation.outputs import try_outputs, write_predictions
from hmrbench.evaluation.protocols import body_of, rule_of, with_protocol
from hmrbench.evaluation.rows import evaluate, prepare_network, run
from hmrbench.evaluation.score import measure, score_file
from hmrbench.evaluation.unfinished import predict_all

__all__ = [
    "EvaluationSettings",
    "Job",
    "body_of",
    "boxes_of",
    "card_and_spec",
    "evaluate",
    "measure",
    "predict",
    "predict_all",
    "prepare",
    "prepare_network",
    "prepare_pictures",
    "rule_of",
    "run",
    "score_file",
    "try_outputs",
    "with_protocol",
    "write_predictions",
]
