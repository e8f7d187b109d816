"""memlib: how probabilistic deep generative models memorize their training images.

images = memlib.load_images("digits")
experiment = memlib.EXPERIMENTS["digits-lr3"]
result = memlib.run(experiment)
scores = memlib.memorization(result)
"""

from memlib import figures
from memlib.cross_fit import cross_fit, score_models
from memlib.data import ImageSet, load_images
from memlib.experiment import EXPERIMENTS, Experiment, variant
from memlib.latent_model import LatentModel
from memlib.memorization import exchanged, highly_memorized, memorization
from memlib.runs import full_model, remaining, run, stored
from memlib.score_file import score_table, write_scores
from memlib.significance import interval, memorized, p_values

__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "ImageSet",
    "LatentModel",
    "cross_fit",
    "exchanged",
    "figures",
    "full_model",
    "highly_memorized",
    "interval",
    "load_images",
    "memorization",
    "memorized",
    "p_values",
    "remaining",
    "run",
    "score_models",
    "score_table",
    "stored",
    "variant",
    "write_scores",
]
