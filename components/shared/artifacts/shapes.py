"""The shape of the documents that one stage writes and others read, for `documents.check_shape`.

A document may have more entries than are named here; a name that ends in ``?`` may be missing.
"""

from components.shared.storage.documents import Shape

NUMBER = (int, float)
VALUE = (int, float, None)
"""A metric's value, null where there is none."""
NAME = (str, None)
MEANS: Shape = {str: VALUE}

SETTINGS: Shape = {
    "predicted_cells": str,
    "precision": str,
    "batch_size": int,
    "predict_window": int,
    "contrast": bool,
    "token_for_unmeasured": bool,
    "validation_cells?": (int, None),
    "scale_effects?": bool,
}
"""Settings in `args.json` that a prediction needs."""

GENE_PRIOR: Shape = {
    "kind": str,
    "licence?": NAME,
    "source?": NAME,
    "sources?": [{"source": str, "licence": str}],
    "effects?": {"uri?": str},
    "vocabulary_sha256?": str,
}
"""`prior.json`, which is the summary of a gene prior too, and in a model's statistics."""

STATS: Shape = {
    "seed": int,
    "cells_per_second": NUMBER,
    "wall_clock_seconds": NUMBER,
    "epochs_run": int,
    "best_epoch": int,
    "best_val_pearson_delta?": VALUE,
    "device?": str,
    "processes?": int,
    "recipe?": str,
    "pretrained?": str,
    "random_init?": bool,
    "prior?": GENE_PRIOR,
    "prior_asked_for?": str,
    "stop_reason?": str,
    "training_cells?": int,
    "training_controls?": int,
    "cells_per_epoch?": int,
    "cells_seen?": int,
    "parameters?": int,
    "genes?": int,
    "genes_modelled?": int,
    "network_weight?": NUMBER,
    "effects_are?": str,
    "wandb_run?": NAME,
    "limitations?": [str],
    "history?": [{"val_pearson_delta?": VALUE}],
    "settings?": {str: object},
}
"""`training_stats.json` of a model."""
FULL_STATS: Shape = STATS | {
    "recipe": str,
    "best_val_pearson_delta": VALUE,
    "stop_reason": str,
    "training_cells": int,
    "cells_per_epoch": int,
    "cells_seen": int,
    "parameters": int,
    "device": str,
}
"""The same, of which a card can tell how the model was trained."""

HELD_OUT: Shape = {
    "line": str,
    "control_similarity": VALUE,
    "perturbations": int,
    "pearson_delta": VALUE,
    "untrained": int,
    "untrained_pearson_delta": VALUE,
}
CONFIDENCE: Shape = {"scale": NUMBER, "scale_from": str, "why": str, "held_out": [HELD_OUT]}
"""`confidence.json` of a model."""

PROVENANCE: Shape = {
    "made_by?": str,
    "code?": {"version": str, "revision": str},
    "image?": str,
    "parameters": {str: object},
    "inputs": {str: {"format?": str, "sha256": str}},
    "summary": {str: object},
    "files": {str: {"sha256": str}},
}
"""`provenance.json` of any artifact."""

SOURCE: Shape = {"source?": str, "source_sha256?": str}
"""Where cells come from, as the tasks pass it on."""
SPLITS_SUMMARY: Shape = SOURCE | {
    "train_lines?": [str],
    "test_line?": str,
    "few_shot?": bool,
    "controls_halved?": bool,
    "test_line_training_cells?": int,
    "test_line_validation_cells?": int,
    "test_cells?": int,
    "test_perturbations?": int,
    "test_controls_basal?": int,
    "test_controls_reference?": int,
    "scale_caveat?": str,
}
MODEL_SUMMARY: Shape = SOURCE | {"published_at?": str}
PREDICTIONS_SUMMARY: Shape = SOURCE | {
    "test_line?": str,
    "cells?": int,
    "perturbations?": int,
    "not_measured?": int,
    "not_predicted?": [str],
    "unmeasured_targets?": int,
    "unflagged_perturbations?": int,
    "doubles?": int,
    "clipped_fraction?": NUMBER,
    "scale?": NUMBER,
}
EVALUATION_SUMMARY: Shape = SOURCE | {"scored?": bool}
FAILED_SUMMARY: Shape = {"stage": str, "reason": str}
