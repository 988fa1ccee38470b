"""What each mend of the reference recipe is worth, on generated screens whose effects are known.

    python -m benchmarks.ablation [--seeds 3] [--cells 6000] [--genes 400] ... [--processes 2]

A run is one recipe on one seed: a screen, a split, initial weights and draws of its own. The rows
begin with the recipe `reference` and take over one mend after the other from `default`, until
nothing but the size of the run differs from it; the baselines that need no model stand beside
them. A second table tries ways to choose the epoch. Finished runs are kept as JSON in --folder and
not done again, so that it goes on where it was stopped; docs/ablation.md is written after each.
"""

import argparse
import io
import json
import multiprocessing
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from components.evaluate.baselines import (
    CONTROL_MEAN,
    MEAN_DELTA,
    SAME_PERTURBATION_DELTA,
    baseline_means,
)
from components.evaluate.metrics import HIGHER, LOWER
from components.evaluate.training import training_pseudobulks
from components.finetune.finetune import start_model
from components.finetune.loading import load_training_data
from components.finetune.state import Epoch
from components.finetune.training import fit
from components.finetune.validation import discrimination, pearson
from components.ingest.ingest import ingest
from components.shared.artifact import code_version
from components.shared.cells import Cells
from components.shared.errors import one_line_errors
from components.shared.inference import predict_means
from components.shared.perturbation import genes_of
from components.shared.progress import bar
from components.shared.recipe import Recipe, load_recipe
from components.shared.splits import TEST, Splits
from components.shared.tokens import GeneTokens
from components.split.split import split

TRAIN_LINES, TEST_LINE = ["k562", "jurkat", "hepg2"], "rpe1"
FRACTION, WHOLE_LINE, ACROSS_LINES = "a fraction of one line", "a whole line", "across lines"
HELD_OUT = 0.15
"""Of the perturbations, where not a whole line is held out."""
DEVICE = torch.device("cpu")
CELLS_AT_ONCE = 128
PROBE_CELLS = 16
"""Controls that the test line is predicted from after each epoch."""

Floats = NDArray[np.float64]
Scores = dict[str, float]


@dataclass(frozen=True)
class Size:
    """What is the same in every run: small enough for a CPU."""

    cells: int
    genes: int
    perturbations: int
    epochs: int
    batch_size: int
    max_genes: int
    set_size: int
    learning_rate: float
    learning_rate_decay: float
    pretrained: str

    def screen(self, seed: int) -> str:
        """Return the URI of a seed's screen."""
        return (
            f"sim://screen?cells={self.cells}&genes={self.genes}"
            f"&perturbations={self.perturbations}&lines=4&seed={seed}"
        )


@dataclass(frozen=True)
class Mend:
    """Settings that are taken over from `default` together."""

    name: str
    settings: tuple[str, ...]


MENDS = (
    Mend("perturbed genes in the window", ("targets_in_window",)),
    Mend("a token for targets not measured", ("token_for_unmeasured",)),
    Mend("partners redrawn, controls with others", ("redraw_controls", "control_partner")),
    Mend('"not perturbed" adds nothing', ("zero_no_flag",)),
    Mend("prediction in training windows", ("predict_window",)),
    Mend("contrast", ("contrast", "validation_cells")),
    Mend("loss on the change of sets", ("set_size", "delta_weight")),
)
NOT_TRIED = (
    "precision",
    "predicted_cells",
    "prior_neutral",
    "scale_effects",
    "selection",
    "match_batches",
    "centre_lines",
)
"""Settings without a bearing here: the CPU computes in float32, scores are of means, no prior; the
factor is applied to a finished model (`docs/confidence.md`); how an epoch is chosen is tried in
`docs/transfer.md`; batches and lines' own responses in `docs/cells.md`."""


@dataclass(frozen=True)
class Run:
    """One recipe on one seed."""

    row: str
    seed: int
    held_out: str
    overrides: dict[str, Any]
    """Of the recipe `reference`."""
    size: Size
    probe: bool = False
    """Whether the test line is scored after each epoch."""

    @property
    def name(self) -> str:
        """The same for the same run, another for any other."""
        facts = {key: value for key, value in asdict(self).items() if key != "row"}
        digest = sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return f"seed{self.seed}-{digest[:12]}"

    @property
    def recipe(self) -> Recipe:
        """The settings it trains with."""
        return load_recipe("reference", self.overrides)


def ladder(size: Size, seed: int) -> list[Run]:
    """Return the runs of one seed, from `reference` to `default`."""
    common = {
        "epochs": size.epochs,
        "early_stop_after": size.epochs,
        "batch_size": size.batch_size,
        "max_genes": size.max_genes,
        "learning_rate": size.learning_rate,
        "learning_rate_decay": size.learning_rate_decay,
    }
    ours = asdict(load_recipe("default", {}))
    ours |= {"predict_window": size.max_genes, "set_size": size.set_size}
    runs = [Run("reference", seed, FRACTION, common, size)]
    for mend in MENDS:
        overrides = runs[-1].overrides | {name: ours[name] for name in mend.settings}
        last = mend is MENDS[-1]
        runs.append(Run(f"+ {mend.name}", seed, FRACTION, overrides, size, probe=last))
    return runs


def validations(size: Size, seed: int) -> list[Run]:
    """Return the runs of one seed that differ in what is held out to choose the epoch."""
    last = ladder(size, seed)[-1]
    return [
        replace(last, row=held_out, held_out=held_out)
        for held_out in (FRACTION, ACROSS_LINES, WHOLE_LINE)
    ]


@dataclass(frozen=True)
class TestLine:
    """What the test line's cells say, and what is true of it."""

    perturbations: list[str]
    control: Floats
    """Mean of the basal controls, [genes], log1p of counts per 10,000, as are the next."""
    reference: Floats
    """Mean of the reference controls, [genes]."""
    measured: Floats
    """Mean change against the reference controls, [perturbations, genes]."""
    true: Floats
    """True change, [perturbations, genes]."""
    targets: list[NDArray[np.int64]]
    """Columns of each perturbation's own genes."""

    @classmethod
    def of(cls, cells: Cells, splits: Splits) -> "TestLine":
        """Read a generated screen."""
        labels = splits.table["perturbation"].to_numpy(str)
        test, line = splits.rows(TEST), splits.test_line
        names = np.unique(labels[test]).tolist()
        groups = np.full(len(labels), -1)
        groups[test] = np.searchsorted(names, labels[test])
        groups[splits.reference(line)] = len(names)
        *means, reference = cells.group_means(groups, len(names) + 1)
        # A pass of its own: a control can be basal and reference too.
        pool = np.full(len(labels), -1)
        pool[splits.basal(line)] = 0
        [control] = cells.group_means(pool, 1)
        truth = np.load(cells.artifact.path / "truth.npz")
        rows = [truth["perturbations"].tolist().index(name) for name in names]
        place = {gene: i for i, gene in enumerate(cells.genes)}
        return cls(
            names,
            control,
            reference,
            np.array(means) - reference,
            truth["effects"][truth["lines"].tolist().index(line)][rows].astype(float),
            [np.array([place[g] for g in genes_of(name) if g in place], int) for name in names],
        )

    def scores(self, means: Floats) -> Scores:
        """Score predicted means [perturbations, genes] as cell-eval does, and against the truth."""
        means = np.maximum(means, 0.0)
        change = means - self.reference
        true = [pearson(a, b) for a, b in zip(means - self.control, self.true, strict=True)]
        return {
            "pearson_delta": _mean(map(pearson, change, self.measured)),
            "discrimination": _mean(discrimination(change, self.measured, self.targets)),
            "mae_delta": float(np.abs(change - self.measured).mean()),
            "pearson_true": _mean(true),
        }


def _mean(values: Iterable[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def screen_of(size: Size, seed: int, held_out: str, folder: Path) -> tuple[Cells, Splits]:
    """Return a seed's cells and their split, made where they are not there yet."""
    uri = size.screen(seed)
    place = folder / f"screen-{sha256(uri.encode()).hexdigest()[:12]}"
    if not (place / "cells").exists():
        ingest(uri, place / "cells")
    cells = Cells.open(place / "cells")
    target = place / held_out.replace(" ", "_")
    if not target.exists():
        options: dict[str, Any] = {"val_fraction": 1.0 if held_out == WHOLE_LINE else HELD_OUT}
        if held_out == ACROSS_LINES:
            file = place / "across.toml"
            file.write_text(_across_lines(cells, seed))
            options = {"split_file": str(file)}
        split(
            place / "cells",
            target,
            train_lines=TRAIN_LINES,
            test_line=TEST_LINE,
            seed=seed,
            **options,
        )
    return cells, Splits.open(target, cells)


def _across_lines(cells: Cells, seed: int) -> str:
    """Return a split file that holds out other perturbations in each training line."""
    rng = np.random.default_rng([seed, 7])
    perturbed = cells.obs[~cells.obs["is_control"]]
    names = rng.permutation(sorted(set(perturbed["perturbation"])))
    each = max(1, round(HELD_OUT * len(names) / len(TRAIN_LINES)))
    parts = ['[training]\nscreen = "train"\n', f'[zeroshot]\n"screen.{TEST_LINE}" = "test"\n']
    for number, line in enumerate(TRAIN_LINES):
        there = set(perturbed["perturbation"][perturbed["cell_line"] == line])
        drawn = names[number * each : (number + 1) * each]
        listed = [str(name) for name in drawn if name in there]
        parts.append(f'[fewshot."screen.{line}"]\nval = {json.dumps(listed)}\n')
    return "\n".join(parts)


def do(run: Run, folder: Path) -> dict[str, Any]:
    """Train and score one run; return and keep what came out."""
    torch.set_num_threads(1)
    cells, splits = screen_of(run.size, run.seed, run.held_out, folder)
    line, recipe = TestLine.of(cells, splits), run.recipe
    torch.manual_seed(run.seed)
    model, _, vocabulary, _ = start_model(run.size.pretrained, recipe)
    tokens = GeneTokens.of(cells.genes, vocabulary)
    data = load_training_data(
        cells, splits, tokens, DEVICE, token_for_unmeasured=recipe.token_for_unmeasured
    )
    basal = torch.from_numpy(cells.rows(splits.basal(TEST_LINE)).toarray())[:, tokens.columns]

    def scores(most: int) -> Scores:
        model.eval()
        targets = [
            tokens.targets(name, token_for_unmeasured=recipe.token_for_unmeasured)
            for name in line.perturbations
        ]
        order = np.random.default_rng([run.seed, 5]).permutation(len(tokens.ids))
        predicted = predict_means(
            model,
            basal[:most],
            targets,
            tokens.ids,
            order,
            window=recipe.predict_window,
            contrast=recipe.contrast,
            batch_size=CELLS_AT_ONCE,
            device=DEVICE,
            precision=recipe.precision,
        )
        means = np.tile(line.control, (len(targets), 1))
        means[:, tokens.columns] = torch.stack(list(predicted)).numpy()
        if recipe.contrast:  # some controls stand for all
            means[:, tokens.columns] += (basal.mean(0) - basal[:most].mean(0)).numpy()
        return line.scores(means)

    probes: list[float] = []

    def after(epoch: Epoch) -> None:
        if run.probe:
            probes.append(scores(PROBE_CELLS)["pearson_delta"])

    wall, cpu = time.perf_counter(), time.process_time()
    with redirect_stderr(io.StringIO()):  # the bars of several processes say nothing together
        result = fit(model, data, recipe, seed=run.seed, device=DEVICE, on_epoch=after)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    model.load_state_dict(result.state)
    found = {
        "row": run.row,
        "run": asdict(run),
        "scores": scores(len(basal)),
        "best_epoch": result.best_epoch,
        "history": result.rows(),
        "probes": probes,
        "training_cells": len(data.train_rows),
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "code": code_version(),
    }
    partial = folder / f".{run.name}.partial"
    partial.write_text(json.dumps(found, indent=2) + "\n")
    partial.rename(folder / f"{run.name}.json")
    return found


def kept(run: Run, folder: Path) -> dict[str, Any] | None:
    """Return what came out of a run that was done before."""
    file = folder / f"{run.name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def baselines(size: Size, seed: int, folder: Path) -> dict[str, Scores]:
    """Return the scores of predictions that need no model, of one seed."""
    cells, splits = screen_of(size, seed, FRACTION, folder)
    line = TestLine.of(cells, splits)
    means, _ = baseline_means(training_pseudobulks(cells, splits), line.perturbations)
    return {name: line.scores(mean) for name, mean in means.items()}


def do_all(runs: Sequence[Run], folder: Path, processes: int) -> Iterator[None]:
    """Do the runs that are missing, yielding after each."""
    missing = {run.name: run for run in runs if kept(run, folder) is None}
    print(f"ablation: {len(runs)} runs, {len(runs) - len(missing)} done before", flush=True)
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(processes, mp_context=context) as pool,
        bar(total=len(missing), what="ablation", unit=" runs") as progress,
    ):
        for future in as_completed(pool.submit(do, run, folder) for run in missing.values()):
            found = future.result()
            scores = ", ".join(f"{name} {value:.3f}" for name, value in found["scores"].items())
            print(
                f"ablation: seed {found['run']['seed']}, {found['row']}: {scores} "
                f"({found['cpu_seconds']:.0f} s of CPU)",
                flush=True,
            )
            progress.update()
            yield


COLUMNS = {
    "pearson_delta": HIGHER,
    "discrimination": HIGHER,
    "mae_delta": LOWER,
    "pearson_true": HIGHER,
}
"""Scores, and which way is better."""
BASELINES = {
    CONTROL_MEAN: "control mean",
    MEAN_DELTA: "control mean + mean training delta",
    SAME_PERTURBATION_DELTA: "control mean + that perturbation's training delta",
}

HEAD = """\
# Ablation

What each mend of the recipe `reference` is worth, on generated screens whose effects are known
(`components/ingest/README.md`): three lines train, the fourth is predicted. `make ablation` repeats
it; this page is written by `benchmarks/ablation.py`.

{done} of {all} runs are done{missing}; they took {cpu:.0f} minutes of one CPU.
Every seed has a screen, a split, initial weights and draws of its own: the screens are
`{screen}` and the next seeds.
Model: `{pretrained}`, {epochs} epochs, {batch_size} cells a batch, {max_genes} tokens a window,
sets of {set_size}, learning rate {learning_rate:g}, times {learning_rate_decay:g} an epoch; the
epoch with the best validation pearson_delta counts. Code: {code}.

pearson_delta, discrimination (`discrimination_score_l1`) and mae_delta are defined as in cell-eval
and computed from predicted and measured means, the prediction made from all basal controls of the
test line. pearson_true is the correlation of the predicted change with the true one, free of the
noise of measured cells. Mean over perturbations, then mean ± standard deviation over seeds.
"""

VALIDATION = """\
## What to hold out

The last row's recipe with other validation sets: {percent} % of the perturbations of one training
line (as the reference run does, with 5 %); as many, a third of them in each line; or a whole line.
"chosen" is the test pearson_delta of the epoch that validation chose, "last" that of the last one,
"best" that of the best there was, which no one can know; "agreement" is the correlation over epochs
of the validation's pearson_delta with the test line's (these three from {probe} control cells).
"""


@dataclass(frozen=True)
class Results:
    """What is done of the runs of some seeds."""

    size: Size
    seeds: Sequence[int]
    folder: Path

    def of(self, runs: Iterable[Run]) -> dict[str, list[dict[str, Any]]]:
        """Return what is kept of each row's runs, a row without any left out."""
        rows: dict[str, list[dict[str, Any]]] = {}
        for run in runs:
            if found := kept(run, self.folder):
                rows.setdefault(run.row, []).append(found)
        return rows

    @property
    def wanted(self) -> list[Run]:
        """All runs, each once."""
        runs = [r for s in self.seeds for r in (*validations(self.size, s), *ladder(self.size, s))]
        return list({run.name: run for run in runs}.values())

    def page(self) -> str:
        """Return the text of docs/ablation.md."""
        begun = [seed for seed in self.seeds if self.of(ladder(self.size, seed))]
        # A baseline's mean is of the screens that the runs beside it had.
        base = {seed: baselines(self.size, seed, self.folder) for seed in begun}
        rows = self.of(run for seed in begun for run in ladder(self.size, seed))
        scores = {BASELINES[name]: [own[name] for own in base.values()] for name in BASELINES}
        scores |= {row: [found["scores"] for found in done] for row, done in rows.items()}
        return "\n".join(
            [
                self._head(),
                *_score_table(scores),
                "",
                *self._verdicts(base),
                "",
                VALIDATION.format(percent=round(100 * HELD_OUT), probe=PROBE_CELLS),
                *self._validation_table(),
                "",
            ]
        )

    def _head(self) -> str:
        wanted = self.wanted
        done = [found for run in wanted if (found := kept(run, self.folder))]
        revisions = sorted({found["code"]["revision"] for found in done})
        return HEAD.format(
            done=len(done),
            all=len(wanted),
            missing="" if len(done) == len(wanted) else "; the rows below have what there is",
            cpu=sum(found["cpu_seconds"] for found in done) / 60,
            screen=self.size.screen(self.seeds[0]),
            code=", ".join(revisions),
            **asdict(self.size),
        )

    def _verdicts(self, base: dict[int, dict[str, Scores]]) -> Iterator[str]:
        """Say where the last row is ahead of the first and of the best baseline, seed by seed."""
        others: dict[str, list[tuple[Scores, Scores]]] = {
            "`reference`": [],
            "that perturbation's training delta": [],
        }
        for seed, own in base.items():
            runs = ladder(self.size, seed)
            first, last = (kept(run, self.folder) for run in (runs[0], runs[-1]))
            if first and last:
                others["`reference`"].append((first["scores"], last["scores"]))
                others["that perturbation's training delta"].append(
                    (own[SAME_PERTURBATION_DELTA], last["scores"])
                )
        for other, pairs in others.items():
            for name, better in COLUMNS.items():
                sign = -1 if better == LOWER else 1
                if pairs:
                    yield verdict(
                        name, "the last row", other, [sign * (b[name] - a[name]) for a, b in pairs]
                    )

    def _validation_table(self) -> Iterator[str]:
        columns = ["training cells", "best epoch", "chosen", "last", "best", "agreement"]
        yield from _header(["held out", *columns])
        rows = self.of(run for seed in self.seeds for run in validations(self.size, seed))
        for row, done in rows.items():
            values = [list(_choice(found).values()) for found in done]
            cells = [_spread([v[i] for v in values], 3 if i > 1 else 0) for i in range(6)]
            yield _line([row, *cells])


def _choice(found: dict[str, Any]) -> dict[str, float]:
    """Return what a choice of epoch came to."""
    own = [epoch["val_pearson_delta"] for epoch in found["history"]]
    return {
        "training cells": found["training_cells"],
        "best epoch": found["best_epoch"],
        "chosen": found["scores"]["pearson_delta"],
        "last": found["probes"][-1],
        "best": max(found["probes"]),
        "agreement": pearson(np.array(own, float), np.array(found["probes"])),
    }


def verdict(name: str, one: str, other: str, gains: Sequence[float]) -> str:
    """Return a line that says by how much ``one`` beats ``other``, from its gain in each seed."""
    ahead = sum(gain > 0 for gain in gains)
    word = "beats" if ahead == len(gains) else "does not clearly beat" if ahead else "is behind"
    return (
        f"- {name}: {one} {word} {other}: {np.mean(gains):+.3f} for the better on average, "
        f"ahead in {ahead} of {len(gains)} seeds."
    )


def _score_table(rows: dict[str, list[Scores]]) -> Iterator[str]:
    names = [f"{n} (lower is better)" if b == LOWER else n for n, b in COLUMNS.items()]
    yield from _header(["prediction", *names, "seeds"])
    for row, scores in rows.items():
        values = [_spread([each[name] for each in scores], 3) for name in COLUMNS]
        yield _line([row, *values, str(len(scores))])


def _spread(values: Sequence[float], digits: int) -> str:
    """Return mean ± standard deviation over seeds."""
    known = [value for value in values if np.isfinite(value)]
    if not known:
        return "-"
    spread = f" ± {np.std(known, ddof=1):,.{digits}f}" if len(known) > 1 else ""
    return f"{np.mean(known):,.{digits}f}{spread}"


def _header(names: Sequence[str]) -> Iterator[str]:
    yield _line(names)
    yield _line(["---"] * len(names))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="screens, from seed 1 on")
    parser.add_argument("--cells", type=int, default=6000)
    parser.add_argument("--genes", type=int, default=400)
    parser.add_argument("--perturbations", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-genes", type=int, default=96, help="tokens a window")
    parser.add_argument("--set-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--learning-rate-decay", type=float, default=0.9)
    parser.add_argument("--pretrained", default="random://tiny")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--page", type=Path, default=Path("docs/ablation.md"))
    return parser.parse_args()


def main() -> None:
    """Do what is missing and write the page after each run."""
    given = vars(arguments())
    folder, target, processes = (given.pop(name) for name in ("folder", "page", "processes"))
    seeds = range(1, given.pop("seeds") + 1)
    size = Size(**given)
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for held_out in (FRACTION, ACROSS_LINES, WHOLE_LINE):
            screen_of(size, seed, held_out, folder)
    results = Results(size, seeds, folder)
    for _ in do_all(results.wanted, folder, processes):
        target.write_text(results.page())
    target.write_text(results.page())
    print(f"ablation: wrote {target}", flush=True)


if __name__ == "__main__":
    with one_line_errors("ablation"):
        main()
