"""Text in a csv that a spreadsheet must not take for a formula; labels come from strangers."""

import pandas as pd

BEGINS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Characters that OWASP's page on CSV injection names."""


def no_formula(text: str) -> str:
    """Return a text that a spreadsheet shows as it stands: an apostrophe before a formula."""
    return f"'{text}" if text.startswith(BEGINS_A_FORMULA) else text


def without_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose texts are no formulas; numbers, and what has no value, stay."""

    def safe(column: pd.Series) -> pd.Series:
        if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
            return column
        return column.astype(object).map(lambda x: no_formula(x) if isinstance(x, str) else x)

    return table.apply(safe)
