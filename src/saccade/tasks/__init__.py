"""Tasks: the one place where worlds and rewards meet, between their floor and the recipes."""

from saccade.tasks.answering import AnsweringTask, answers_to
from saccade.tasks.drawing import DrawingTask, pictures_of
from saccade.tasks.names import PICTURES, reward
from saccade.tasks.scoring import Show

__all__ = ["PICTURES", "AnsweringTask", "DrawingTask", "Show", "answers_to", "pictures_of", "reward"]
