import contextlib
import random
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from components.shared.artifacts.settings import IMPLEMENTATIONS
from components.shared.model import checkpoint as files
from components.shared.model.checkpoint import Checkpoint, read_checkpoint
from components.shared.model.inference import (
    AUTOCAST,
    autocast,
    forward,
    predict_cells,
)
from components.shared.model.model import (
    add_prior,
    build,
    export_state,
    load_finetuned,
    load_pretrained,
)
from components.shared.model.scgpt_package import transformer_generator
from components.shared.model.tokens import Batch, Targets
from components.shared.model.vocabulary import packaged_vocabulary, read_vocabulary
from components.shared.telling.errors import InputError
from tests.shared.model.checkpoints import ARGS, VOCABULARY, write_checkpoint


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build(ARGS, VOCABULARY).eval()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    flags = torch.zeros(4, 12, dtype=torch.int64)
    flags[1, 3] = flags[2, 5] = 1
    return Batch(torch.randperm(30)[:12], torch.rand(4, 12) * 5, flags)


def shaped(draw_args, *, prior=0, seed=0):
    """Return our model and scgpt's own with the same weights, all of them random."""
    models = []
    for implementation in IMPLEMENTATIONS:
        torch.manual_seed(seed)
        model = build(ARGS | draw_args, VOCABULARY, implementation)
        if prior:
            add_prior(model, torch.randn(len(VOCABULARY), prior), neutral=False)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        models.append(model)
    return models


@pytest.mark.parametrize("pad_flag", [0, 2])
def test_one_seed_gives_scgpts_own_fresh_weights_under_its_names(pad_flag):
    states = []
    for implementation in IMPLEMENTATIONS:
        torch.manual_seed(0)
        model = build(ARGS | {"nlayers": 3, "pert_pad_id": pad_flag}, VOCABULARY, implementation)
        states.append(model.state_dict())
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@settings(max_examples=20, deadline=None)
@given(
    heads=st.integers(1, 4),
    head_width=st.integers(1, 12),
    hidden=st.integers(1, 40),
    layers=st.integers(1, 3),
    pad_flag=st.sampled_from([0, 2]),
    prior=st.sampled_from([0, 5]),
    cells=st.integers(1, 6),
    tokens=st.integers(1, 30),
    flagged=st.sampled_from([0.0, 0.1, 1.0]),
    training=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_outputs_and_gradients_are_those_of_scgpts_own_class(
    heads, head_width, hidden, layers, pad_flag, prior, cells, tokens, flagged, training, seed
):
    args = {"embsize": heads * head_width, "nheads": heads, "d_hid": hidden, "nlayers": layers}
    ours, theirs = shaped(args | {"pert_pad_id": pad_flag}, prior=prior, seed=seed)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    flags = (torch.rand(cells, tokens) < flagged).long()
    batch = Batch(torch.randperm(31)[:tokens], torch.rand(cells, tokens) * 8, flags)
    measured = torch.rand(cells, tokens)
    outputs = []
    for model in (ours, theirs):
        output = forward(model.train(training), batch)
        torch.nn.functional.mse_loss(output, measured).backward()
        outputs.append(output)
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-5)
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert (parameter.grad is None) == (expected[name] is None) == name.startswith("cls_")
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name], atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        outputs = [forward(model.eval(), batch) for model in (ours, theirs)]
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-5)


class Dropped(TorchDispatchMode):
    """Notes how many numbers each dropout may drop, and how often."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.bernoulli_, torch.ops.aten.native_dropout):
            self.seen.append((args[0].numel(), args[1]))
        return function(*args, **(kwargs or {}))


def test_dropout_is_where_scgpts_own_class_has_it(batch):
    seen = []
    for model in shaped({"dropout": 0.25}):
        with Dropped() as dropped:
            forward(model.train(), batch)
        seen.append(dropped.seen)
        with Dropped() as dropped:
            forward(model.eval(), batch)
        assert not dropped.seen
    assert len(seen[0]) == 1 + 4 * ARGS["nlayers"]
    assert seen[0] == seen[1]


def test_embeddings_of_genes_and_prior_are_computed_once_a_window_not_once_a_cell(model, batch):
    add_prior(model, torch.randn(len(VOCABULARY), 6), neutral=False)
    shapes = {}
    for name in ("encoder", "encoder.embedding.projection", "value_encoder"):
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: shapes.update({name: tuple(output.shape)})
        )
    forward(model, batch)
    assert shapes["encoder"] == shapes["encoder.embedding.projection"] == (12, 16)
    assert shapes["value_encoder"] == (4, 12, 16)


def test_attention_needs_only_the_fused_kernel(model, batch):
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # an error if it cannot run
        forward(model.train(), batch).sum().backward()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_model_compiles_to_one_graph_once_a_shape(precision, batch):
    model, _ = shaped({})
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        expected = forward(model, batch)
        graphs = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(model, fullgraph=True, dynamic=False, backend=graphs)
        for _ in range(2):
            output = forward(compiled, batch)
            output.sum().backward()
    assert graphs.frame_count == 1
    tolerance = 1e-5 if precision == "fp32" else 0.05
    torch.testing.assert_close(output, expected, atol=tolerance, rtol=tolerance)


def test_under_autocast_layers_hand_on_16_bit_and_the_output_is_float32(batch):
    model, _ = shaped({})
    dtypes = []
    for layer in model.transformer_encoder.layers:
        layer.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    expected = forward(model, batch)
    assert set(dtypes) == {torch.float32}
    dtypes.clear()
    with torch.autocast("cpu", torch.bfloat16):
        output = forward(model, batch)
    assert set(dtypes) == {torch.bfloat16}
    assert output.dtype == torch.float32
    error = (output - expected).norm() / expected.norm()
    assert 0 < error < 0.02


def test_our_model_needs_only_torch_and_numpy():
    code = """
import sys
for name in ("scgpt", "anndata", "pandas", "scipy", "safetensors", "tqdm", "yaml"):
    sys.modules[name] = None
from components.shared.model import inference
from components.shared.model import tokens
from components.shared.model.model import build
import torch
args = dict(embsize=8, nheads=2, d_hid=8, nlayers=1, n_layers_cls=3, dropout=0.1, pert_pad_id=0)
model = build(args, {"A": 0, "<pad>": 1})
print(model(torch.tensor([0]), torch.rand(2, 1), torch.zeros(2, 1, dtype=torch.int64)).shape)
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "[2, 1]" in run.stdout


def test_scgpts_own_class_can_be_chosen_and_torchtext_is_not_loaded():
    model = build(ARGS, VOCABULARY, "scgpt")
    assert isinstance(model, transformer_generator())
    assert transformer_generator().__module__ == "scgpt.model.generation_model"
    assert "torchtext" not in sys.modules


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-4), ("bf16", 0.02), ("fp16", 0.005)])
def test_a_gpu_computes_what_the_cpu_does_by_fused_attention_in_its_precision(precision, most):
    device = torch.device("cuda")
    model, _ = shaped({"embsize": 64, "nheads": 1, "d_hid": 64})
    batch = Batch(torch.randperm(31), torch.rand(8, 31) * 5, (torch.rand(8, 31) < 0.1).long())
    expected = forward(model, batch)
    there = Batch(batch.ids.to(device), batch.values.to(device), batch.flags.to(device))
    dtypes = []
    for layer in model.to(device).transformer_encoder.layers:
        layer.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    fused = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    with autocast(device, precision), sdpa_kernel(fused):
        output = forward(model, there)
        output.sum().backward()
    assert set(dtypes) == {AUTOCAST.get(precision, torch.float32)}
    assert (output.cpu() - expected).norm() / expected.norm() < most


def test_the_packaged_vocabulary_is_the_published_checkpoints(shared_data):
    assert packaged_vocabulary() == read_vocabulary(shared_data / "scgpt_human" / "vocab.json")


def test_zero_no_flag_adds_nothing_to_an_unperturbed_token(model):
    assert model.pert_encoder.weight[0].eq(0).all()
    reference = build(ARGS | {"pert_pad_id": 2}, VOCABULARY)
    assert reference.pert_encoder.weight[0].ne(0).all()


def test_prediction_agrees_with_scgpts_own_pred_perturb(model):
    """The same weights, cells and flags through scgpt's pred_perturb, all genes at once."""
    from types import SimpleNamespace

    torch.manual_seed(2)
    values = torch.rand(5, 20) * 4
    flags = torch.zeros(5, 20)
    flags[:, 7] = 1
    graph = SimpleNamespace(
        pert=["G7"] * 5,
        x=torch.stack([values.flatten(), flags.flatten()], dim=1),
        to=lambda device: None,
    )
    ids = torch.arange(20)
    scgpts = build(ARGS, VOCABULARY, "scgpt")
    scgpts.load_state_dict(model.state_dict(), strict=True)
    theirs = scgpts.pred_perturb(graph, include_zero_gene="all", gene_ids=ids.numpy(), amp=False)
    none = torch.empty(0, dtype=torch.int64).numpy()
    target = Targets(torch.tensor([7]).numpy(), none)
    ours = predict_cells(
        model,
        values,
        [target] * 5,
        ids.numpy(),
        ids.numpy(),
        window=0,
        contrast=False,
        device=torch.device("cpu"),
        precision="fp32",
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_windows_that_hold_all_genes_change_nothing(model):
    ids = torch.arange(20).numpy()
    target = Targets(ids[7:8], ids[:0])
    values = torch.rand(3, 20)
    common = {"contrast": False, "device": torch.device("cpu"), "precision": "fp32"}
    whole = predict_cells(model, values, [target] * 3, ids, ids, window=0, **common)
    window = predict_cells(model, values, [target] * 3, ids, ids[::-1], window=20, **common)
    torch.testing.assert_close(whole, window)
    parts = predict_cells(model, values, [target] * 3, ids, ids, window=8, **common)
    assert torch.isfinite(parts).all()


def test_contrast_cancels_what_the_model_gets_wrong_with_and_without_flags(model):
    ids = torch.arange(20).numpy()
    target, none = Targets(ids[7:8], ids[:0]), Targets(ids[:0], ids[:0])
    values = torch.rand(3, 20)
    common = {"window": 0, "device": torch.device("cpu"), "precision": "fp32"}

    def predicted(target, contrast):
        sets = [target] * len(values)
        return predict_cells(model, values, sets, ids, ids, contrast=contrast, **common)

    torch.testing.assert_close(predicted(none, True), values)
    change = predicted(target, False) - predicted(none, False)
    assert change.abs().max() > 0
    torch.testing.assert_close(predicted(target, True), values + change)


GENES = torch.arange(20).numpy()
SETS = [Targets(GENES[i:j], GENES[:0]) for i, j in ((3, 4), (7, 9), (0, 0), (15, 16))]


def test_a_folded_prior_predicts_what_the_injected_one_did(model, batch):
    table = torch.randn(len(VOCABULARY), 6)
    table[5:10] = 0
    with torch.no_grad():
        before = forward(model, batch)
        add_prior(model, table, neutral=False)
        injected = forward(model, batch)
    assert not torch.allclose(before, injected)
    plain = build(ARGS, VOCABULARY).eval()
    plain.load_state_dict(export_state(model), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(forward(plain, batch), injected, atol=1e-5, rtol=1e-5)


def test_a_zero_row_of_the_prior_leaves_its_gene_as_it_was(model):
    add_prior(model, torch.zeros(len(VOCABULARY), 6), neutral=False)
    embedding = model.encoder.embedding
    torch.testing.assert_close(embedding.folded(), embedding.weight)


def test_the_prior_is_frozen_and_its_projection_learns(model, batch):
    table = torch.randn(len(VOCABULARY), 6)
    add_prior(model, table.clone(), neutral=False)
    forward(model.train(), batch).sum().backward()
    assert model.encoder.embedding.projection.weight.grad.abs().sum() > 0
    torch.testing.assert_close(model.encoder.embedding.prior.rows, table)
    assert "encoder.embedding.prior" not in dict(model.named_parameters())


@pytest.mark.parametrize("naming", ["in_proj_", "Wqkv."])
def test_a_pretrained_checkpoint_loads_in_either_attention_naming(tmp_path, naming, model):
    state = {name.replace("in_proj_", naming): t for name, t in model.state_dict().items()}
    folder = write_checkpoint(tmp_path / "pretrained", state)
    fresh = build(ARGS, VOCABULARY)
    copied = load_pretrained(fresh, read_checkpoint(folder), folder)
    own = fresh.state_dict()
    for name, tensor in model.state_dict().items():
        loaded = name.startswith(("encoder.", "value_encoder.", "transformer_encoder."))
        assert (name in copied) == loaded
        if loaded:
            torch.testing.assert_close(own[name], tensor)
    assert not torch.equal(
        own["decoder.coeff_decoder.fc.0.weight"],
        model.state_dict()["decoder.coeff_decoder.fc.0.weight"],
    )


def test_weights_that_do_not_fit_args_json_are_refused_by_name_and_shape(tmp_path, model):
    folder = write_checkpoint(tmp_path / "bad", model.state_dict(), ARGS | {"embsize": 32})
    checkpoint = read_checkpoint(folder)
    with pytest.raises(InputError, match=r"encoder\.embedding\.weight has shape \(31, 16\)"):
        load_pretrained(build(checkpoint.args, VOCABULARY), checkpoint, folder)


def test_a_layer_too_few_is_refused_by_name(tmp_path, model):
    checkpoint = Checkpoint(ARGS | {"nlayers": 3}, VOCABULARY, model.state_dict())
    with pytest.raises(InputError, match=r"transformer_encoder\.layers\.2.* is missing"):
        load_pretrained(build(checkpoint.args, VOCABULARY), checkpoint, tmp_path)


def test_a_finetuned_checkpoint_loads_strictly(tmp_path, model, batch):
    folder = write_checkpoint(tmp_path / "model", export_state(model))
    again = load_finetuned(read_checkpoint(folder), folder)
    torch.testing.assert_close(forward(again, batch), forward(model, batch))
    extra = write_checkpoint(tmp_path / "extra", model.state_dict() | {"odd": torch.ones(1)})
    with pytest.raises(InputError, match="tensor odd is not of this model"):
        load_finetuned(read_checkpoint(extra), extra)


@pytest.mark.parametrize("flag", [None, [], "x", 0.5, True, -1, 3, 10**30])
def test_a_finetuned_checkpoint_that_does_not_say_which_flag_is_zero_is_refused(
    tmp_path, model, flag
):
    folder = write_checkpoint(tmp_path / "model", export_state(model), ARGS | {"pert_pad_id": flag})
    with pytest.raises(
        InputError, match=r"args\.json: 'pert_pad_id' is .*; expected a whole number from 0 to 2,"
    ):
        load_finetuned(read_checkpoint(folder), folder / files.WEIGHTS_FILE)


@pytest.mark.parametrize("name", files.CHECKPOINT_FILES)
def test_a_checkpoint_without_one_of_its_files_is_refused(tmp_path, model, name):
    folder = write_checkpoint(tmp_path / "model", model.state_dict())
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"no {name}"):
        read_checkpoint(folder)


def test_a_damaged_weights_file_is_one_line(tmp_path, model):
    folder = write_checkpoint(tmp_path / "model", model.state_dict())
    weights = folder / files.WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="weights_only"):
        read_checkpoint(folder)


def test_a_pickle_in_place_of_weights_is_not_run(tmp_path, model):
    import pickle

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "was-run"), "w"))

    folder = write_checkpoint(tmp_path / "model", model.state_dict())
    (folder / files.WEIGHTS_FILE).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match="weights_only"):
        read_checkpoint(folder)
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("damage", ["empty", "flipped"])
def test_damage_anywhere_in_a_weights_file_is_one_line_or_no_damage(tmp_path, model, damage):
    """Bits are flipped in torch's older format, whose unpickler fails in the most ways."""
    folder = write_checkpoint(tmp_path / "model", {})
    weights = folder / files.WEIGHTS_FILE
    torch.save(model.state_dict(), weights, _use_new_zipfile_serialization=False)
    whole = weights.read_bytes()
    rng = random.Random(0)
    for _ in range(1 if damage == "empty" else 150):
        place = rng.randrange(min(len(whole), 3000))
        flipped = whole[:place] + bytes([whole[place] ^ rng.randrange(1, 256)]) + whole[place + 1 :]
        weights.write_bytes(b"" if damage == "empty" else flipped)
        with contextlib.suppress(InputError):
            read_checkpoint(folder)
    if damage == "empty":
        with pytest.raises(InputError, match="weights_only"):
            read_checkpoint(folder)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "expected an object"),
        (ARGS | {"nheads": 7}, "not a multiple of 'nheads' 7"),
        (ARGS | {"nheads": 0}, "'nheads' is 0"),
        (ARGS | {"embsize": 16.0}, r"'embsize' is 16\.0"),
        (ARGS | {"dropout": 1}, "'dropout' is 1"),
        ({}, "'embsize' is None"),
    ],
)
def test_impossible_arguments_are_refused_by_name(tmp_path, model, args, says):
    folder = write_checkpoint(tmp_path / "model", model.state_dict(), args)
    with pytest.raises(InputError, match=says):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"<pad>": [0]}', "each id"),
        ("{", "not JSON"),
        ('{"A": 0, "B": 2, "<pad>": 1, "C": 2}', "each id"),
        ('{"A": 0}', "<pad>"),
    ],
)
def test_a_broken_vocabulary_is_refused(tmp_path, text, says):
    path = tmp_path / "vocab.json"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        read_vocabulary(path)


def test_a_neutral_prior_reaches_the_perturbed_genes_own_token(model):
    add_prior(model, torch.randn(len(VOCABULARY), 4), neutral=True)
    ids, values = torch.arange(6), torch.rand(3, 6)
    flags = torch.tensor([[0, 0, 1, 0, 0, 0]])
    with torch.no_grad():
        before = [model(ids, values, given) for given in (flags, 0 * flags)]
        model.flag_prior.projection.weight.normal_()
        after = [model(ids, values, given) for given in (flags, 0 * flags)]
    assert (before[0] - after[0]).abs().max() > 1e-3
    assert torch.equal(before[1], after[1])  # nothing is perturbed


def test_a_prior_at_two_places_is_one_table_wherever_it_is_moved(model):
    add_prior(model, torch.randn(len(VOCABULARY), 4), neutral=True)
    moved = model.to(torch.float64)  # as to a device: every tensor is another
    assert moved.flag_prior.prior.rows.dtype == torch.float64
    assert moved.flag_prior.prior.rows is moved.encoder.embedding.prior.rows
