"""Time and memory of applying a finished model to a line of which there are controls alone.

    python -m benchmarks.predict_line [--perturbations 200] [--genes 2000] [--model tiny]

A screen of three lines trains a model of random weights for an epoch; each stage of `predict-line`
then runs on the fourth line's controls in a fresh process that reports its own high-water mark.
The last lines say what carries over to 1,400 perturbations x 6,546 genes: tables and pages grow
with their product, the transformer's work with FLOPs (`flops`).
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.ingest_memory import measured, python
from components.shared.parameters.pretrained import SIZES

FULL = 1_400, 6_546
"""Perturbations and genes of the published genome-scale screens of essential genes."""

MEAN_FROM = 32
"""Controls that the mean of an unmeasured perturbation is predicted from (`validation_cells`)."""

TRAIN = """
import sys
from components.finetune.finetune import finetune
from components.ingest.ingest import ingest
from components.prior.prior import prior
from components.shared.artifacts.finished import take_model
from components.split.split import split
folder, uri, model = sys.argv[1:]
pretrained = f"random://{model}"
ingest(uri, f"{folder}/screen")
split(f"{folder}/screen", f"{folder}/roles", train_lines=["k562", "jurkat", "hepg2"],
      test_line="rpe1", val_fraction=0.02)
prior("effects", pretrained, f"{folder}/prior")
finetune(f"{folder}/screen", f"{folder}/roles", f"{folder}/prior", f"{folder}/model",
         pretrained=pretrained, recipe="default",
         overrides={"epochs": 1, "batch_size": 64, "max_genes": 128})
take_model(f"{folder}/model", f"{folder}/taken")
"""

STAGES = {
    "ingest": (
        "from components.ingest.ingest import ingest",
        "ingest(sys.argv[1], sys.argv[2] + '/cells', obs_filter={'cell_line': 'rpe1'})",
    ),
    "split": (
        "from components.split.split import split",
        "split(sys.argv[2] + '/cells', sys.argv[2] + '/splits', train_lines=[], test_line='rpe1')",
    ),
    "predict": (
        "from components.predict.predict import predict",
        "predict(*(sys.argv[2] + x for x in ('/taken', '/cells', '/splits', '/predictions')), "
        "cells_per_perturbation={cells})",
    ),
    "evaluate (tables, report, explorer)": (
        "from components.evaluate.evaluate import evaluate",
        "evaluate(*(sys.argv[2] + x for x in ('/predictions', '/cells', '/splits')), "
        "sys.argv[2] + '/evaluation')",
    ),
    "publish": (
        "from components.publish.publish import publish",
        "publish(*(sys.argv[2] + x for x in ('/taken', '/predictions', '/evaluation', '/splits')), "
        "'', sys.argv[2] + '/published')",
    ),
}


def flops(cells: int, tokens: int, width: int, layers: int) -> float:
    """Return the FLOPs of predicting cells with a contrast: two forward passes over all tokens.

    A layer has 12 width^2 weights a token at scGPT's shape (4 of attention, 2 of a feed-forward as
    wide as the model; two FLOPs each), and its attention 4 tokens x width.
    """
    layer = 2 * (4 + 2) * width**2 + 4 * tokens * width
    return 2.0 * cells * tokens * layers * layer


def main() -> None:
    """Train, measure each stage, print a table and the estimate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--perturbations", type=int, default=200)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--cells", type=int, default=0, help="of each perturbation; 0 = default")
    given = parser.parse_args()
    uri = (
        f"sim://screen?cells={given.perturbations * 4 * 12}&genes={given.genes}"
        f"&perturbations={given.perturbations}&lines=4&seed=1&controls_only=rpe1"
    )
    with tempfile.TemporaryDirectory() as folder:
        python(TRAIN, folder, uri, given.model)
        print(f"{given.perturbations} perturbations x {given.genes} genes, random://{given.model}")
        print("| stage | s | MiB, imports | MiB, peak |\n|---|---|---|---|", flush=True)
        total = 0.0
        for stage, (imports, body) in STAGES.items():
            found = measured(imports, body.replace("{cells}", str(given.cells)), uri, Path(folder))
            total += found["seconds"]
            print(
                f"| {stage} | {found['seconds']:.1f} | {found['before']:,.0f} | "
                f"{found['peak']:,.0f} |",
                flush=True,
            )
        print(f"| all | {total:.1f} | | |")
        for file in ("evaluation/explorer.html", "evaluation/effects.parquet"):
            size = (Path(folder) / file).stat().st_size / 1e6
            print(f"{Path(file).name}: {size:.1f} MB")
    times = FULL[0] * FULL[1] / (given.perturbations * given.genes)
    print(f"{FULL[0]:,} x {FULL[1]:,} is {times:.1f} times as many perturbations x genes")
    for name, size in SIZES.items():
        work = flops(FULL[0] * MEAN_FROM, FULL[1], size["embsize"], size["nlayers"])
        print(f"random://{name} there, all genes at once: {work:.1e} FLOPs")


if __name__ == "__main__":
    main()
