"""What each mend of the reference recipe is worth, on generated screens whose effects are known.

    python -m benchmarks.ablation [--seeds 3] [--epochs 16] [--processes 2] [--folder runs/ablation]

A run is one recipe on one seed, by the stages that users run: a screen, a split, initial weights
and draws of its own. The rows begin with the recipe `reference` and take over one mend after the
other from `default`, until nothing but the size of the run differs from it; then known effects are
given too. A second table tries ways to choose the epoch. Finished runs are kept as JSON in --folder
and not done again, so that it resumes where it was stopped; docs/ablation.md is written at the end,
and what there is of it in --folder after each.
"""

import argparse
import json
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from benchmarks.staged_run import PRETRAINED, SMALL, baselines, cells_of, run, screen, splits_of
from benchmarks.stored_results import (
    BASELINES,
    COLUMNS,
    gains,
    header,
    kept,
    mean_sd,
    row,
    score_table,
    verdict,
)
from benchmarks.truth import Scores, TestLine
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.evaluation import SAME_PERTURBATION_DELTA
from components.shared.artifacts.splits import Splits
from components.shared.parameters.recipe import BEST, RELIABLE, load_recipe
from components.shared.telling.errors import one_line_errors
from components.shared.telling.progress import bar

SPREAD, NOTHING = "sets of every line", "nothing"
HELD_OUT: dict[str, dict[str, Any]] = {
    SPREAD: {"val_fraction": 0.15},
    NOTHING: {"val_fraction": 0.0},
}
"""What validates, as options of split."""


@dataclass(frozen=True)
class Size:
    """What is the same in every run: small enough for a CPU."""

    cells: int = 6000
    genes: int = 400
    perturbations: int = 40
    epochs: int = 16

    def screen(self, seed: int) -> str:
        """Return the URI of a seed's screen."""
        return screen(self.perturbations, seed, cells=self.cells, genes=self.genes)


@dataclass(frozen=True)
class Mend:
    """Settings that are taken over from `default` together."""

    name: str
    settings: tuple[str, ...]


MENDS = (
    Mend(
        "perturbed genes are seen, partners redrawn, training windows",
        (
            "targets_in_window",
            "token_for_unmeasured",
            "zero_no_flag",
            "redraw_controls",
            "control_partner",
            "predict_window",
        ),
    ),
    Mend("contrast", ("contrast", "validation_cells", "predicted_cells")),
    Mend("loss on the change of sets", ("set_size", "delta_weight")),
    Mend("epoch chosen beyond luck, factor", ("selection", "scale_effects")),
)
NOT_TRIED = ("precision", "prior_neutral", "match_batches", "centre_lines")
"""Settings without a bearing here: the CPU computes in float32, no prior but known effects; batches
and lines' own responses are tried in `docs/cells.md`."""
OFF = {"set_size": 0, "predict_window": 0}
"""Sizes that the reference recipe is without, until the mend that brings them."""
EFFECTS = "+ known effects"


@dataclass(frozen=True)
class Run:
    """One recipe on one seed."""

    title: str
    seed: int
    overrides: dict[str, Any]
    """Of the recipe `reference`."""
    size: Size
    held_out: str = SPREAD
    prior: str = "none"

    @property
    def name(self) -> str:
        """The same for the same run, another for any other."""
        facts = {key: value for key, value in asdict(self).items() if key != "title"}
        digest = sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return f"seed{self.seed}-{digest[:12]}"


def ladder(size: Size, seed: int) -> list[Run]:
    """Return the runs of one seed, from `reference` to `default` with known effects."""
    common = SMALL | {"epochs": size.epochs, "early_stop_after": size.epochs}
    ours = asdict(load_recipe("default", {})) | common
    runs = [Run("reference", seed, common | OFF, size)]
    for mend in MENDS:
        overrides = runs[-1].overrides | {name: ours[name] for name in mend.settings}
        runs.append(Run(f"+ {mend.name}", seed, overrides, size))
    return [*runs, replace(runs[-1], title=EFFECTS, prior="effects")]


def choices(size: Size, seed: int) -> list[Run]:
    """Return the runs of one seed that differ in how the epoch is chosen, without known effects."""
    ours = ladder(size, seed)[-2]
    best = replace(ours, overrides=ours.overrides | {"selection": BEST})
    return [
        replace(ours, title=f"{SPREAD}, `{RELIABLE}`"),
        replace(best, title=f"{SPREAD}, `{BEST}`"),
        replace(ours, title=f"{NOTHING}: the last epoch", held_out=NOTHING),
    ]


def opened(size: Size, seed: int, held_out: str, folder: Path) -> tuple[Cells, Splits]:
    """Return a seed's cells and their split, made where they are not there yet."""
    uri = size.screen(seed)
    place = folder / f"screen-{sha256(uri.encode()).hexdigest()[:12]}"
    cells = cells_of(uri, place / "cells")
    splits = place / held_out.replace(" ", "_")
    return cells, splits_of(cells, splits, seed=seed, **HELD_OUT[held_out])


def do(asked: Run, folder: Path) -> dict[str, Any]:
    """Train and score one run."""
    torch.set_num_threads(1)
    cells, splits = opened(asked.size, asked.seed, asked.held_out, folder)
    line = TestLine.of(cells, splits)
    found = run(
        cells,
        splits,
        folder / f"stages-{asked.name}",
        uri=asked.prior,
        recipe="reference",
        overrides=asked.overrides,
        seed=asked.seed,
    )
    if found.perturbations != line.perturbations:
        raise RuntimeError("the predictions are of other perturbations than the test line's")
    return {"title": asked.title, "scores": line.scores(found.means), **found.facts}


def file_of(asked: Run, folder: Path) -> Path:
    """Return where what came out of a run is kept."""
    return folder / f"{asked.name}.json"


def do_and_keep(asked: Run, folder: Path) -> dict[str, Any]:
    """Do a run unless it is done; return what came out."""
    return kept(file_of(asked, folder), lambda: do(asked, folder))


def do_all(runs: Sequence[Run], folder: Path, processes: int) -> Iterator[None]:
    """Do the runs that are missing, yielding after each."""
    missing = {each.name: each for each in runs if not file_of(each, folder).exists()}
    print(f"ablation: {len(runs)} runs, {len(runs) - len(missing)} done before", flush=True)
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(processes, mp_context=context) as pool,
        bar(total=len(missing), what="ablation", unit=" runs") as progress,
    ):
        asked = {pool.submit(do_and_keep, each, folder): each for each in missing.values()}
        for future in as_completed(asked):
            found, seed = future.result(), asked[future].seed
            scores = ", ".join(f"{name} {value:.3f}" for name, value in found["scores"].items())
            print(
                f"ablation: seed {seed}, {found['title']}: {scores} "
                f"({found['cpu_seconds']:.0f} s of CPU)",
                flush=True,
            )
            progress.update()
            yield


HEAD = """\
# Ablation

What each change to the recipe `reference` is worth, on generated screens whose effects are known
(`components/ingest/README.md`): three lines train, the fourth is predicted, by the stages that
users run. `make ablation` repeats it; this page is written by `benchmarks/ablation.py`.

{done} of {all} runs are done{missing}; they took {cpu:.0f} minutes of one CPU.
Every seed has a screen, a split, initial weights and draws of its own: the screens are
`{screen}` and the next seeds.
They have pathways, uneven batches and cells whose knock-down failed. Model: `{pretrained}`,
{epochs} epochs, {batch_size} cells a batch, {max_genes} tokens a window, learning rate
{learning_rate:g}, times {learning_rate_decay:g} an epoch. Code: {code}.

pearson_delta, discrimination (`discrimination_score_l1`) and mae_delta are defined as in cell-eval
and computed from predicted and measured means. Controls are not halved: predicting nothing has no
pearson_delta. pearson_true is the correlation of the predicted change with the true one, free of
the noise of measured cells. Mean over perturbations, then mean ± standard deviation over seeds.
"""

CHOICES = """\
## How the epoch is chosen

The recipe without known effects, with 15 % of the sets held out, and none, and both values of
`selection`:
`best` keeps the epoch with the best mean, `reliable` weighs sets by what they measured beyond noise
and leaves the last epoch only for one that leads beyond luck. Sets that are held out do not train.
"""

WORDS = """\
## What it says

- Seeing the perturbed genes, the contrast and the loss on the change of sets are what makes the
  network work. The factor takes errors down and costs discrimination, which counts size.
- The network alone is level with copying in pearson_delta only where nothing is held out: 0.378 for
  0.379 by copying of the same cells, with smaller errors (0.223 for 0.233) and less discrimination
  (0.821 for 0.896). Holding out 15 % of the sets costs it 0.03. Its weights start from random
  values and it is still learning at the last epoch.
- Known effects lead copying in pearson_delta, errors and correlation with the truth in every seed.
  In discrimination they are level with it (-0.004): these screens are hard (predicting nothing has
  the same error as copying), and effects as small as errors allow were behind by 0.02.
- `reliable` keeps the last epoch in every seed; `best` leaves it once, for a worse one.
"""
"""Of the figures of three seeds; read them again where those change."""


@dataclass(frozen=True)
class Results:
    """What is done of the runs of some seeds."""

    size: Size
    seeds: Sequence[int]
    folder: Path

    def of(self, runs: Iterable[Run]) -> dict[str, dict[int, dict[str, Any]]]:
        """Return what is kept of each row's runs by seed, a row without any left out."""
        rows: dict[str, dict[int, dict[str, Any]]] = {}
        for each in runs:
            if (file := file_of(each, self.folder)).exists():
                rows.setdefault(each.title, {})[each.seed] = json.loads(file.read_text())
        return rows

    @property
    def wanted(self) -> list[Run]:
        """All runs, each once, every seed's ends of the ladder first."""
        ends = [each for s in self.seeds for each in ladder(self.size, s)[-2:]]
        rest = [r for s in self.seeds for r in (*ladder(self.size, s), *choices(self.size, s))]
        return list({each.name: each for each in (*ends, *rest)}.values())

    def scores(self) -> dict[str, dict[int, Scores]]:
        """Return the scores of baselines and of the ladder's rows, by seed."""
        rows = self.of(each for seed in self.seeds for each in ladder(self.size, seed))
        found: dict[str, dict[int, Scores]] = {}
        # A baseline's mean is of the screens that the runs beside it had.
        for seed in sorted({seed for done in rows.values() for seed in done}):
            cells, splits = opened(self.size, seed, SPREAD, self.folder)
            line = TestLine.of(cells, splits)
            for title, means in baselines(cells, splits, line.perturbations).items():
                found.setdefault(title, {})[seed] = line.scores(means)
        return found | {
            title: {seed: each["scores"] for seed, each in done.items()}
            for title, done in rows.items()
        }

    def page(self) -> str:
        """Return the text of docs/ablation.md."""
        scores = self.scores()
        return "\n".join(
            [
                self._head(),
                *score_table("prediction", {name: [*s.values()] for name, s in scores.items()}),
                "",
                *self._verdicts(scores),
                "",
                CHOICES,
                *self._choices(),
                "",
                WORDS,
            ]
        )

    def _head(self) -> str:
        wanted = self.wanted
        done = [found for row in self.of(wanted).values() for found in row.values()]
        return HEAD.format(
            done=len(done),
            all=len(wanted),
            missing="" if len(done) == len(wanted) else "; the rows below have what there is",
            cpu=sum(found["cpu_seconds"] for found in done) / 60,
            screen=self.size.screen(self.seeds[0]),
            pretrained=PRETRAINED,
            code=", ".join(sorted({found["code"]["revision"] for found in done})),
            **SMALL | {"epochs": self.size.epochs},
        )

    def _verdicts(self, scores: dict[str, dict[int, Scores]]) -> Iterator[str]:
        """Say where `default`, without and with known effects, is ahead of what it has to beat."""
        copying = BASELINES[SAME_PERTURBATION_DELTA]
        ours = ladder(self.size, self.seeds[0])[-2].title
        pairs = (("`default`", ours, "reference"), ("`default`", ours, copying))
        for said, one, other in (*pairs, ("known effects", EFFECTS, copying)):
            mine, theirs = scores.get(one, {}), scores.get(other, {})
            both = sorted(mine.keys() & theirs.keys())
            for metric in COLUMNS if both else ():
                gained = gains(metric, [mine[s] for s in both], [theirs[s] for s in both])
                yield verdict(metric, said, other, gained)

    def _choices(self) -> Iterator[str]:
        yield from header(["held out", "epoch kept", *COLUMNS])
        rows = self.of(each for seed in self.seeds for each in choices(self.size, seed))
        for title, done in rows.items():
            epochs = mean_sd([found["best_epoch"] for found in done.values()], 0)
            scored = [found["scores"] for found in done.values()]
            yield row([title, epochs, *(mean_sd([s[m] for s in scored], 3) for m in COLUMNS)])


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="screens, from seed 1 on")
    parser.add_argument("--epochs", type=int, default=Size.epochs)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--page", type=Path, default=Path("docs/ablation.md"))
    return parser.parse_args()


def main() -> None:
    """Do what is missing and write the page."""
    given = arguments()
    seeds = range(1, given.seeds + 1)
    size = Size(epochs=given.epochs)
    given.folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for held_out in HELD_OUT:
            opened(size, seed, held_out, given.folder)
    results = Results(size, seeds, given.folder)
    # The page is part of the tree, whose state each run notes, so until the end it lies elsewhere.
    for _ in do_all(results.wanted, given.folder, given.processes):
        (given.folder / "page.md").write_text(results.page())
    given.page.write_text(results.page())
    print(f"ablation: wrote {given.page}", flush=True)


if __name__ == "__main__":
    with one_line_errors("ablation"):
        main()
