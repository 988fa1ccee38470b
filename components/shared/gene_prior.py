"""The gene prior artifact's files, as prior writes and finetune reads them."""

TABLE_FILE = "prior.safetensors"
"""One tensor, `prior`, float32 [tokens, width], a zero row where a token has none."""
TENSOR = "prior"
GENES = "genes"
"""Metadata key of the table: the vocabulary's tokens as a JSON list, one a row."""
FACTS_FILE = "prior.json"
