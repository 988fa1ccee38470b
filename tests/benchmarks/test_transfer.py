"""What carries over between real lines."""

from pathlib import Path

import numpy as np

from benchmarks.transfer import WHOLE, op3


def test_of_real_cell_types_known_effects_agree_better_than_copying_and_are_told_apart_as_well(
    shared_data: Path,
) -> None:
    found = op3(shared_data / "op3_ranks.npz", each=2)
    means = {way: np.mean(list(scores.values()), axis=0) for way, scores in found.items()}
    correlation, apart = means["stack"] - means["copied"]
    assert correlation > 0.03 and apart > 0
    # What is held back of the mean effect is worth more in telling apart than it costs.
    cost, gain = means[WHOLE] - means["stack"]
    assert cost < 0.02 and gain < -0.03
