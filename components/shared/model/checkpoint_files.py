"""The files of an scGPT checkpoint, by name."""

from components.shared.model.vocabulary import VOCAB_FILE

WEIGHTS_FILE = "best_model.pt"
ARGS_FILE = "args.json"
STATS_FILE = "training_stats.json"
"""How training went, beside them in a model of ours."""
CHECKPOINT_FILES = (WEIGHTS_FILE, ARGS_FILE, VOCAB_FILE)
"""The files of a pretrained checkpoint."""
