"""A file that cannot grow ends each stage in one line, and nothing is left half-written.

That is what a full disk comes to; what the system says of one is tested in `test_machine.py`.
"""

from pathlib import Path

import pytest

from components.evaluate.evaluate import evaluate
from components.finetune.finetune import finetune
from components.ingest.ingest import ingest
from components.predict.predict import predict
from components.prior.prior import prior
from components.split.split import split
from tests.forkserver import Forked

SCREEN = "sim://screen?cells=600&genes=40&perturbations=8&lines=3&seed=3"
LINES = "train_lines=['k562', 'jurkat'], test_line='hepg2'"
SMALL = "pretrained='random://tiny', recipe='smoke', overrides={'epochs': 1}"
STAGES = {
    "ingest": f"ingest('{SCREEN}', new)",
    "split": f"split(at/'cells', new, {LINES})",
    "prior": "prior('random:8', 'random://tiny', new, seed=0)",
    "finetune": f"finetune(at/'cells', at/'splits', at/'prior', new, {SMALL}, seed=0)",
    "predict": "predict(at/'model', at/'cells', at/'splits', new)",
    "evaluate": "evaluate(at/'predictions', at/'cells', at/'splits', new)",
}
"""Each stage by what runs it, with the artifacts of `made` at `at`."""
STARTED = """
import resource, signal
from pathlib import Path
from components.{stage}.{stage} import {stage}
from components.shared.telling.errors import one_line_errors
at, new = Path({at!r}), Path({new!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
with one_line_errors("{stage}"):
    {call}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("made")
    ingest(SCREEN, at / "cells")
    split(at / "cells", at / "splits", train_lines=["k562", "jurkat"], test_line="hepg2")
    prior("random:8", "random://tiny", at / "prior", seed=0)
    finetune(
        *(at / "cells", at / "splits", at / "prior", at / "model"),
        pretrained="random://tiny",
        recipe="smoke",
        overrides={"epochs": 1},
        seed=0,
    )
    predict(at / "model", at / "cells", at / "splits", at / "predictions")
    # numba keeps what it compiles: that is not to be what does not fit
    evaluate(at / "predictions", at / "cells", at / "splits", at / "evaluation")
    return at


@pytest.mark.parametrize("stage", STAGES)
def test_a_file_that_cannot_grow_is_one_line_and_leaves_nothing(
    made: Path, tmp_path: Path, stage: str
) -> None:
    new = tmp_path / "new"
    code = STARTED.format(stage=stage, at=str(made), new=str(new), call=STAGES[stage])
    ended = Forked(code)
    exit_code = ended.end()
    # h5py complains itself as it lets go of the file: it has no place in Python's code
    assert '.py", line' not in ended.said, ended.said[-2000:]
    last = ended.said.splitlines()[-1]
    # HDF5 may crash as its process ends, after what it could not write
    assert exit_code and last.startswith(f"{stage}: error: "), last
    assert "no file may be as large here ([Errno 27]" in last
    assert not list(tmp_path.glob("*new*"))
