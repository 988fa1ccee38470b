"""What a model with known effects predicts is held against what it makes of a control cell."""

import numpy as np
import pytest
import torch

from components.shared.model import model as scgpt_model
from components.shared.model.inference import predict_cells
from components.shared.model.tokens import Targets
from tests.shared.model.checkpoints import ARGS, VOCABULARY


@pytest.mark.parametrize("window", [0, 8])
def test_what_is_neither_flagged_nor_known_to_change_anything_stays_the_control_cell(window):
    """Training shows the model controls whose effect is 0, of which it makes something, too."""
    torch.manual_seed(0)
    model = scgpt_model.build(ARGS, VOCABULARY)
    scgpt_model.give_effects(model)
    with torch.no_grad():
        for parameter in model.effect_encoder.parameters():
            parameter.normal_()
    model.eval()
    basal, none = torch.rand(3, 20), np.empty(0, np.int64)
    found = predict_cells(
        model,
        basal,
        [Targets(none, none)],
        np.arange(20),
        np.random.default_rng(0).permutation(20),
        window=window,
        contrast=True,
        device=torch.device("cpu"),
        precision="fp32",
        effects=torch.zeros(1, 20),
    )
    torch.testing.assert_close(found, basal, atol=1e-5, rtol=0)
