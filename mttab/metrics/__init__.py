"""Per-task figures, multitask gain, harmed tasks, average ranks and scorers: does sharing help, and whom.

A mean over tasks misleads when tasks differ in scale or size, so every figure here starts from one number per task.
"""

from mttab.metrics._gain import MultitaskGain, harmed_tasks, multitask_gain
from mttab.metrics._ranks import RankTable, rank_table
from mttab.metrics._scorer import TaskScorer, make_task_scorer
from mttab.metrics._scores import average_scores, task_scores

__all__ = [
    "MultitaskGain",
    "RankTable",
    "TaskScorer",
    "average_scores",
    "harmed_tasks",
    "make_task_scorer",
    "multitask_gain",
    "rank_table",
    "task_scores",
]
