"""Parts of the training lines that a model carries along."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.artifacts.confidence import CONFIDENCE_FILE, Confidence
from components.shared.artifacts.training_effects import TRAINING_EFFECTS_FILE, TrainingEffects


@dataclass(frozen=True)
class Brought:
    """Effects of its training lines, and how far it was right in lines that were left out."""

    training: TrainingEffects
    confidence: Confidence

    @property
    def facts(self) -> dict[str, Any]:
        """Its entries in the statistics."""
        found = self.confidence
        return {
            "scale": found.scale,
            "held_out_pearson_delta": found.reached(),
            "held_out_pearson_delta_untrained": found.reached(trained=False),
            "expectations": found.why or "learned",
        }

    def write(self, folder: Path) -> None:
        """Write both files."""
        self.training.write(folder / TRAINING_EFFECTS_FILE)
        self.confidence.write(folder / CONFIDENCE_FILE)
