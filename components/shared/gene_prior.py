"""The gene prior artifact's files, as prior writes and finetune reads them."""

TABLE_FILE = "prior.safetensors"
"""One tensor, `prior`, float32 [tokens, width], a zero row where a token has none."""
TENSOR = "prior"
FACTS_FILE = "prior.json"
