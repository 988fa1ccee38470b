"""Every metric of cell-eval's full profile in a line, which way is better, and what it looks at."""

from collections.abc import Iterable
from dataclasses import dataclass

from components.shared.artifacts.evaluation import CENTRED

HIGHER, LOWER, NEITHER = "higher", "lower", "neither"

MEANS = "means"
"""A metric of each perturbation's predicted mean: how its cells spread does not change it."""
CELLS = "cells"
"""A metric of the predicted cells: what differs from the controls significantly, or how far."""
MEASURED = "measured"
"""A metric of the measured cells alone."""


@dataclass(frozen=True)
class Metric:
    """A metric's name in cell-eval, which way is better, what it looks at, and what it says."""

    name: str
    better: str
    of: str
    meaning: str
    undefined: str = ""
    """When a perturbation has no value."""


FLAT = "the predicted or the measured change is the same for every gene"
NO_DE = "no measured differentially expressed gene"
ONE_KIND = "the genes that are measured as differentially expressed are none or all"


HEADLINE = (
    Metric(
        "pearson_delta",
        HIGHER,
        MEANS,
        "Correlation over genes of predicted and measured mean change against the controls. Both "
        "changes subtract the same controls, whose noise alone gives what the control mean "
        "scores, and perturbations share common effects, which give what the mean training delta "
        "scores: read it beside the baselines.",
        FLAT,
    ),
    Metric(
        "mae_delta",
        LOWER,
        MEANS,
        "Mean absolute error of the predicted mean change, in log1p of normalised counts.",
    ),
    Metric(
        "discrimination_score_l1",
        HIGHER,
        MEANS,
        "Whether the predicted change lies nearer to its own perturbation's measured change than "
        "to the other perturbations': 1 = nearest of all, 0.5 = chance.",
    ),
    Metric(
        "overlap_at_N",
        HIGHER,
        CELLS,
        "Share of the measured differentially expressed genes (N of them, largest fold change "
        "first) among the first N predicted ones. It is 0, not missing, where N is 0.",
    ),
    Metric(
        "de_direction_match",
        HIGHER,
        MEANS,
        "Share of the measured differentially expressed genes whose predicted change has the "
        "right sign; 0.5 = chance.",
        NO_DE,
    ),
    Metric(
        "de_sig_genes_recall",
        HIGHER,
        CELLS,
        "Share of the measured differentially expressed genes that are called in the prediction "
        "too. Calling every gene gives 1.",
        NO_DE,
    ),
    Metric(
        "pr_auc",
        HIGHER,
        CELLS,
        "Area under precision and recall when genes are ranked by predicted significance. Chance "
        "is the share of genes that are really differentially expressed.",
        ONE_KIND,
    ),
    Metric(
        "roc_auc",
        HIGHER,
        CELLS,
        "Area under the ROC curve of that ranking; 0.5 = chance. Where it is below that, the "
        "report says why.",
        ONE_KIND,
    ),
)

OTHERS = (
    Metric("mse_delta", LOWER, MEANS, "Mean squared error of the predicted mean change."),
    Metric("mae", LOWER, MEANS, "Mean absolute error of the mean expression; equals mae_delta."),
    Metric("mse", LOWER, MEANS, "Mean squared error of the mean expression; equals mse_delta."),
    Metric("discrimination_score_l2", HIGHER, MEANS, "Discrimination by Euclidean distance."),
    Metric("discrimination_score_cosine", HIGHER, MEANS, "Discrimination by cosine distance."),
    *(
        Metric(f"overlap_at_{n}", HIGHER, CELLS, f"overlap_at_N with at most {n} genes.")
        for n in (50, 100, 200, 500)
    ),
    Metric(
        "precision_at_N",
        HIGHER,
        CELLS,
        "Share of the predicted differentially expressed genes found among as many measured ones.",
    ),
    *(
        Metric(f"precision_at_{n}", HIGHER, CELLS, f"precision_at_N with at most {n} genes.")
        for n in (50, 100, 200, 500)
    ),
    Metric(
        "de_spearman_sig",
        HIGHER,
        CELLS,
        "Rank correlation, over perturbations, of how many genes are called; one number in all.",
        "equally many genes are called in every perturbation, so there is no correlation",
    ),
    Metric(
        "de_spearman_lfc_sig",
        HIGHER,
        MEANS,
        "Rank correlation of fold changes over the measured differentially expressed genes.",
        f"{NO_DE}, one alone, or fold changes that are all the same",
    ),
    Metric(
        "de_nsig_counts_real",
        NEITHER,
        MEASURED,
        "Genes called in the measured cells (FDR below 0.05).",
    ),
    Metric("de_nsig_counts_pred", NEITHER, CELLS, "Genes called in the predicted cells."),
    Metric(
        "pearson_edistance",
        HIGHER,
        CELLS,
        "Correlation, over perturbations, of the energy distance to the controls; one number in "
        "all.",
        "there is one perturbation, or the distance is the same for all",
    ),
    Metric(
        "clustering_agreement",
        HIGHER,
        MEANS,
        "Whether predicted perturbations cluster as the measured ones do; one number in all.",
        "there are too few perturbations to cluster",
    ),
)

METRICS = {metric.name: metric for metric in (*HEADLINE, *OTHERS)}
"""cell-eval's full profile."""

OURS = (
    Metric(
        CENTRED,
        HIGHER,
        MEANS,
        "Ours, not cell-eval's: pearson_delta after the measured mean effect of all perturbations "
        "is taken from both changes (Systema, Nature Biotechnology 2025). What is left is what a "
        "perturbation does differently from the others.",
        FLAT,
    ),
)
EVERY = METRICS | {metric.name: metric for metric in OURS}
RETRIEVAL = ("discrimination_score_l1", "discrimination_score_l2", "discrimination_score_cosine")

REFERENCE = (
    "pearson_delta",
    "pr_auc",
    "roc_auc",
    "overlap_at_N",
    "de_sig_genes_recall",
    "de_direction_match",
    "discrimination_score_l1",
    "mae_delta",
)
"""The lines of the reference run's own table, in its order."""


def names_of(what: str, computed: Iterable[str]) -> list[str]:
    """Return which of the computed metrics look at ``what``: `MEANS` or `CELLS`."""
    computed = set(computed)
    return [
        metric.name for metric in METRICS.values() if metric.of == what and metric.name in computed
    ]
