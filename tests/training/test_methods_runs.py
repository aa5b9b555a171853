"""Uncertainty in unusual runs: without calibration, added later, refused, finetuned, with the published loss."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import atomml
from atomml.config import parse_config
from atomml.errors import ConfigError, ModelFileError
from atomml.potentials import Potential, read_header
from atomml.training import finetune, loop, train
from atomml.training.config import FinetuneConfig
from atomml.training.distributed import Ranks
from atomml.training.job import optimizer_for
from atomml.training.potential_task import PotentialTask
from atomml.training.state import Job
from atomml.training.step import clip_gradients
from atomml.uncertainty.bayesian import BayesianPotential
from tests.potentials.conftest import make_potential
from tests.training.helpers import MODEL, configured, draw_nothing, tiny_settings
from tests.training.test_methods import NLL, NOISY

pytestmark = pytest.mark.usefixtures("no_figures")

HEADS = {"model": NOISY, "loss": NLL, "uncertainty": {"kind": "heads"}}
IVON = {
    "model": NOISY,
    "loss": NLL | {"normalization": "structure"},
    "uncertainty": {"kind": "ivon", "samples": 2},
    "ema": 0,
}


@pytest.fixture
def plain(frames_file, tmp_path):
    return tiny_settings(frames_file, tmp_path / "run") | {"epochs": 1, "batch": {"batch_size": 10}}


def entry_of(run_dir):
    return read_header(run_dir / "model.safetensors").get("uncertainty")


def records(run_dir):
    return [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def models(frames_file, tmp_path_factory):
    """Model files of a plain training, and of one with several members."""
    found = {}
    for name, changes in {
        "plain": {},
        "noisy": HEADS,
        "llpr": {"uncertainty": {"kind": "llpr", "force_frames": 2}},
        "ensemble": {"uncertainty": {"kind": "ensemble", "members": 2}},
    }.items():
        settings = tiny_settings(frames_file, tmp_path_factory.mktemp("models") / name) | {"epochs": 1}
        with pytest.MonkeyPatch.context() as patch:
            draw_nothing(patch)
            found[name] = train(configured(settings, **changes), quiet=True).run_dir / "model.safetensors"
    return found


# -- calibration


def test_deviations_can_stay_as_they_are(plain):
    result = train(
        configured(plain, **HEADS | {"uncertainty": {"kind": "heads", "calibrate": "none"}}), quiet=True
    )
    assert result.potential.calibration is None
    assert entry_of(result.run_dir) == {"method": "heads", "members": 1, "calibration": None}


@pytest.mark.parametrize(
    ("valid", "message"),
    [
        (None, "Without validation frames the deviations are not calibrated"),
        (4, "The deviations are not calibrated"),
    ],
)
def test_a_training_without_enough_validation_frames_says_that_it_does_not_calibrate(
    plain, capsys, valid, message
):
    data = plain["data"] | {"valid": valid}
    result = train(configured(plain, **HEADS, data=data))
    assert message in " ".join(capsys.readouterr().err.split())
    assert isinstance(atomml.load(result.run_dir / "model.safetensors"), BayesianPotential)
    assert result.potential.calibration is None


# -- the published loss


def test_a_factor_of_the_quadratic_part_is_not_in_the_model(plain):
    """The best weights of the training have Σ times λ; those of the model are divided by it."""
    loss = NLL | {"lambda_forces": 100.0, "lambda_energy": 0.25}
    result = train(configured(plain, **HEADS | {"loss": loss}), quiet=True)
    trained = load_file(result.run_dir / "checkpoint" / "state.safetensors")["best.noise.log_std"]
    kept = result.potential.potential.noise.log_std.detach()
    expected = torch.tensor([-math.log(10.0), math.log(2.0), 0.0, 0.0])
    torch.testing.assert_close(kept - trained, expected.expand_as(kept), rtol=0, atol=1e-5)


def test_samples_of_swag_do_not_learn_that_factor_again(plain):
    swag = {"kind": "swag", "epochs": 2, "samples": 2}
    loss = NLL | {"lambda_forces": 1e4, "lambda_energy": 1e4}
    result = train(configured(plain, model=NOISY, loss=loss, uncertainty=swag), quiet=True)
    collecting = yaml.safe_load((result.run_dir / "swag" / "config.yaml").read_text())
    assert collecting["loss"]["lambda_forces"] == collecting["loss"]["lambda_energy"] == 1.0
    assert collecting["loss"]["warmup"] == 0.0


# -- by resume


def test_an_uncertainty_can_be_added_to_a_finished_training(plain):
    first = train(configured(plain), quiet=True)
    assert isinstance(first.potential, Potential)
    steps = [r for r in records(first.run_dir) if r["kind"] in ("step", "epoch")]
    llpr = {"kind": "llpr", "force_frames": 2}
    second = train(configured(plain, uncertainty=llpr), resume=True, quiet=True)
    assert second.potential.method == "llpr"
    assert [r for r in records(first.run_dir) if r["kind"] in ("step", "epoch")] == steps
    for a, b in zip(first.potential.parameters(), second.potential.potential.parameters(), strict=True):
        assert torch.equal(a, b)
    assert atomml.load(first.run_dir / "model.safetensors").method == "llpr"
    third = train(configured(plain), resume=True, quiet=True)
    assert isinstance(third.potential, Potential)


@pytest.mark.parametrize("first", ["ivon", "adam"])
def test_ivon_is_part_of_the_training_and_cannot_be_exchanged(plain, first):
    adam = IVON | {"uncertainty": {"kind": "heads"}}
    one, other = (IVON, adam) if first == "ivon" else (adam, IVON)
    train(configured(plain, **one), quiet=True)
    with pytest.raises(ConfigError, match=r"uncertainty\.kind"):
        train(configured(plain, **other), resume=True, quiet=True)


def test_an_ensemble_does_not_grow_in_the_folder_of_one_training(plain):
    result = train(configured(plain), quiet=True)
    before = (result.run_dir / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="holds one training, not an ensemble"):
        train(configured(plain, uncertainty={"kind": "ensemble", "members": 2}), resume=True, quiet=True)
    assert (result.run_dir / "model.safetensors").read_bytes() == before


def test_one_training_does_not_replace_an_ensemble_by_resume(plain):
    ensemble = {"uncertainty": {"kind": "ensemble", "members": 2}}
    result = train(configured(plain, **ensemble), quiet=True)
    before = (result.run_dir / "model.safetensors").read_bytes()
    for changes in ({}, {"uncertainty": {"kind": "llpr"}}):
        with pytest.raises(ConfigError, match="holds an ensemble"):
            train(configured(plain, **changes), resume=True, quiet=True)
    assert (result.run_dir / "model.safetensors").read_bytes() == before
    assert len(list((result.run_dir / "members").iterdir())) == 2
    assert isinstance(train(configured(plain), overwrite=True, quiet=True).potential, Potential)
    assert not (result.run_dir / "members").exists()


# -- finetuning


def finetuning(plain, **changes):
    keys = ("run_dir", "batch", "threads", "checkpoint_minutes", "data", "epochs")
    return parse_config(FinetuneConfig, {k: plain[k] for k in keys} | changes, where="test")


@pytest.mark.parametrize("changes", [{"loss": {"kind": "nll"}}, {"uncertainty": {"kind": "heads"}}])
def test_deviations_that_a_model_does_not_have_are_refused_before_its_finetuning(
    plain, models, changes, monkeypatch
):
    monkeypatch.setattr(loop, "training_step", None)  # would be called in the first step
    with pytest.raises(ConfigError, match=r"needs deviations: give model\.noise"):
        finetune(models["plain"], finetuning(plain, **changes), quiet=True)


def test_a_model_with_noise_is_finetuned_by_its_likelihood(plain, models):
    result = finetune(models["noisy"], finetuning(plain, loss=NLL, uncertainty={"kind": "heads"}), quiet=True)
    assert entry_of(result.run_dir)["method"] == "heads"


def test_frozen_noise_stays_as_it_is(plain, models):
    refit = NLL | {"refit": True}
    before = load_file(models["noisy"])
    config = finetuning(plain, loss=refit, freeze=["noise.log_std"], uncertainty={"kind": "heads"})
    after = load_file(finetune(models["noisy"], config, quiet=True).run_dir / "model.safetensors")
    for name in ("weights.noise.log_std", "weights.noise.center", "weights.noise.width"):
        assert torch.equal(before[name], after[name])
    whole = finetuning(plain, loss=refit, freeze=["noise.*"], uncertainty={"kind": "heads"})
    after = load_file(
        finetune(models["noisy"], whole, quiet=True, overwrite=True).run_dir / "model.safetensors"
    )
    assert all(torch.equal(before[name], after[name]) for name in before if ".noise." in name)


def test_frozen_parameters_are_no_part_of_a_laplace_approximation(plain, models):
    config = finetuning(
        plain, freeze=["body.embedding"], uncertainty={"kind": "laplace_diagonal", "samples": 2}
    )
    result = finetune(models["plain"], config, quiet=True)
    one, other = (dict(p.named_parameters()) for p in result.potential.posterior.members)
    assert torch.equal(one["body.embedding"], other["body.embedding"])
    assert not torch.equal(one["body.bias"], other["body.bias"])


def test_the_mean_of_a_last_layer_is_finetuned_and_several_members_are_not(plain, models):
    config = finetuning(plain, uncertainty={"kind": "llpr", "force_frames": 2})
    assert finetune(models["llpr"], config, quiet=True).potential.method == "llpr"
    with pytest.raises(ModelFileError, match="2 members, not one potential"):
        finetune(models["ensemble"], config, quiet=True, overwrite=True)


# -- networks with direct forces


PAPER = {"kind": "tdn_paper", "lmax": 1, "channels": 4, "layers": 1, "gaussians": 4, "cutoff": 3.0}
PAPER |= {"heads": 2, "radial_hidden": [4]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": {"kind": "nll"}}, "loss.kind nll needs a model of kind tdn or race, not tdn_paper"),
        ({"uncertainty": {"kind": "llpr"}}, "uncertainty.kind llpr needs a model of kind tdn or race"),
        ({"uncertainty": {"kind": "heads"}}, "uncertainty.kind heads needs a model of kind tdn or race"),
    ],
)
def test_what_a_network_with_direct_forces_cannot_say_is_refused(plain, changes, message):
    with pytest.raises(ConfigError, match=message):
        configured(plain, model=PAPER, **changes)


@pytest.mark.parametrize(
    "uncertainty",
    [
        {"kind": "ensemble", "members": 2},
        {"kind": "swag", "epochs": 2, "samples": 2},
        {"kind": "laplace_diagonal", "samples": 2},
    ],
)
def test_a_network_with_direct_forces_has_members(plain, uncertainty):
    result = train(configured(plain, model=PAPER, uncertainty=uncertainty), quiet=True)
    model = atomml.load(result.run_dir / "model.safetensors")
    assert model.method == uncertainty["kind"]
    assert "stress_std" not in model.deviations


def test_a_plain_model_has_no_entry(plain):
    result = train(configured(plain, model=MODEL), quiet=True)
    assert entry_of(result.run_dir) is None


def test_a_large_gradient_of_the_spread_does_not_shrink_that_of_the_body(plain):
    """Adam does not see a constant factor, but a limit on the norm of both is a factor that jumps."""
    config = configured(plain, model=MODEL | {"heads": 3}, loss=NLL, clip_norm=1.0)
    potential, weights = make_potential(heads=3), torch.ones(3).double()
    job = Job(
        config=config,
        module=potential,
        task=PotentialTask(config, potential, Ranks(), weights, None, str),
        optimizer=optimizer_for(config.optimizer, potential),
        names={p: name for name, p in potential.named_parameters()},
        ranks=Ranks(),
        weights=weights,
        run_dir=Path(config.run_dir),
        steps_of_epoch=lambda epoch: [],
        train_batches=lambda steps: iter(()),
        provenance={},
    )
    for p, name in job.names.items():
        p.grad = torch.full_like(p, 1e6 if name == "spread" else 1e-4)
    norm = clip_gradients(job, list(job.names))
    assert norm == pytest.approx(1e6 * potential.spread.numel() ** 0.5, rel=1e-6)
    assert potential.spread.grad.norm() == pytest.approx(1.0, rel=1e-5)
    assert float(potential.body.embedding.grad.max()) == pytest.approx(1e-4)
