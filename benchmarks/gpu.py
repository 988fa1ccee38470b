"""What a GPU makes of training and prediction: right or wrong, how fast, how much at most.

    python -m benchmarks.gpu [--small] [--out runs/gpu] [--only matmul training ...]

It takes less than 8 minutes and writes `gpu.json` and `gpu.md`; both are written anew after each
section, so that what was measured is there whatever comes next. Each section is a process of its
own with a bound: one that fails, or is stopped there, costs the rest nothing. It needs torch and
numpy alone; scgpt's own module is measured too where it imports. On the CPU, or with --small, the
same code runs at a small size. The exit code is 1 where a check or a section failed.
"""

import argparse
import json
import math
import multiprocessing
import os
import platform
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import finetune, gpu_checks, gpu_speed, measure, predict
from benchmarks.gpu_speed import Piece
from components.shared.model.model import has_compiler
from components.shared.telling.markdown import names_as_code

TOTAL = 450.0
"""Seconds for all sections; beyond it none begins, and one under way is stopped."""
SHORT = {"rounds": 3, "steps": 9, "epochs": 5}
SMALL = {"batch": 4, "genes": 64, "layers": 2, "width": 32, "heads": 2, "dropout": 0.0}
SMALL_PREDICTION = {"batch": 2, "genes": 96, "window": 32, "perturbations": 2}
SMALL_SHORT = {"rounds": 1, "steps": 1, "epochs": 3}
PREDICTION = {"batch": 64, "perturbations": 2, "steps": 3}
FINE_TUNE = {"genes": 256, "layers": 2, "width": 128, "heads": 4}
"""Of the fine-tunes that the CPU has to keep up with."""


@dataclass(frozen=True)
class Section:
    """A part of the measurement."""

    title: str
    seconds: float
    """It is stopped after so many."""
    run: Callable[[Namespace], Iterator[Piece]]
    sizes: Mapping[str, Any]
    """That differ from those of a training step at full size."""


SECTIONS = {
    "matmul": Section("Large matrix products", 25, gpu_speed.matmul, {}),
    "outputs": Section("Outputs and gradients, against the CPU", 75, gpu_checks.outputs, {}),
    "curve": Section("Loss of a short fine-tune", 70, gpu_checks.loss_curve, FINE_TUNE),
    "training": Section("Training", 130, gpu_speed.training, {}),
    "prediction": Section(
        "Prediction of whole transcriptomes",
        75,
        gpu_speed.prediction,
        {**predict.FULL, **PREDICTION},
    ),
    "resume": Section("Kill and resume", 50, gpu_checks.resume, FINE_TUNE),
    "batches": Section("Batch sizes up to the memory", 40, gpu_speed.batches, {}),
    "profile": Section("Where a training step's time goes", 30, gpu_speed.profile, {}),
    "several": Section("Several GPUs", 40, gpu_checks.several, FINE_TUNE),
}
"""In the order they run: what matters most first, since all share `TOTAL`."""


def options_of(given: Namespace, name: str) -> Namespace:
    """Return what a section is to be run with."""
    device = torch.device(given.device)
    small = given.small or device.type == "cpu"
    sizes = finetune.FULL | SHORT | dict(SECTIONS[name].sizes)
    if small:
        sizes |= SMALL | SMALL_SHORT | (SMALL_PREDICTION if name == "prediction" else {})
    cuda = device.type == "cuda"
    return Namespace(
        **sizes,
        device=device,
        threads=given.threads,
        precision="bf16" if cuda else "fp32",
        attention="auto",
        compile=measure.NO,
        compiled=given.compiled == "yes" if given.compiled else cuda and has_compiler(),
        processes=given.processes or (torch.cuda.device_count() if cuda else 0),
    )


def child(name: str, options: Namespace, file: Path) -> None:
    """Run a section in this process, keeping what it has found in ``file`` as it comes."""
    os.setsid()  # so that whatever it starts can be stopped with it
    if options.threads:
        torch.set_num_threads(options.threads)
    found: Piece = {}
    try:
        for piece in SECTIONS[name].run(options):
            add(found, piece)
            write(file, json.dumps(plain(found)))
    except Exception as error:
        text = str(error).strip() or "no words"
        found["failed"] = f"{type(error).__name__}: {text.splitlines()[0]}"
    write(file, json.dumps(plain(found)))


def add(found: Piece, piece: Piece) -> None:
    """Add a piece to what was found: lists go on, all else is replaced."""
    for key, value in piece.items():
        found[key] = found.get(key, []) + value if isinstance(value, list) else value


def plain(value: Any) -> Any:
    """Return the value as JSON can hold it: None for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(file: Path, text: str) -> None:
    """Write a file that is whole whenever it is read."""
    draft = file.with_suffix(".partial")
    draft.write_text(text)
    draft.replace(file)


def measured(name: str, options: Namespace, folder: Path, seconds: float) -> Piece:
    """Run a section in a process of its own for at most so many seconds; return what it found."""
    file = folder / f".{name}.json"
    file.unlink(missing_ok=True)
    started = time.monotonic()
    process = process_context(options.device).Process(target=child, args=(name, options, file))
    process.start()
    process.join(seconds)
    stopped = process.is_alive()
    if stopped:
        _stop(process)
    found = json.loads(file.read_text()) if file.exists() else {}
    for left in (file, file.with_suffix(".partial")):
        left.unlink(missing_ok=True)
    if stopped:
        found["failed"] = f"stopped after {seconds:.0f} s, its bound; what it had by then is kept"
    elif process.exitcode:
        found.setdefault("failed", f"its process ended with exit code {process.exitcode}")
    return {"title": SECTIONS[name].title, "seconds": time.monotonic() - started} | found


def process_context(device: torch.device) -> Any:
    """Return how processes are started: forked where no CUDA state could be forked with them."""
    if device.type == "cuda":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.gpu_checks", "benchmarks.predict", "torch._dynamo"])
    return context


def _stop(process: Any) -> None:
    """End a section's process, and what it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    process.join()


def machine(device: torch.device) -> Piece:
    """Return what was measured on."""
    found: Piece = {
        "device": measure.device_name(device),
        "pytorch": torch.__version__,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "gpus": torch.cuda.device_count(),
            "memory_gib": properties.total_memory / 2**30,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
        }
    return found


def outcome(section: Piece) -> str:
    """Say in a line what came of a section."""
    checks = section.get("checks", [])
    failed = [one["what"] for one in checks if not one["passed"]]
    parts = [section["failed"]] if "failed" in section else []
    parts += [section["outcome"]] if "outcome" in section else []
    if checks:
        passed = f"{len(checks) - len(failed)} of {len(checks)} checks passed"
        parts.append(passed + (f"; failed: {', '.join(failed)}" if failed else ""))
    return "; ".join(parts) or "done"


def page(found: Piece) -> str:
    """Return the Markdown page of what was found."""
    facts = ", ".join(f"{name} {_shown(value)}" for name, value in found["machine"].items())
    lines = [f"# {found['machine']['device']}", "", f"{facts}. Size: {found['size']}.", ""]
    sections = found["sections"].values()
    rows = [
        {
            "section": one["title"],
            found["machine"]["device"]: outcome(one),
            "seconds": one["seconds"],
        }
        for one in sections
    ]
    lines += table(rows)
    for one in sections:
        lines += ["", f"## {one['title']}", "", f"{outcome(one)}.", ""]
        lines += table(one.get("checks", [])) + table(one.get("rows", []))
        lines += [f"- {note}" for note in one.get("notes", [])]
    return names_as_code("\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n")


def table(rows: Sequence[Piece]) -> list[str]:
    """Return rows as a Markdown table with an empty line behind, a column for each key."""
    if not rows:
        return []
    columns = list({key: None for row in rows for key in row})
    lines = [[column.replace("_", " ") for column in columns], ["---"] * len(columns)]
    lines += [[_shown(row.get(column, "")) for column in columns] for row in rows]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return " ".join(str(value).replace("|", "/").split())


def parsed() -> Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a small size; always on the CPU")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder to write to")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument(
        "--compiled", choices=("yes", "no"), help="default: on a GPU, with a C compiler"
    )
    parser.add_argument("--processes", type=int, help="that train together; default: the GPUs")
    parser.add_argument("--seconds", type=float, default=TOTAL, help="for all sections")
    parser.add_argument("--patience", type=float, default=1.0, help="times every bound")
    given = parser.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {given.device}: PyTorch {torch.__version__} sees no GPU")
    return given


def main() -> int:
    """Run the sections one after the other, and write what they found."""
    given = parsed()
    given.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(given.device)
    size = "small" if given.small or device.type == "cpu" else "full"
    sections: dict[str, Piece] = {}
    found: Piece = {"machine": machine(device), "size": size, "sections": sections}
    ends = time.monotonic() + given.seconds * given.patience
    for name in given.only:
        left = min(SECTIONS[name].seconds * given.patience, ends - time.monotonic())
        if left > 0:
            sections[name] = measured(name, options_of(given, name), given.out, left)
        else:
            late = f"not begun: the {given.seconds:.0f} s for all sections were over"
            sections[name] = {"title": SECTIONS[name].title, "seconds": 0.0, "failed": late}
        took = f"{sections[name]['seconds']:.0f} s"
        print(f"gpu: {name}, {took}: {outcome(sections[name])}", flush=True)
        write(given.out / "gpu.json", json.dumps(plain(found), indent=2) + "\n")
        write(given.out / "gpu.md", page(found))
    checks = [check for one in sections.values() for check in one.get("checks", [])]
    failed = any("failed" in one for one in sections.values())
    return int(failed or not all(check["passed"] for check in checks))


if __name__ == "__main__":
    sys.exit(main())
