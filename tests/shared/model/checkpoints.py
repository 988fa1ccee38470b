"""A small scGPT checkpoint."""

import json

import torch

from components.shared.model import checkpoint as files

ARGS = {
    "embsize": 16,
    "nheads": 2,
    "d_hid": 16,
    "nlayers": 2,
    "n_layers_cls": 3,
    "dropout": 0.0,
    "pert_pad_id": 0,
}


VOCABULARY = {f"G{i}": i for i in range(30)} | {"<pad>": 30}


def write_checkpoint(folder, state, args=ARGS, vocabulary=VOCABULARY):
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / files.WEIGHTS_FILE)
    (folder / files.ARGS_FILE).write_text(json.dumps(args))
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    return folder
