"""Cells and perturbations whose knock-down failed are left out where that is asked."""

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from components.ingest.ingest import ingest
from components.shared.artifacts.artifact import CELLS, opening
from components.shared.artifacts.perturbation import CONTROL
from components.shared.telling.errors import InputError
from components.split.split import split

GENES = ["KLF1", "MYC", "GATA1", "BULK"]
TOTAL = 10_000
OF_CONTROL = {"k562": 40, "rpe1": 10}
"""Molecules of every target in a control cell, of 10,000."""


def cell(line: str, label: str, **left: float) -> tuple[str, str, list[int]]:
    """Return a cell with shares of its line's control expression left of some targets."""
    counts = [round(OF_CONTROL[line] * left.get(gene, 1.0)) for gene in GENES[:3]]
    return line, label, [*counts, TOTAL - sum(counts)]


MADE = [
    *(cell(line, CONTROL) for line in OF_CONTROL for _ in range(4)),
    # 25 % left on average in k562, where one of four cells has all.
    *(cell("k562", "KLF1", KLF1=share) for share in (0.0, 0.0, 0.0, 1.0)),
    # Failed in rpe1 on the whole.
    *(cell("rpe1", "KLF1", KLF1=share) for share in (0.2, 1.0, 1.0, 1.2)),
    # A double of which one target is not lowered in one cell.
    cell("k562", "KLF1+MYC", KLF1=0.1, MYC=0.2),
    cell("k562", "KLF1+MYC", KLF1=0.1, MYC=0.9),
    *(cell("k562", "ABSENT1") for _ in range(2)),
]


def screen(folder: Path, made: list[Any] = MADE) -> Path:
    lines, labels, counts = zip(*made, strict=True)
    obs = pd.DataFrame(
        {"gene": labels, "cell_line": lines}, index=[f"cell{i}" for i in range(len(made))]
    )
    adata = anndata.AnnData(
        csr_matrix(np.array(counts, np.float32)), obs=obs, var=pd.DataFrame(index=GENES)
    )
    adata.write_h5ad(folder / "in.h5ad")
    return folder / "in.h5ad"


def taken(folder: Path, name: str = "cells", **options: Any) -> tuple[pd.Series, dict[str, Any]]:
    """Return cells a line and perturbation, and the summary."""
    ingest(str(screen(folder)), folder / name, **options)
    obs = anndata.read_h5ad(folder / name / "cells.h5ad").obs
    counted = obs.groupby(["cell_line", "perturbation"], observed=True).size()
    return counted, opening(folder / name, CELLS).summary


def test_nothing_is_left_out_unless_it_is_asked(tmp_path: Path) -> None:
    counted, summary = taken(tmp_path)
    assert counted.sum() == len(MADE)
    assert not {"knock_down_filter", "cells_not_knocked_down"} & set(summary)


def test_cells_whose_target_is_not_lowered_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counted, summary = taken(tmp_path, least_knock_down=0.5)
    assert counted["k562", "KLF1"] == 3 and counted["rpe1", "KLF1"] == 1
    assert counted["k562", "KLF1+MYC"] == 1, "the target that is left most counts"
    assert counted["k562", "ABSENT1"] == 2, "of a target that is not measured nothing is known"
    assert counted["k562", CONTROL] == counted["rpe1", CONTROL] == 4
    assert summary["cells_not_knocked_down"] == 5
    assert summary["perturbations_not_knocked_down"] == 0
    assert summary["cells_without_knock_down_to_judge"] == 2
    assert summary["cells"] == len(MADE) - 5
    assert f"note: {summary['knock_down_filter']}" in capsys.readouterr().err
    assert "and 5 cells of others, were left out" in summary["knock_down_filter"]


def test_a_perturbation_is_left_out_of_the_line_where_it_fails(tmp_path: Path) -> None:
    counted, summary = taken(tmp_path, least_perturbation_knock_down=0.3)
    assert counted["k562", "KLF1"] == 4 and ("rpe1", "KLF1") not in counted
    assert counted["k562", "KLF1+MYC"] == 2
    assert summary["perturbations_not_knocked_down"] == 1
    assert summary["cells_of_perturbations_not_knocked_down"] == 4
    both, summary = taken(tmp_path, "both", least_perturbation_knock_down=0.3, least_knock_down=0.5)
    assert ("rpe1", "KLF1") not in both and both["k562", "KLF1"] == 3
    assert summary["cells_not_knocked_down"] == 2


def test_of_a_double_each_target_is_judged_by_its_own_mean(tmp_path: Path) -> None:
    controls = [cell("k562", CONTROL)] * 3
    turns = [cell("k562", "KLF1+MYC", KLF1=x, MYC=1 - x) for x in (0.0, 1.0)]
    failed = [cell("k562", "GATA1+MYC", GATA1=0.0, MYC=0.9) for _ in range(2)]
    path = str(screen(tmp_path, [*controls, *turns, *failed]))
    ingest(path, tmp_path / "cells", least_perturbation_knock_down=0.3)
    kept = anndata.read_h5ad(tmp_path / "cells" / "cells.h5ad").obs["perturbation"]
    assert kept.value_counts().to_dict() == {CONTROL: 3, "KLF1+MYC": 2}


def test_the_rest_is_the_same_cells_as_without_the_filter(tmp_path: Path) -> None:
    taken(tmp_path, "all")
    taken(tmp_path, "some", least_knock_down=0.5)
    whole, some = (anndata.read_h5ad(tmp_path / x / "cells.h5ad") for x in ("all", "some"))
    assert (whole[some.obs_names].X != some.X).nnz == 0
    assert list(some.obs_names) == [name for name in whole.obs_names if name in some.obs_names]


def test_each_file_of_several_may_ask_for_its_own(tmp_path: Path) -> None:
    path = str(screen(tmp_path))
    files = [{"file": path, "least_knock_down": 0.5}, {"file": path}]
    ingest(files, tmp_path / "two")
    summary = opening(tmp_path / "two", CELLS).summary
    assert summary["cells"] == 2 * len(MADE) - 5
    with pytest.raises(InputError, match="least_knock_down='x': expected a number"):
        ingest([{"file": path, "least_knock_down": "x"}], tmp_path / "none")


@pytest.mark.parametrize("value", [-0.1, 1.0, True])
def test_what_is_no_share_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(InputError, match=r"least_perturbation_knock_down=.* expected a share"):
        taken(tmp_path, least_perturbation_knock_down=value)
    assert not (tmp_path / "cells").exists()


def test_a_screen_that_raises_its_targets_is_refused(tmp_path: Path) -> None:
    raised = [cell("k562", CONTROL), cell("k562", CONTROL), cell("k562", "KLF1", KLF1=3.0)]
    path = str(screen(tmp_path, raised))
    with pytest.raises(InputError, match="no perturbed cell has its target knocked down as much"):
        ingest(path, tmp_path / "cells", least_knock_down=0.3)


def test_a_screen_of_controls_alone_passes(tmp_path: Path) -> None:
    path = str(screen(tmp_path, [cell("k562", CONTROL)] * 3))
    ingest(path, tmp_path / "cells", least_knock_down=0.3, least_perturbation_knock_down=0.3)
    assert opening(tmp_path / "cells", CELLS).summary["cells_not_knocked_down"] == 0


def test_the_split_carries_it_to_the_model_card(tmp_path: Path) -> None:
    _, summary = taken(tmp_path, least_knock_down=0.3)
    split(
        tmp_path / "cells",
        tmp_path / "splits",
        train_lines=["k562"],
        test_line="rpe1",
        val_fraction=0.0,
    )
    carried = opening(tmp_path / "splits", "splits/v1").summary
    assert carried["knock_down_filter"] == summary["knock_down_filter"]
