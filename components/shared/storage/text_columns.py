"""Columns of names in tables that others wrote."""

import pandas as pd


def is_text(values: pd.Series) -> bool:
    """Return whether every entry of a column is text, be it of categories."""
    if values.isna().any():
        return False
    found = values.cat.categories if isinstance(values.dtype, pd.CategoricalDtype) else values
    return pd.api.types.infer_dtype(found, skipna=False) in ("string", "empty")
