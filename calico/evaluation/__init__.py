"""A segmenter against annotated images: answers, clicks and boxes, measured by `calico.metrics` and shown as a page."""

from calico.evaluation.cases import Case, PartDataCases, drawing_cases
from calico.evaluation.run import EvaluationRun, evaluate_drawings

__all__ = ["Case", "EvaluationRun", "PartDataCases", "drawing_cases", "evaluate_drawings"]
