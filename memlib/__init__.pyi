from . import figures
from .cross_fit import cross_fit, score_models
from .data import ImageSet, load_images
from .experiment import EXPERIMENTS, Experiment, variant
from .latent_model import LatentModel
from .memorization import exchanged, highly_memorized, memorization
from .runs import full_model, remaining, run, stored
from .score_file import score_table, write_scores
from .significance import interval, memorized, p_values

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
