"""Displays in scikit-learn's style: what was computed, and how to draw it with matplotlib.

A class method (``from_estimator``, ``from_scores`` …) computes and draws; ``plot(ax=...)`` draws again from what is
kept, and leaves the artists as attributes. matplotlib is imported by the first drawing: ``pip install "mttab[plot]"``.
"""

from mttab.plotting._attention import AttentionDisplay
from mttab.plotting._correlation import CorrelationDisplay
from mttab.plotting._gain import TaskGainDisplay
from mttab.plotting._new_task import NewTaskDisplay
from mttab.plotting._outliers import OutlierScoreDisplay
from mttab.plotting._similarity import TaskSimilarityDisplay
from mttab.plotting._training import TrainingCurveDisplay

__all__ = [
    "AttentionDisplay",
    "CorrelationDisplay",
    "NewTaskDisplay",
    "OutlierScoreDisplay",
    "TaskGainDisplay",
    "TaskSimilarityDisplay",
    "TrainingCurveDisplay",
]
