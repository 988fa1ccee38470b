"""From the cells and splits artifacts to training data, in one pass over the file."""

from collections.abc import Collection, Sequence
from itertools import islice

import numpy as np
import torch

from components.finetune.data import TrainingData, ValidationSet, moments
from components.finetune.room import Room, room_for
from components.finetune.workers import ALONE, Workers
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.matched_controls import LEAST_CONTROLS, batches_of, matched
from components.shared.artifacts.perturbation import CONTROL
from components.shared.artifacts.splits import TRAIN, VAL, Splits
from components.shared.model.tokens import GeneTokens, Ints
from components.shared.model.vocabulary import Vocabulary
from components.shared.telling.errors import InputError, shortlist
from components.shared.telling.progress import bar

LEAST = 0.5
"""Share of the genes, and of the training perturbations, that a model must know. Of names of
another kind (Ensembl, mouse) it knows hardly any; of human symbols, old ones among them, most."""
NAMED = 3
"""Symbols that a refusal gives as examples."""


def check_symbols(genes: Sequence[str], vocabulary: Vocabulary) -> None:
    """Check that the vocabulary has most of the genes, not those of another species or naming.

    Raises:
        InputError: it lacks most, as it does another species' or another naming's.
    """
    unknown = [gene for gene in genes if gene not in vocabulary]
    known = len(genes) - len(unknown)
    if known < LEAST * len(genes):
        raise InputError(
            f"{known} of {len(genes)} genes are in the vocabulary, not "
            f"{shortlist(unknown, NAMED)}; it has {shortlist(_like(vocabulary, unknown), NAMED)}: "
            "expected its symbols (of its species) in the cells' var index; rename the genes, "
            "leave out those without a symbol, or name a checkpoint that knows them in pretrained"
        )


def check_told(
    perturbations: Collection[str], tokens: GeneTokens, token_for_unmeasured: bool
) -> None:
    """Check that the model can be told which gene is perturbed of most training perturbations."""
    unknown = [
        label
        for label in sorted(perturbations)
        if not tokens.targets(label, token_for_unmeasured=token_for_unmeasured).flagged
    ]
    known = len(perturbations) - len(unknown)
    if known < LEAST * len(perturbations):
        raise InputError(
            f"the model can identify {known} of {len(perturbations)} training perturbations, not "
            f"of {shortlist(unknown, NAMED)}; the vocabulary has "
            f"{shortlist(_like(tokens.vocabulary, unknown), NAMED)}: expected its symbols in "
            "perturbation_column; name the column that has them, or a checkpoint that knows these"
        )


def _like(vocabulary: Vocabulary, unknown: Sequence[str]) -> list[str]:
    """Return a few genes of a vocabulary: the unknown ones in other letters, else short ones."""
    folded = {token.casefold(): token for token in vocabulary}
    same = [folded[name.casefold()] for name in unknown if name.casefold() in folded]
    short = (token for token in vocabulary if token.isalnum() and len(token) < 6)
    return same[:NAMED] or list(islice(short, NAMED))


def load_training_data(
    cells: Cells,
    splits: Splits,
    tokens: GeneTokens,
    device: torch.device,
    *,
    token_for_unmeasured: bool,
    match_batches: bool = False,
    workers: Workers = ALONE,
) -> TrainingData:
    """Read the cells a fine-tune needs in one pass over the file.

    On a GPU they are kept in 16 bits, in its own memory if they fit (see `room_for`). With
    ``match_batches`` each cell is to stand against controls of its own batch, where cells have one.
    """
    lines = splits.train_lines
    controls = {line: np.union1d(splits.basal(line), splits.reference(line)) for line in lines}
    groups = {
        "train": splits.rows(TRAIN),
        "val": splits.rows(VAL),
        "controls": np.concatenate(list(controls.values())),
    }
    if not len(groups["train"]):
        raise InputError(f"{splits.artifact.path}: no cell has role '{TRAIN}'; nothing to train on")
    used = np.sort(np.concatenate(list(groups.values())))
    table = splits.table.iloc[used]
    # What is to be predicted too: what is known of it from other lines is the model's to have.
    labels = [CONTROL, *sorted({*splits.table["perturbation"], *splits.requested} - {CONTROL})]
    code = {label: i for i, label in enumerate(labels)}

    def place(rows: Ints) -> Ints:
        return np.searchsorted(used, rows)

    batches = batches_of(cells) if match_batches else None
    room = read_dense(cells, used, tokens.columns, device, workers)
    return TrainingData(
        expression=room.cells,
        will_read=room.will_read,
        ids=tokens.ids,
        perturbations=labels,
        targets=[
            tokens.targets(label, token_for_unmeasured=token_for_unmeasured) for label in labels
        ],
        train_rows=place(groups["train"]),
        train_codes=splits.table["perturbation"].iloc[groups["train"]].map(code).to_numpy(np.int64),
        basal={line: place(splits.basal(line)) for line in lines},
        controls={line: place(controls[line]) for line in lines},
        line_of_row=table["cell_line"].to_numpy(str),
        reference_mean={
            line: moments(room.cells, place(splits.reference(line)), room.will_read)[0]
            for line in lines
        },
        validation=[
            ValidationSet(str(line), str(perturbation), place(rows.index.to_numpy()))
            for (line, perturbation), rows in splits.table.iloc[groups["val"]].groupby(
                ["cell_line", "perturbation"]
            )
        ],
        batch_of_row=None if batches is None else batches[used],
    )


def batches_in_words(data: TrainingData) -> str:
    """Return how many training cells stand against controls of their own batch."""
    if data.batch_of_row is None:
        return "match_batches: the cells have no batch; give ingest's option batch_column"
    alone, lines = 0, data.line_of_row[data.train_rows]
    for line, controls in data.controls.items():
        rows = data.train_rows[lines == line]
        for batch, _, places in matched(rows, controls, data.batch_of_row):
            alone += 0 if batch else len(places)
    return (
        f"match_batches: {len(lines) - alone:,} training cells are compared with the controls of "
        f"their own batch, {alone:,} with those of their line, since their batch has fewer than "
        f"{LEAST_CONTROLS} controls"
    )


def read_dense(
    cells: Cells, rows: Ints, columns: Ints, device: torch.device, workers: Workers = ALONE
) -> Room:
    """Read cells at ascending ``rows`` and ``columns``, [rows, columns], block by block.

    Values are log1p of counts per 10,000, where and in what precision `room_for` says. Of a room
    that processes share each fills its part.
    """
    room = room_for(len(rows), len(columns), device, workers)
    together = room.filled_by
    first, last = (len(rows) * (together.rank + i) // together.count for i in (0, 1))
    mine = rows[first:last]
    with bar(total=len(mine), what="reading cells", unit=" cells") as progress:
        for start, block in cells.blocks(holding=mine):
            low, high = np.searchsorted(mine, [start, start + block.shape[0]])
            part = block[mine[low:high] - start][:, columns]
            room.cells[first + low : first + high] = torch.from_numpy(part.toarray())
            progress.update(high - low)
    together.meet()
    return room
