"""Whether a device computes what the CPU does, and resumes after a kill: for `benchmarks.gpu`.

Each section yields pieces of what it found, so that what it had is kept where it is stopped.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import finetune, generated, measure
from benchmarks.gpu_speed import Piece, changed, kernels
from components.finetune import checkpoint_manager
from components.finetune.checkpoints import Checkpoints
from components.finetune.places import Folder
from components.finetune.state import Fit
from components.finetune.workers import joined, launch
from components.shared.model.inference import forward
from components.shared.model.model import compile_on
from components.shared.model.tokens import Batch

CPU = torch.device("cpu")
CELLS = 2
OUTPUT = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2}
"""Most relative error of outputs, by precision."""
GRADIENT = {"fp32": 1e-3, "fp16": 5e-2, "bf16": 2e-1}
"""Most relative error of all gradients together."""
CURVE = {"fp32": 1e-3, "bf16": 1e-2}
"""Most relative difference of an epoch's training loss."""
RESUMED_LOSS, RESUMED_WEIGHTS = 1e-3, 1e-2
"""Most relative difference between a resumed and an undisturbed run on a GPU; the CPU's is 0.

What the order of sums changes in the last bits, Adam makes a whole step where a gradient is nothing
but rounding, as that of the keys' biases is: weights may differ more than what comes of them."""
LOSS_SCALE = 2.0**10
"""Keeps fp16's gradients from vanishing; a power of two changes nothing else."""


def check(what: str, value: float, most: float) -> Piece:
    """Return one check: passed where ``value`` is at most ``most``."""
    return {"checks": [{"what": what, "value": value, "most": most, "passed": value <= most}]}


def outputs(options: Namespace) -> Iterator[Piece]:
    """Compare outputs and gradients with those of float64 on the CPU, for each way to compute."""
    options = changed(options, dropout=0.0, batch=CELLS)
    torch.manual_seed(2)
    batch, measured = finetune.random_batch(changed(options, device=CPU), CELLS)
    exact = Batch(batch.ids, batch.values.double(), batch.flags)
    there = changed(options, device=CPU, compile=measure.NO)
    expected = _passed(there, exact, measured.double(), "fp64")
    batch, measured = finetune.on(options.device, batch), measured.to(options.device)
    for precision, attention, compiled in _ways(options):
        one = changed(options, attention=attention)
        one.compile = measure.DEFAULT if compiled else measure.NO
        words = [precision, *([attention] if attention != "auto" else []), *["compiled"] * compiled]
        found = _passed(one, batch, measured, precision)
        for name, got, want, most in zip(
            ("outputs", "gradients"), found, expected, (OUTPUT, GRADIENT), strict=True
        ):
            error = measure.relative_error(got, want)
            yield check(f"{name}, {', '.join(words)}", error, most[precision])


def _ways(options: Namespace) -> Iterator[tuple[str, str, bool]]:
    """Yield precision, attention kernel, and whether to compile."""
    for precision in ("fp32", "bf16", "fp16"):
        yield precision, "auto", False
    there = kernels(options, torch.bfloat16)
    yield from (("bf16", name, False) for name, refusal in there.items() if not refusal)
    if options.compiled:
        yield "bf16", "auto", True


def _passed(
    options: Namespace, batch: Batch, measured: Tensor, precision: str
) -> tuple[Tensor, Tensor]:
    """Return the outputs of a batch, and the gradients of its loss one after the other."""
    model = measure.our_model(options).to(measured.dtype)
    with measure.mixed(options.device, precision), measure.attention(options):
        output = forward(model, batch).to(measured.dtype)
        loss = F.mse_loss(output, measured)
        (loss * LOSS_SCALE).backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return output.detach(), torch.cat(gradients) / LOSS_SCALE


def loss_curve(options: Namespace) -> Iterator[Piece]:
    """Compare the loss of a short fine-tune with the CPU's, epoch by epoch."""
    options = changed(options, dropout=0.0)
    ways = {f"{options.device.type}, {name}": (name, False) for name in CURVE}
    if options.compiled:
        ways[f"{options.device.type}, bf16, compiled"] = ("bf16", True)
    expected = generated.trained(options, CPU, "fp32")[1]
    yield _curve_rows("CPU, fp32", expected)
    losses = generated.curve(expected, "train_loss")
    yield check("last loss over the first, CPU", losses[-1] / losses[0], 0.9)
    for name, (precision, compiled) in ways.items():
        model = generated.fresh_model(options)
        if compiled and not compile_on(model, options.device):
            yield {"notes": [f"{name}: left out; it takes a GPU and a C compiler"]}
            continue
        found = generated.trained(options, options.device, precision, model=model)[1]
        yield _curve_rows(name, found)
        yield check(f"training loss, {name}", _furthest(found, expected), CURVE[precision])
    if options.device.type == "cpu":
        yield {"notes": ["The CPU is compared with itself, and computes in float32 throughout."]}


def _curve_rows(name: str, found: Fit) -> Piece:
    columns = ("train_loss", "train_delta_loss", "val_loss", "val_pearson_delta")
    last = {f"last_{column}": generated.curve(found, column)[-1] for column in columns}
    return {"rows": [{"run": name, "epochs": len(found.history)} | last]}


def _furthest(found: Fit, expected: Fit) -> float:
    """Return the greatest relative difference of an epoch's training loss."""
    got, want = (np.array(generated.curve(one, "train_loss")) for one in (found, expected))
    return float(np.max(np.abs(got / want - 1)))


def resume(options: Namespace) -> Iterator[Piece]:
    """Kill a fine-tune in mid-epoch, go on from its checkpoint, compare with an undisturbed one."""
    _deterministic()
    model, undisturbed = generated.trained(options, options.device, options.precision)
    cpu = options.device.type == "cpu"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = _command(options, folder)
        left = _killed(command, folder / "checkpoints", options)
        yield {"notes": [f"SIGKILL came in epoch {left[0]}, after step {left[1]}."]}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found = torch.load(folder / "end.pt", weights_only=True)
    yield check(
        "last training loss, relative difference",
        abs(found["losses"][-1] / generated.curve(undisturbed, "train_loss")[-1] - 1),
        0.0 if cpu else RESUMED_LOSS,
    )
    apart = measure.relative_error(found["weights"], weights(model))
    yield check("weights, relative difference", apart, 0.0 if cpu else RESUMED_WEIGHTS)
    went_on = found["began"] > (1, 0)
    yield check("the resumed run began anew (0 = it went on)", float(not went_on), 0.0)
    yield {"outcome": "equal to the last bit" if apart == 0 else f"weights differ by {apart:.1e}"}


def weights(model: Any) -> Tensor:
    """Return all weights one after the other, on the CPU."""
    return torch.cat([p.detach().flatten().cpu() for p in model.parameters()])


def _deterministic() -> None:
    """Let sums be taken in the same order where PyTorch can."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)


def _command(options: Namespace, folder: Path) -> list[str]:
    sizes = vars(options) | {"device": str(options.device), "threads": torch.get_num_threads()}
    return [sys.executable, "-m", "benchmarks.gpu_checks", json.dumps(sizes), str(folder)]


def _killed(command: Sequence[str], checkpoints: Path, options: Namespace) -> tuple[int, int]:
    """Start a fine-tune, and kill it once it is in the middle of its second epoch.

    Returns:
        Epoch and step of its last whole checkpoint.

    Raises:
        RuntimeError: it ended before that.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    store = Folder(checkpoints)
    try:
        while process.poll() is None and _last(store) < (2, 2):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            raise RuntimeError(f"the run to be killed ended before, code {process.returncode}")
    finally:
        process.kill()
    return _last(store)


def _last(store: Folder) -> tuple[int, int]:
    """Return epoch and step of the newest whole checkpoint, (0, 0) where there is none."""
    try:
        names = [name.split("-") for name, whole in store.names().items() if whole]
    except FileNotFoundError:
        return 0, 0
    return max(((int(name[1]), int(name[3])) for name in names), default=(0, 0))


def go_on(options: Namespace, folder: Path) -> None:
    """Fine-tune from the newest checkpoint in ``folder``, a new one after each step."""
    _deterministic()
    torch.set_num_threads(options.threads)
    checkpoint_manager.CHECKPOINT_MINUTES = 0
    place = Folder(folder / "checkpoints")
    place.check()
    store = Checkpoints(place, {"seed": 0})
    saved = store.load()
    model, found = generated.trained(
        options, options.device, options.precision, checkpoints=store, saved=saved
    )
    end = {"weights": weights(model), "losses": generated.curve(found, "train_loss")}
    began = (saved.epoch, saved.step) if saved else (1, 0)
    torch.save(end | {"began": began}, folder / "end.pt")


def several(options: Namespace) -> Iterator[Piece]:
    """Train in several processes, each on a GPU of its own, and compare with one process."""
    if options.processes < 2:
        yield {"outcome": f"left out: it takes two GPUs, and there are {options.processes}"}
        return
    options = changed(options, dropout=0.0)
    precision = "fp32"
    model, alone = generated.trained(options, options.device, precision)
    with tempfile.TemporaryDirectory() as name:
        launch(options.processes, together, {"options": options, "folder": name})
        found = torch.load(Path(name) / "end.pt", weights_only=True)
    losses = generated.curve(alone, "train_loss")
    yield check(
        f"last training loss, {options.processes} processes and one",
        abs(found["losses"][-1] / losses[-1] - 1),
        RESUMED_LOSS,
    )
    apart = measure.relative_error(found["weights"], weights(model))
    yield {"outcome": f"{options.processes} processes; weights differ by {apart:.1e} from one's"}


def together(options: Namespace, folder: str) -> None:
    """Be one of the processes that train together; the first writes what came out."""
    torch.set_num_threads(1)
    with joined() as workers:
        device = workers.device if options.device.type == "cuda" else CPU
        model, found = generated.trained(options, device, "fp32", workers=workers)
        if workers.first:
            end = {"weights": weights(model), "losses": generated.curve(found, "train_loss")}
            torch.save(end, Path(folder) / "end.pt")


if __name__ == "__main__":
    given = Namespace(**json.loads(sys.argv[1]))
    given.device = torch.device(given.device)
    go_on(given, Path(sys.argv[2]))
