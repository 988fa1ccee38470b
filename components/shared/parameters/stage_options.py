"""The options that ingest and split take beside the parameters of the pipelines."""

from typing import Any

INGEST_OPTIONS: dict[str, Any] = {
    "batch_column": "",
    "expression": "auto",
    "scale": "auto",
    "layer": "",
    "gene_column": "",
    "genes": "intersection",
    "target_sum": "10000",
    "obs_filter": None,
    "label_separator": "",
    "missing_is_control": False,
    "left_out": (),
    "least_knock_down": 0.0,
    "least_perturbation_knock_down": 0.0,
}
"""Keys of `ingest_options`, with their defaults."""
SPLIT_OPTIONS: dict[str, Any] = {
    "val_line": "",
    "val_fraction": 0.05,
    "restrict_test_to_training": True,
    "halve_controls": False,
    "split_file": "",
    "aliases": "",
}
"""Keys of `split_options`, with their defaults."""
