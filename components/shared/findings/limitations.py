"""Limitations of a run, each with its figure, for the report and the card."""

from collections.abc import Iterator, Mapping
from typing import Any

from components.shared.artifacts.evaluation import RIDGE, SAME_PERTURBATION_DELTA, SEEN, UNSEEN
from components.shared.artifacts.licences import is_open
from components.shared.artifacts.normalisation import TARGET_SUM, USUAL, unit_of
from components.shared.telling.facts import count

FEW_CELLS_EACH = 30
"""Test cells a perturbation below which a measured mean change is mostly noise."""
FEW_TRAINING_CELLS = 10_000
FEW_PERTURBATIONS = 50
FEW_CONTROLS = 100
"""Below these a limitation is named. Rules of thumb, below what published screens have;
the mean of 100 cells is known to a tenth of the spread between cells."""

EFFECTS = "effects"
"""Key of the prior's facts where known effects were given."""

KNOWS_NOTHING_OF = {
    SAME_PERTURBATION_DELTA: "that training does not have",
    RIDGE: "without a vector in the prior",
}
"""Baselines that can fall back to the mean training delta, and for which perturbations."""

Facts = Mapping[str, Any]


def limitations(stats: Facts, predictions: Facts, metrics: Facts, splits: Facts) -> list[str]:
    """Return what this run cannot show or could not do, each with its figure."""
    scored = metrics.get("scored", True)
    found = [
        *_of_training(stats),
        *_of_scale(splits),
        *(_of_splits(splits) if scored else _of_controls(splits)),
        *_of_predictions(predictions),
        *(_of_evaluation(metrics) if scored else ()),
        *stats.get("limitations", []),
    ]
    return [str(text) for text in found]


def _of_training(stats: Facts) -> Iterator[str]:
    if stats["random_init"]:
        yield (
            "The weights started from random values, without pretraining, so this does not show "
            "what a pretrained scGPT can do."
        )
    if stats.get("other_scale"):
        yield stats["other_scale"]
    yield f"One seed ({stats['seed']}): how much the figures vary with the seed is unknown."
    if stats["training_cells"] < FEW_TRAINING_CELLS:
        yield f"Few training cells: {stats['training_cells']:,}."
    if stats.get("best_val_pearson_delta") is None:
        yield "No validation epoch had a pearson_delta: the weights kept were not selected by it."
    trained = [epoch for epoch in stats.get("history", []) if epoch.get("epoch", 1) > 0]
    without = sum(epoch.get("val_pearson_delta") is None for epoch in trained)
    if without:
        yield (
            f"{count(without, 'epoch')} of {stats['epochs_run']} had no validation pearson_delta."
        )
    modelled, genes = stats.get("genes_modelled"), stats.get("genes")
    if modelled is not None and genes is not None and modelled < genes:
        yield (
            f"{genes - modelled:,} of {genes:,} genes are not in the vocabulary: their prediction "
            "is the control cell's own value."
        )
    yield from of_prior(stats)


def _of_network(weight: float) -> str:
    """Return what a network added to known effects, as a sentence."""
    if not weight:
        return (
            "The network adds nothing to that: no epoch was significantly better on held-out sets."
        )
    return (
        f"The network's correction is added with weight {weight:.2f}; its gain is the model's lead "
        "over the prediction known_effects in the report."
    )


def of_prior(stats: Facts) -> Iterator[str]:
    """Yield what a model owes to its prior, and what is not shown of it."""
    prior = stats["prior"]
    if no_prior(prior):
        return
    if EFFECTS in prior:
        yield (
            "The model was given the effect of each perturbation in other lines"
            + (f": {stats['effects_are']}. " if stats.get("effects_are") else ". ")
            + _of_network(stats.get("network_weight", 1.0))
        )
        if stats.get("effects_scaled"):
            yield stats["effects_scaled"]
    if prior["kind"] != "none":
        yield (
            f"The gene prior ({prior['kind']}) was not compared with a shuffled or random one in "
            "this run, so no gain can be attributed to its content."
        )
    if not open_licence(prior):
        yield (
            f"Terms of the gene prior may bind this model too: {prior.get('licence') or 'unknown'}."
        )


def no_prior(prior: Facts) -> bool:
    """Return whether nothing was known beside the training cells and the pretrained weights."""
    return prior["kind"] == "none" and EFFECTS not in prior


def open_licence(prior: Facts) -> bool:
    """Return whether the prior, if any, leaves this project's own licence to the model."""
    from_files = prior["kind"] != "none" or prior.get(EFFECTS, {}).get("uri")
    return not from_files or is_open(str(prior.get("licence")))


def _of_scale(splits: Facts) -> list[str]:
    caveat = splits.get("scale_caveat")
    unit = unit_of(splits.get(TARGET_SUM, USUAL))
    return [f"The expression is {unit} with a caveat: {caveat}."] if caveat else []


def _of_splits(splits: Facts) -> Iterator[str]:
    if few_shot(splits):
        yield (
            f"Few-shot: cells of the test line {splits['test_line']} were in training "
            f"({few_shot(splits)}), so this does not measure transfer to a line never seen."
        )
    cells, perturbations = splits.get("test_cells"), splits.get("test_perturbations")
    if cells and perturbations and cells / perturbations < FEW_CELLS_EACH:
        yield (
            f"Few test cells: {cells / perturbations:.1f} a perturbation on average "
            f"({cells:,} cells, {perturbations:,} perturbations), so the measured changes "
            "themselves are noisy."
        )
    controls = splits.get("test_controls_reference")
    if controls is not None and controls < FEW_CONTROLS:
        yield f"Few reference controls: {controls}; every measured change is against their mean."
    if splits.get("controls_halved"):
        yield (
            "The test line's controls are halved: predicted and measured changes share the noise "
            "of the half that both are taken against, which raises every correlation."
        )
    if perturbations and perturbations < FEW_PERTURBATIONS:
        yield f"Few test perturbations: {perturbations}; the means over them are uncertain."


def _of_controls(splits: Facts) -> Iterator[str]:
    controls = splits.get("test_controls_basal")
    if controls is not None and controls < FEW_CONTROLS:
        yield f"Few controls of the line: {controls}; every prediction is a change of their mean."


def few_shot(splits: Facts) -> str:
    """Return how many cells of the test line were trained on as text, empty if none were."""
    training = splits.get("test_line_training_cells", 0)
    validation = splits.get("test_line_validation_cells", 0)
    if not (splits.get("few_shot") or training or validation):
        return ""
    return f"{training:,} perturbed cells of it in training, {validation:,} in validation"


def _of_predictions(summary: Facts) -> Iterator[str]:
    total = summary["perturbations"]
    if unmeasured := summary.get("unmeasured_targets", 0):
        yield (
            f"{count(unmeasured, 'predicted perturbation')} of {total:,} "
            f"{'has' if unmeasured == 1 else 'have'} a target that is not among the measured genes."
        )
    if unflagged := summary.get("unflagged_perturbations", 0):
        yield (
            f"The model could not identify the perturbed gene of "
            f"{count(unflagged, 'predicted perturbation')} of {total:,}; "
            "its prediction there is that of an unknown perturbation."
        )
    if doubles := summary.get("doubles", 0):
        yield f"{count(doubles, 'predicted perturbation')} of {total:,} name two or more genes."
    if clipped := summary.get("clipped_fraction", 0):
        yield (
            f"{clipped:.2%} of the predicted values lay outside the range of log1p expression "
            "and were clipped."
        )


def _of_evaluation(metrics: Facts) -> Iterator[str]:
    total = metrics["perturbations"]
    nan = {name: n for name, n in metrics["nan_counts"].items() if n}
    if nan:
        named = ", ".join(f"{name} {n}" for name, n in nan.items())
        yield (
            f"Some of the {total:,} perturbations have no value in a metric; means leave them "
            f"out. Number by metric: {named}."
        )
    if without := metrics.get("perturbations_without_de"):
        yield (
            f"{without:,} of {total:,} perturbations {'has' if without == 1 else 'have'} no "
            "measured differentially expressed gene."
        )
    if failed := metrics.get("not_computed"):
        yield f"cell-eval could not compute: {', '.join(failed)}."
    for name, why in KNOWS_NOTHING_OF.items():
        if fallbacks := metrics.get("fallbacks", {}).get(name):
            yield (
                f"The baseline `{name}` fell back to the mean delta for "
                f"{count(fallbacks, 'perturbation')} of {total:,} {why}."
            )
    for part, other in ((SEEN, UNSEEN), (UNSEEN, SEEN)):
        if metrics.get(f"perturbations_{part}") == 0:
            yield f"All test perturbations were {other} in training; none was {part}."
