"""A CRISPRi screen with known effects: `sim://screen?cells=&genes=&perturbations=&lines=&seed=`.

Counts are negative binomial. Mean, dispersion and library size follow `calibration.json`, which
`benchmarks.calibrate` computed from real cells; genes bear real symbols in order of their real mean
expression. Each line has a baseline of its own. A perturbation acts through one or two modules
(gene programmes) shared by the lines, whose strength and partly whose direction differ from line to
line, through a response common to all effective perturbations, and through a few genes of its own;
the target itself is knocked down where it is measured. About a fifth of the perturbations do
nothing but that. `&controls_only=rpe1` leaves the perturbed cells of a line out.

What real screens have beside that, each off by default: `&escape=20` makes as many percent of the
perturbed cells look like controls, `&batches=3` puts the cells of each line into batches that
differ gene by gene and hold perturbations in uneven parts (column `batch`), and `&pathways=10` has
every perturbation push as many dense directions, most of them weakly and a few strongly, in the
place of modules.

Write such a screen as raw counts, in the form users have:

    python -m components.ingest.generator "sim://screen?cells=4000" screen.h5ad
"""

from components.ingest.generator.screen import BATCH_COLUMN, Screen, write_raw
from components.ingest.generator.spec import SCHEME, Spec
from components.ingest.generator.truth import design

__all__ = ["BATCH_COLUMN", "SCHEME", "Screen", "Spec", "design", "write_raw"]
