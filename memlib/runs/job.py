"""What a run is: its images and settings, checked; where its files are, and what is missing of it."""

from dataclasses import asdict, dataclass
from pathlib import Path

import memlib.runs.store as store
from memlib.data import ImageSet
from memlib.experiment import Experiment
from memlib.models import SIDE
from memlib.runs.store import Member, Record, StoreError


@dataclass(frozen=True)
class Job:
    """What every process of a run is told; small, and the same for all.

    Attributes:
        experiment: the specification.
        training: what determines the models, field by field; see `requested`.
        scoring: what determines their scores.
        folder: of the run.
        device: as in `memlib.run`.
        sets: training and held-out images; None where those that the experiment names are to be loaded.
        keep_models: whether models of all evaluated epochs stay, or those of the last alone.
    """

    experiment: Experiment
    training: Record
    scoring: Record
    folder: Path
    device: str | None
    sets: tuple[ImageSet, ImageSet] | None
    keep_models: bool = False

    @property
    def members(self) -> list[Member]:
        return [None, *range(self.experiment.repeats)]

    @property
    def scores(self) -> Path:
        """The folder of the scores."""
        return store.scores_folder(self.folder, self.scoring)

    @property
    def models(self) -> Path:
        """The folder of the repeats' models."""
        return self.folder / "models"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    def path(self, member: Member) -> Path:
        """What a member that is trained has; beside it lies the lock of whoever trains or scores it."""
        return store.member_path(self.folder, member)

    def is_trained(self, member: Member) -> bool:
        return self.path(member).exists()

    def to_score(self, member: Member) -> list[int]:
        """The epochs of a trained member that are to be scored: of which models are kept and scores are not,
        and always the last."""
        if member is None:
            return []
        kept = {*store.epochs_of(self.models, member), self.experiment.epochs}
        return sorted(kept - {*store.epochs_of(self.scores, member)})

    def models_to_score(self, repeat: int) -> dict[int, Path]:
        """The files of the models that are to be scored, by epoch.

        Raises:
            StoreError: one is gone.
        """
        paths = {epoch: store.epoch_path(self.models, repeat, epoch) for epoch in self.to_score(repeat)}
        if gone := next((path for path in paths.values() if not path.exists()), None):
            raise StoreError(
                f"{gone} is not there any more, so that the models cannot be scored anew; delete "
                f"{self.path(repeat)} to train them again, which gives up all scores of earlier epochs"
            )
        return paths

    def is_done(self, member: Member) -> bool:
        return self.is_trained(member) and not self.to_score(member)

    def missing(self) -> dict[Member, int]:
        """The members that are not done, with the epochs of training that each has behind it."""
        return {
            member: self.experiment.epochs
            if self.is_trained(member)
            else max(store.epochs_of(self.checkpoints, member), default=0)
            for member in self.members
            if not self.is_done(member)
        }


def requested(experiment: Experiment, images: ImageSet, held_out: ImageSet) -> tuple[Record, Record]:
    """What determines the training of a repeat, and what its scores: all fields but the number of repeats,
    the images, and the versions.

    Images in a folder count as the same wherever they lie.
    """
    fields = {name: value for name, value in asdict(experiment).items() if name != "repeats"}
    fields["images"] = images.name.partition(":")[0]
    own = {name: fields.pop(name) for name in store.SCORING}
    shas = {"train_sha256": images.sha256, "validation_sha256": held_out.sha256}
    training = {**fields, **shas, "training_version": store.TRAINING_VERSION}
    return training, training | own | {"scoring_version": store.SCORING_VERSION}


def _sets(
    experiment: Experiment, images: ImageSet | None, held_out: ImageSet | None
) -> tuple[ImageSet, ImageSet]:
    """Training and held-out images: those given, checked, else those that the experiment names."""
    if not isinstance(experiment, Experiment):
        raise ValueError(
            f"experiment is {experiment!r:.60}; allowed: an Experiment, as EXPERIMENTS and variant() give"
        )
    if images is None and held_out is None:
        return experiment.load_images(), experiment.load_validation()
    for name, given in (("images", images), ("held_out", held_out)):
        if not isinstance(given, ImageSet):
            kind = type(given).__name__
            raise ValueError(
                f"{name} is a {kind}; allowed: an ImageSet for both images and held_out, or None for both"
            )
        shape = (images.channels, SIDE, SIDE)
        if given.images.shape[1:] != shape:
            raise ValueError(
                f"{name} are {given.images.shape[1:]}; allowed: {shape}, as the models take them"
            )
    if experiment.num_images:
        raise ValueError(
            f"num_images is {experiment.num_images}; allowed with images at hand: 0, all of them"
        )
    if len(images) < experiment.folds:
        raise ValueError(f"folds is {experiment.folds}; allowed: at most the number of images, {len(images)}")
    return images, held_out


def job_of(
    experiment: Experiment,
    images: ImageSet | None,
    held_out: ImageSet | None,
    root: str | Path | None,
    device: str | None = None,
) -> Job:
    """The job of a run; arguments and errors are those of `memlib.run`."""
    sets = _sets(experiment, images, held_out)
    training, scoring = requested(experiment, *sets)
    return Job(experiment, training, scoring, store.training_folder(root, training).resolve(), device, sets)
