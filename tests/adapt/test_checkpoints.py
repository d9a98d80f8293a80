"""Trainings through the backbone that are interrupted go on to the same bits."""

from __future__ import annotations

import pytest
import torch

from diffeat.adapt import DifFeed, FineTuning


class Killed(Exception):
    pass


def dying(kind: type, steps: int) -> type:
    """The same class, whose augmentation fails after so many batches."""

    class Dying(kind):
        def augmented(self, pixels, rng):
            self.steps = getattr(self, "steps", 0) + 1
            if self.steps > steps:
                raise Killed
            return super().augmented(pixels, rng)

    Dying.__name__ = kind.__name__
    return Dying


@pytest.mark.parametrize(("kind", "block"), [(FineTuning, "up.0"), (DifFeed, "up.1")])
def test_going_on_gives_the_same_bits(kind, block, backbone_of, training, held, tmp_path):
    options = {"epochs": 3, "batch_size": 8, "progress": False, "shift": 2}
    given = backbone_of("pixel"), block, 20
    whole = kind(*given, **options).fit(training, held)
    # an epoch is three batches (8, 8, 9), and three more for BatchNorm's moments
    with pytest.raises(Killed):
        dying(kind, 6 + 2)(*given, checkpoint=tmp_path, **options).fit(training, held)
    resumed = dying(kind, 12)(*given, checkpoint=tmp_path, **options).fit(training, held)
    state = resumed.module_.state_dict()
    for name, value in whole.module_.state_dict().items():
        assert torch.equal(value, state[name]), name
    found, expected = (
        [{k: v for k, v in seen.items() if k != "seconds"} for seen in model.history_]
        for model in (resumed, whole)
    )
    assert found == expected
    assert resumed.best_epoch_ == whole.best_epoch_
    with pytest.raises(ValueError, match="pictures was"):
        kind(*given, checkpoint=tmp_path, **options).fit(training.take(range(24)), held)
    with pytest.raises(ValueError, match="random_state was 0, is 1"):
        kind(*given, checkpoint=tmp_path, random_state=1, **options).fit(training, held)
