"""Foreign files: what is read, what is refused, and that the result is the same network."""

import json
import pickle

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from medinv.cli import app
from medinv.errors import CheckpointError, InputError
from medinv.priors import (
    ContextPrior,
    IntensityScale,
    PatchPrior,
    PriorCard,
    import_prior,
    load_prior,
    read_card,
)
from medinv.priors.adapters import EDM, VE, VP
from medinv.priors.foreign import find_weights, read_weights
from medinv.priors.foreign.convert import read_config
from tests.priors.foreign_cases import LAYOUTS, UNET2D, fill, wave


def card(name, **fields):
    return PriorCard.model_validate({
        "description": "tiny", "network": LAYOUTS[name], "complex_images": False,
        "sigma_data": 0.5, "scale": IntensityScale(), **fields})


CARDS = {
    "adm": card("adm", parametrization=VP(), complex_images=True),
    "ncsnpp": card("ncsnpp", parametrization=VE()),
    "edm-adm": card("edm-adm", parametrization=EDM()),
    "unet2d": card("unet2d", parametrization=VP(predicts="v")),
    "monai": card("monai", parametrization=VP(schedule="scaled_linear")),
}


@pytest.mark.parametrize("name", CARDS)
def test_imported_weights_load_as_a_prior(name, tmp_path):
    torch.save(fill(LAYOUTS[name].build()).state_dict(), tmp_path / "theirs.pt")
    import_prior(tmp_path / "theirs.pt", CARDS[name], tmp_path / "ours.safetensors",
                 scale=IntensityScale(value=0.02))
    prior = load_prior(tmp_path / "ours.safetensors")
    weights = prior.network.network.state_dict()
    expected = fill(LAYOUTS[name].build()).state_dict()
    assert all(torch.equal(weights[key], expected[key]) for key in expected)
    assert prior.scale == IntensityScale(value=0.02)
    assert read_card(tmp_path / "ours.safetensors").training == {"imported_from": "theirs.pt"}
    x = torch.randn(2, 15, 9, dtype=prior.dtype)  # sides that aren't multiples of the stride
    assert prior(x, 0.3).shape == x.shape
    assert prior(x, 0.3).isfinite().all()


@pytest.mark.parametrize("nested", [
    lambda s: s,
    lambda s: {"module." + k: v for k, v in s.items()},
    lambda s: {"model": {"module." + k: v for k, v in s.items()}, "step": 3},
    lambda s: {"state_dict": {"diffusion.model." + k: v for k, v in s.items()}, "epoch": 3},
    lambda s: {"model": {k: 0 * v for k, v in s.items()}, "ema": s},
    lambda s: {"model." + k: 0 * v for k, v in s.items()} | {"ema." + k: v for k, v in s.items()},
])
def test_weights_are_found_where_training_codes_put_them(nested, tmp_path):
    network = LAYOUTS["adm"].build()
    weights = fill(LAYOUTS["adm"].build()).state_dict()
    torch.save(nested(weights), tmp_path / "theirs.pth")
    found = find_weights(read_weights(tmp_path / "theirs.pth"), network)
    assert list(found) == list(weights)
    assert all(torch.equal(found[key], weights[key]) for key in weights)


def test_the_average_of_score_sde_is_a_list_in_the_order_of_its_parameters():
    network = fill(LAYOUTS["ncsnpp"].build())
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    trained = [value for key, value in LAYOUTS["ncsnpp"].build().named_parameters()
               if value.requires_grad]
    shadow = [wave(value.shape, i) for i, value in enumerate(trained)]
    content = {"model": {**state, "module.sigmas": torch.ones(4)}, "step": 7, "optimizer": {},
               "ema": {"decay": 0.999, "num_updates": 3, "shadow_params": shadow}}
    found = find_weights(content, LAYOUTS["ncsnpp"].build())
    assert torch.equal(found["all_modules.0.W"], network.state_dict()["all_modules.0.W"])
    assert torch.equal(found["all_modules.1.weight"], shadow[0])
    assert torch.equal(found["all_modules.3.bias"], shadow[5])
    with pytest.raises(CheckpointError, match=r"has 5 tensors but the layout \d+"):
        find_weights({**content, "ema": {"shadow_params": shadow[:5]}}, network)


def test_names_of_old_versions_of_diffusers():
    network = fill(LAYOUTS["unet2d"].build())
    old = {key.replace("to_q", "query").replace("to_k", "key").replace("to_v", "value")
           .replace("to_out.0", "proj_attn"): value for key, value in network.state_dict().items()}
    assert set(find_weights(old, network)) == set(network.state_dict())


def test_missing_and_misshapen_tensors_are_reported_briefly():
    network = LAYOUTS["adm"].build()
    weights = network.state_dict()
    fewer = {key: value for key, value in weights.items() if "qkv" not in key}
    with pytest.raises(CheckpointError, match=r"x.pt: .*: 8 tensors missing \(.*and 5 more\)"):
        find_weights(fewer, network, "x.pt")
    wrong = {**weights, "out.2.bias": torch.ones(7)}
    with pytest.raises(CheckpointError, match=r"out.2.bias is \(7,\), expected \(4,\)"):
        find_weights(wrong, network)
    with pytest.raises(CheckpointError, match="tensors missing"):
        find_weights({}, network)


class Harmful:
    """Would leave a file if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_code_in_a_file_is_never_run(tmp_path):
    for name, save in (("a.pt", torch.save), ("b.pkl", lambda x, p: p.write_bytes(
            pickle.dumps(x)))):
        save({"ema": Harmful(tmp_path / "trace")}, tmp_path / name)
        with pytest.raises(CheckpointError, match=r"net.state_dict\(\), 'network.pt'"):
            read_weights(tmp_path / name)
    torch.save(nn.Linear(1, 1), tmp_path / "module.pt")
    with pytest.raises(CheckpointError, match="medinv never runs code from a file"):
        read_weights(tmp_path / "module.pt")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors", "x.bin"])
@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 broken"])
def test_broken_files_are_user_errors(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        read_weights(tmp_path / name)


def test_missing_file_and_wrong_suffix(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_weights(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="ends in .safetensors, got"):
        import_prior("x.pt", "dds-ct", tmp_path / "x.pt")


def diffusers_folder(folder, **scheduler):
    (folder / "unet").mkdir()
    (folder / "scheduler").mkdir()
    (folder / "unet" / "config.json").write_text(json.dumps(
        {"_class_name": "UNet2DModel", "_diffusers_version": "0.1", **UNET2D}))
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(
        {"_class_name": "DDPMScheduler", **scheduler}))
    return str(folder / "unet" / "config.json")


def test_diffusers_own_configuration_is_read(tmp_path):
    config = diffusers_folder(tmp_path, beta_schedule="squaredcos_cap_v2",
                              prediction_type="v_prediction")
    found = read_config(config)
    assert found.network == LAYOUTS["unet2d"]
    assert found.parametrization == VP(schedule="cosine", predicts="v")
    (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"beta_schedule": "sigmoid"}')
    with pytest.raises(CheckpointError, match="expected beta_schedule linear or scaled_linear"):
        read_config(config)
    (tmp_path / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(CheckpointError, match="expected scheduler_config.json beside it"):
        read_config(config)


def test_wrong_configurations_are_refused(tmp_path):
    with pytest.raises(InputError, match="no published configuration is called 'dds'; there are"):
        read_config("dds")
    (tmp_path / "c.yaml").write_text("description: x\nnetwork: {kind: adm}\n")
    with pytest.raises(CheckpointError, match=r"c.yaml: not a configuration .* network.adm"):
        read_config(str(tmp_path / "c.yaml"))
    (tmp_path / "c.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(CheckpointError, match="AutoencoderKL is none of UNet2DModel"):
        read_config(str(tmp_path / "c.json"))
    (tmp_path / "c.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="expected fields and values"):
        read_config(str(tmp_path / "c.json"))


def test_a_network_of_prompts_and_its_guidance(tmp_path):
    tiny = card("unet2d-condition", parametrization=VP(), complex_images=True)
    torch.save(fill(LAYOUTS["unet2d-condition"].build()).state_dict(), tmp_path / "u.bin")
    import_prior(tmp_path / "u.bin", tiny, tmp_path / "u.safetensors",
                 empty_context=wave((5, 24), 0))
    prior = load_prior(tmp_path / "u.safetensors")
    x = torch.randn(2, 8, 8, dtype=torch.complex64)
    tokens = wave((5 * 24,), 3)
    free, told = prior(x, 0.5), ContextPrior(prior, tokens)(x, 0.5)
    twice = ContextPrior(prior, tokens, weight=2.0)(x, 0.5)
    assert not torch.allclose(free, told)
    torch.testing.assert_close(twice, 2 * told - free, rtol=1e-4, atol=1e-4)


def test_a_network_of_patches_with_positions(tmp_path):
    tiny = card("ddpmpp", parametrization=EDM(), patch={"patch": 8, "side": 20})
    torch.save(fill(LAYOUTS["ddpmpp"].build()).state_dict(), tmp_path / "p.pt")
    import_prior(tmp_path / "p.pt", tiny, tmp_path / "p.safetensors")
    prior = load_prior(tmp_path / "p.safetensors")
    assert isinstance(prior, PatchPrior)
    assert prior(torch.ones(20, 20), 0.5).shape == (20, 20)


def test_the_command(tmp_path):
    config = diffusers_folder(tmp_path)
    torch.save(fill(LAYOUTS["unet2d"].build()).state_dict(), tmp_path / "u.bin")
    out = tmp_path / "u.safetensors"
    arguments = ["import-prior", str(tmp_path / "u.bin"), "--config", config, "-o", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--scale", "0.02"])
    assert result.exit_code == 0, result.output
    assert f"--set prior={out}" in result.output.replace("\n", "")
    assert load_prior(out).scale == IntensityScale(value=0.02)
    result = CliRunner().invoke(app, [*arguments, "--scale", "1", "--percentile", "99"])
    assert result.exit_code == 2
    result = CliRunner().invoke(app, [*arguments[:3], "nothing", "-o", str(tmp_path / "another")])
    assert result.exit_code == 2
    assert "no published configuration" in result.output
