from . import figures
from .data import ImageSet
from .datasets import load_images
from .experiment import EXPERIMENTS, Experiment, variant
from .inference import interval, memorized, p_values
from .memorization import exchanged, highly_memorized, memorization
from .runs.certify import certify
from .runs.cross_fit import cross_fit, score_models
from .runs.latent_model import LatentModel
from .runs.models import fold_models, full_model
from .runs.run import prune, remaining, run, stored
from .runs.score_file import score_table, write_scores

__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "ImageSet",
    "LatentModel",
    "certify",
    "cross_fit",
    "exchanged",
    "figures",
    "fold_models",
    "full_model",
    "highly_memorized",
    "interval",
    "load_images",
    "memorization",
    "memorized",
    "p_values",
    "prune",
    "remaining",
    "run",
    "score_models",
    "score_table",
    "stored",
    "variant",
    "write_scores",
]
