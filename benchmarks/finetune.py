"""Speed of a training step: our model beside scgpt's own module, on one device, in one run.

    python -m benchmarks.finetune [--device cuda] [--batch 192] [--genes 1536] ... [--profile]

A step is forward, loss, backward, clipping and Adam, the data on the device. scgpt's module runs as
the reference run had it: token ids for each cell, its padding mask that is always empty, and fp16
with a gradient scaler on a GPU, float32 on the CPU. It is left out where its package does not
import; our side needs torch and numpy.

A step counts as three forward passes of matrix products (see `measure.forward_flops`): 360 GFLOP a
cell at full size. Attention computed again in the backward pass is not counted, so the rate is
what the model gets out of the device. `error` is that of the output in evaluation mode against
scgpt's module (ours where there is none) in float64 on the CPU.

Dropout is 0 by default on the CPU: PyTorch has no fused attention with dropout there, and drawing
its masks takes most of either side's time.
"""

import argparse
from collections.abc import Callable
from itertools import cycle
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import measure
from benchmarks.measure import Side
from components.shared.model.inference import forward
from components.shared.model.model import SCGPT
from components.shared.model.tokens import Batch

FULL = {"batch": 192, "genes": 1536, "layers": 12, "width": 512, "heads": 8, "dropout": 0.2}
SMALL = {"batch": 32, "genes": 512, "layers": 4, "width": 128, "heads": 4, "dropout": 0.0}
BATCHES = 4
LEARNING_RATE = 1e-4

Call = Callable[[Any, Batch], Tensor]


def random_batch(options: argparse.Namespace, cells: int) -> tuple[Batch, Tensor]:
    """Return a batch with a window of its own and a flag in each cell, and measured expression."""
    shape = (cells, options.genes)
    flags = torch.zeros(shape, dtype=torch.int64)
    flags[torch.arange(cells), torch.randint(options.genes, (cells,))] = 1
    ids = torch.randperm(len(measure.VOCABULARY))[: options.genes]
    values, measured = (measure.expression(*shape, torch.device("cpu")) for _ in range(2))
    return on(options.device, Batch(ids, values, flags)), measured.to(options.device)


def on(device: torch.device, batch: Batch) -> Batch:
    """Return the batch on another device."""
    return Batch(batch.ids.to(device), batch.values.to(device), batch.flags.to(device))


def scgpts_call(model: Any, batch: Batch) -> Tensor:
    """Call scgpt's module as the reference's training did."""
    ids = batch.ids.repeat(len(batch.values), 1)
    mask = torch.zeros_like(batch.values, dtype=torch.bool)
    return model(ids, batch.values, batch.flags, src_key_padding_mask=mask)["mlm_output"]


def trainer(
    model: Any, call: Call, precision: str, options: argparse.Namespace
) -> Callable[[], None]:
    """Return a function that trains ``model`` on the next of a few batches."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=LEARNING_RATE, fused=True)
    scaler = torch.amp.GradScaler(options.device.type, enabled=precision == "fp16")
    torch.manual_seed(1)
    data = cycle([random_batch(options, options.batch) for _ in range(BATCHES)])

    def step() -> None:
        batch, measured = next(data)
        with measure.mixed(options.device, precision):
            loss = F.mse_loss(call(model, batch).float(), measured)
        optimiser.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        scaler.step(optimiser)
        scaler.update()

    return step


def expected(options: argparse.Namespace, *, scgpt: bool) -> tuple[Batch, Tensor]:
    """Return two cells, and what the model makes of them in float64 on the CPU."""
    changed = {"device": torch.device("cpu"), "compile": measure.NO}
    there = argparse.Namespace(**vars(options) | changed)
    torch.manual_seed(2)
    batch, _ = random_batch(there, 2)
    exact = Batch(batch.ids, batch.values.double(), batch.flags)
    model = measure.scgpts_model(there) if scgpt else measure.our_model(there)
    with torch.no_grad():
        return batch, forward(model.double().eval(), exact)


def side(
    name: str, precision: str, options: argparse.Namespace, cells: Batch, exact: Tensor
) -> Side:
    """Return one side, warm, its error and its memory noted; all but scgpt's module are ours."""

    def our_call(model: Any, batch: Batch) -> Tensor:
        with measure.attention(options):
            return forward(model, batch)

    device = options.device
    before = measure.held(device)
    ours = name != SCGPT
    call = our_call if ours else scgpts_call
    model = measure.our_model(options) if ours else measure.scgpts_model(options)
    # Two cells are not worth compiling for.
    stance = torch.compiler.set_stance("force_eager")
    with torch.no_grad(), measure.mixed(device, precision), stance:
        error = measure.relative_error(call(model.eval(), on(device, cells)), exact)
    step = trainer(model.train(), call, precision, options)
    flops = 3 * options.batch * measure.forward_flops(options, options.genes)
    return measure.warm_up(Side(name, precision, options.batch, flops, step, error), before, device)


def profiled(side: Side) -> torch.profiler.profile:
    """Watch two steps."""
    with torch.profiler.profile() as found:
        side.step()
        side.step()
    return found


def profile(side: Side, device: torch.device) -> None:
    """Print where the time of two steps goes."""
    key = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    averages = profiled(side).key_averages()
    print(averages.table(sort_by=key, row_limit=30, max_name_column_width=80))


def main() -> None:
    """Make the sides ready, let them take turns and print the table."""
    made = measure.parser(__doc__.splitlines()[0], FULL, SMALL)
    made.add_argument("--profile", action="store_true", help="where the time of our step goes")
    options = measure.parsed(made, ["fp32", "bf16"])
    scgpt = measure.scgpt_imports()
    check = expected(options, scgpt=scgpt)
    sides = []
    if scgpt:
        precision = "fp16" if options.device.type == "cuda" else "fp32"
        sides.append(side(SCGPT, precision, options, *check))
    sides += [side("ours", precision, options, *check) for precision in options.precision]
    measure.compare(sides, options)
    if options.profile:
        profile(sides[-1], options.device)


if __name__ == "__main__":
    main()
