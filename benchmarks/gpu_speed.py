"""How fast training and prediction are, and where their time and memory go: for `benchmarks.gpu`.

Each section yields pieces of what it found, so that what it had is kept where it is stopped.
"""

from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import DeviceType
from torch.nn.attention import sdpa_kernel

from benchmarks import finetune, measure, predict
from benchmarks.measure import Side
from components.shared.model.model import SCGPT
from components.shared.model.tokens import Batch

Piece = dict[str, Any]
Check = tuple[Batch, Tensor]

TOP = 10
TIMED = 3
"""Steps of each batch size."""


def changed(options: Namespace, **changes: Any) -> Namespace:
    """Return the options with some replaced."""
    return Namespace(**vars(options) | changes)


def kernels(options: Namespace, dtype: torch.dtype) -> dict[str, str]:
    """Return why each attention kernel cannot train here, or an empty string."""
    return {name: _refusal(name, options, dtype) for name in measure.ATTENTION}


def _refusal(kernel: str, options: Namespace, dtype: torch.dtype) -> str:
    shape = (1, options.heads, 64, options.width // options.heads)
    try:
        query = torch.randn(shape, device=options.device, dtype=dtype, requires_grad=True)
        with sdpa_kernel(measure.ATTENTION[kernel]):
            mixed = F.scaled_dot_product_attention(query, query, query, dropout_p=options.dropout)
        mixed.sum().backward()
    except RuntimeError as error:
        return f"attention kernel {kernel}: not to be had here ({str(error).splitlines()[0]})"
    return ""


def matmul(options: Namespace) -> Iterator[Piece]:
    """Measure large matrix products: what any training could reach at most."""
    cuda = options.device.type == "cuda"
    for name in ("bf16", "fp16", "fp32") if cuda else ("bf16", "fp32"):  # fp16 is slow on CPUs
        rate = measure.ceiling(options.device, measure.DTYPES[name])
        yield {"rows": [{"precision": name, "tflops": rate}]}
        if name == "bf16":
            yield {"outcome": f"{rate:,.3g} TFLOP/s in bf16"}


def training(options: Namespace) -> Iterator[Piece]:
    """Compare training steps: scgpt's module, ours with each attention kernel, ours compiled."""
    missing = measure.scgpt_missing()
    check = finetune.expected(options, scgpt=not missing)
    precision = options.precision
    sides = [] if missing else [fitting(SCGPT, _theirs(options), options, check)]
    eager = finetune.side("ours", precision, options, *check)
    sides.append(eager)
    refused = kernels(options, measure.DTYPES[precision])
    for name in (name for name, reason in refused.items() if not reason):
        one = changed(options, attention=name)
        sides.append(finetune.side(f"ours, {name}", precision, one, *check))
    yield {"notes": [reason for reason in (missing, *refused.values()) if reason]}
    measure.take_turns(sides, options)
    ceilings = measure.ceilings_of(sides, options.device)
    yield {"rows": [side.figures(sides[0], ceilings) for side in sides]}
    yield {"outcome": told(sides, ceilings)}
    if not options.compiled:
        yield {
            "notes": ["torch.compile is left out: on the CPU, without a C compiler, if so asked"]
        }
        return
    one = changed(options, compile=measure.DEFAULT)
    compiled = finetune.side("ours, compiled", precision, one, *check)
    eager.seconds.clear()
    measure.take_turns([eager, compiled], options)
    yield {"rows": [compiled.figures(sides[0], ceilings)]}
    yield {"outcome": told([*sides, compiled], ceilings)}


def _theirs(options: Namespace) -> str:
    """Return the precision that scgpt's module trains in."""
    return "fp16" if options.device.type == "cuda" else "fp32"


def fitting(name: str, precision: str, options: Namespace, check: Check) -> Side:
    """Return a side at the batch asked for, or at the largest half, quarter, … of it that fits."""
    batch = options.batch
    while True:
        made = finetune.side(name, precision, changed(options, batch=batch), *check)
        if not made.failed or batch == 1:
            return made
        batch //= 2


def told(sides: list[Side], ceilings: Mapping[str, float]) -> str:
    """Say how fast the fastest of our sides is, and beside scgpt's where that was timed."""
    rows = [side.figures(sides[0], dict(ceilings)) for side in sides]
    timed = [row for row in rows if "failed" not in row]
    ours = [row for row in timed if row["side"] not in (SCGPT, predict.THEIRS)]
    if not ours:
        return "none of our sides could be timed"
    best = max(ours, key=lambda row: row["cells_per_second"])
    text = (
        f"{best['cells_per_second']:,.4g} cells/s ({best['side']}, {best['precision']}), "
        f"{best['percent_of_matmul']:.0f} % of matmul"
    )
    theirs = [row for row in timed if row not in ours]
    if theirs:
        times = best["cells_per_second"] / theirs[0]["cells_per_second"]
        text += f"; {times:.2f} times {theirs[0]['side']}"
    return text


def prediction(options: Namespace) -> Iterator[Piece]:
    """Compare whole transcriptomes by scgpt's `pred_perturb` and ours."""
    missing = measure.scgpt_missing()
    sides = [] if missing else [predict.scgpts_side(options)]
    sides += predict.our_sides(options, options.precision)
    if missing:
        yield {"notes": [missing]}
    else:
        predict.note_errors(sides, options)
    measure.take_turns(sides, options)
    ceilings = measure.ceilings_of(sides, options.device)
    yield {"rows": [side.figures(sides[0], ceilings) for side in sides]}
    yield {"outcome": told(sides, ceilings)}
    if not options.compiled:
        return
    one = changed(options, compile=measure.DEFAULT)
    (compiled,) = predict.our_sides(one, options.precision, [predict.WINDOWS])
    compiled.name += ", compiled"
    measure.take_turns([compiled], options)
    yield {"rows": [compiled.figures(sides[0], ceilings)]}
    yield {"outcome": told([*sides, compiled], ceilings)}


def batches(options: Namespace) -> Iterator[Piece]:
    """Train ever larger batches until one does not fit the memory (on the CPU: a few)."""
    cuda = options.device.type == "cuda"
    check = finetune.expected(options, scgpt=False)
    dtype = measure.DTYPES[options.precision]
    ceilings = {options.precision: measure.ceiling(options.device, dtype)}
    batch, most, best = max(options.batch // 8, 1), 0, 0.0
    while cuda or batch <= options.batch:
        one = changed(options, batch=batch, rounds=1, steps=TIMED)
        side = finetune.side("ours", options.precision, one, *check)
        measure.take_turns([side], one)
        found = side.figures(side, ceilings)
        yield {"rows": [found]}
        if side.failed:
            break
        most, best = batch, max(best, found["cells_per_second"])
        batch *= 2
        yield {"outcome": f"{most} cells fit; {best:,.4g} cells/s at the best size"}
        del side
    if cuda:
        total = torch.cuda.get_device_properties(options.device).total_memory / 2**30
        yield {"notes": [f"The card has {total:.1f} GiB; each batch is twice the one before."]}
    else:
        yield {"notes": ["On the CPU it ends at the batch asked for, not at the memory's."]}


def profile(options: Namespace) -> Iterator[Piece]:
    """Tell which operators two training steps spend most time in."""
    check = finetune.expected(options, scgpt=False)
    side = finetune.side("ours", options.precision, options, *check)
    if side.failed:
        raise RuntimeError(side.failed)
    rows = operators(finetune.profiled(side), options.device)
    shares = sum(row["percent"] for row in rows)
    yield {"rows": rows, "outcome": f"{rows[0]['operator']} takes most; {shares:.0f} % in {TOP}"}


def operators(found: torch.profiler.profile, device: torch.device) -> list[Piece]:
    """Return the operators with most time of their own, on the device where it is a GPU."""
    cuda = device.type == "cuda"
    events = [
        event
        for event in found.key_averages()
        # The kernels that an operator starts are listed too, by their own names.
        if event.device_type == DeviceType.CPU and not getattr(event, "is_user_annotation", False)
    ]
    own = {
        event.key: (event.self_device_time_total if cuda else event.self_cpu_time_total)
        for event in events
    }
    calls = {event.key: event.count for event in events}
    total = sum(own.values()) or float("nan")
    return [
        {
            "operator": key,
            "ms": own[key] / 1e3,
            "percent": 100 * own[key] / total,
            "calls": calls[key],
        }
        for key in sorted(own, key=lambda key: -own[key])[:TOP]
    ]
