"""memlib: how probabilistic deep generative models memorize their training images.

images = memlib.load_images("digits")
experiment = memlib.EXPERIMENTS["digits-lr3"]
result = memlib.run(experiment)
scores = memlib.memorization(result)
"""

from memlib import figures
from memlib.data import ImageSet, load_images
from memlib.experiment import EXPERIMENTS, Experiment, variant
from memlib.memorization import exchanged, highly_memorized, memorization
from memlib.runs import full_model, remaining, run

__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "ImageSet",
    "exchanged",
    "figures",
    "full_model",
    "highly_memorized",
    "load_images",
    "memorization",
    "remaining",
    "run",
    "variant",
]
