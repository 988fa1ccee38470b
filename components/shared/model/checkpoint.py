"""The model artifact's files: `best_model.pt`, `args.json`, `vocab.json` in scGPT's own form."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.shared.model.checkpoint_files import ARGS_FILE, CHECKPOINT_FILES, WEIGHTS_FILE
from components.shared.model.vocabulary import VOCAB_FILE, read_vocabulary
from components.shared.storage.documents import read_json, said
from components.shared.telling.errors import InputError, refusing

EXTRA_FILE = "beyond_scgpt.safetensors"
"""Tensors that scGPT's class does not have, where there are any."""

WRAPPED = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts save a state_dict beside other things."""
PREFIXES = ("module.", "_orig_mod.", "model.")

ANY_SIZE = 50_000_000
"""Weights of a model that may be built whatever its file holds."""
SIZE_ARGS = {
    "embsize": 8192,
    "nheads": 256,
    "d_hid": 32768,
    "nlayers": 256,
    "n_layers_cls": 64,
}
"""Arguments that say how large a model is, and the most of each; scGPT has 512, 8, 512, 12, 3."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint folder."""

    args: dict[str, Any]
    vocabulary: dict[str, int]
    state: dict[str, Tensor]


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder; attention weights come back under PyTorch's names.

    Tensors that scGPT's class does not have are in the state too, if there are any.

    scGPT's flash-attention layers call the input projection `Wqkv`; it is the same tensor as
    `in_proj_` (see `scgpt.utils.load_pretrained`).

    Raises:
        InputError: a file is missing or cannot be read, or `args.json` lacks a shape.
    """
    for name in CHECKPOINT_FILES:
        if not (folder / name).is_file():
            raise InputError(f"{folder}: no {name}; expected {', '.join(CHECKPOINT_FILES)}")
    args = read_args(folder / ARGS_FILE)
    vocabulary = read_vocabulary(folder / VOCAB_FILE)
    state = read_weights(folder / WEIGHTS_FILE) | _read_extra(folder / EXTRA_FILE)
    _check_size(args, state, folder / ARGS_FILE)
    return Checkpoint(args, vocabulary, state)


def _check_size(args: dict[str, Any], state: dict[str, Tensor], path: Path) -> None:
    """Check that the weights are those of a model of the size in ``args``, before one is built."""
    width, hidden = args["embsize"], args["d_hid"]
    wanted = args["nlayers"] * (4 * width**2 + 2 * width * hidden)
    found = sum(tensor.numel() for tensor in state.values())
    if wanted > max(found, ANY_SIZE):
        raise InputError(
            f"{path}: requires {wanted:,} weights in the layers alone, but {WEIGHTS_FILE} has "
            f"{found:,}; are the files of one checkpoint?"
        )


def read_args(path: Path) -> dict[str, Any]:
    """Read an `args.json` and check that it has the shape of a model.

    Raises:
        InputError: not JSON, or a shape is missing.
    """
    args = read_json(path, str(path), "expected an object with scGPT's arguments")
    for name, most in SIZE_ARGS.items():
        if type(args.get(name)) is not int or not 1 <= args[name] <= most:
            raise InputError(
                f"{path}: '{name}' is {args.get(name)!r:.60}; expected a whole number from 1 to "
                f"{most:,}"
            )
    if not isinstance(args.get("dropout"), int | float) or not 0 <= args["dropout"] < 1:
        raise InputError(
            f"{path}: 'dropout' is {args.get('dropout')!r}; expected from 0 to below 1"
        )
    if args["embsize"] % args["nheads"]:
        raise InputError(
            f"{path}: 'embsize' {args['embsize']} is not a multiple of 'nheads' {args['nheads']}"
        )
    return args


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, under scGPT's own names."""
    what = f"{path}: not a state_dict that loads with weights_only=True"
    with refusing(Exception, what, said=said):  # a damaged file makes torch raise nearly anything
        state = torch.load(path, map_location="cpu", weights_only=True)
    state = _unwrapped(state)
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise InputError(f"{path}: expected a state_dict, an object of name to tensor")
    for name, tensor in state.items():
        if not isinstance(name, str):
            raise InputError(f"{path}: tensor {name!r:.60} has no name; expected a state_dict")
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            what = "meta" if tensor.is_meta else tensor.dtype if tensor.is_quantized else "sparse"
            raise InputError(
                f"{path}: tensor {name[:200]} is {what}, without plain numbers; save the weights "
                "as plain float tensors"
            )
        if not tensor.dtype.is_floating_point:
            raise InputError(f"{path}: tensor {name[:200]} is {tensor.dtype}; expected floats")
    return {name.replace("Wqkv.", "in_proj_"): tensor for name, tensor in state.items()}


def _unwrapped(state: Any) -> Any:
    """Return the state_dict in what was saved: out of a dict of more, without wrappers' prefixes.

    Data-parallel training, torch.compile and trainers put their own name before every tensor's.
    """
    if isinstance(state, dict):
        inner = (state.get(key) for key in WRAPPED)
        state = next((found for found in inner if isinstance(found, dict)), state)
    while isinstance(state, dict) and state:
        prefix = next((p for p in PREFIXES if all(str(name).startswith(p) for name in state)), "")
        if not prefix:
            break
        state = {str(name).removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _read_extra(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        return {}
    from safetensors import SafetensorError  # here, so that the model needs nothing but torch
    from safetensors.torch import load_file

    with refusing((SafetensorError, OSError), f"{path}: not readable as safetensors"):
        return load_file(path)


def check_shapes(
    expected: dict[str, Tensor], found: dict[str, Tensor], path: Path, *, strict: bool
) -> None:
    """Check the tensors ``found`` in a checkpoint against those of a model built by `args.json`.

    With ``strict`` tensors that the model does not know are refused too.
    """
    for name, tensor in expected.items():
        if name not in found:
            raise InputError(f"{path}: tensor {name} is missing; {ARGS_FILE} requires it")
        if found[name].shape != tensor.shape:
            raise InputError(
                f"{path}: tensor {name} has shape {tuple(found[name].shape)}, but {ARGS_FILE} and "
                f"{VOCAB_FILE} require {tuple(tensor.shape)}; are the files of one checkpoint?"
            )
    unknown = sorted(set(found) - set(expected)) if strict else []
    if unknown:
        raise InputError(f"{path}: tensor {unknown[0]} is not of this model; is it another scGPT?")
