"""Recipes: a prior from one file, and what is wrong with a file."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import xarray as xr

import xsda
from xsda.training import TrainingOptions
from xsda.training.recipe import Recipe

SMALL = """
name = "small"

[data]
system = "lorenz96"
trajectories = 10
length = 12
burn_in = 4
seed = 3

[data.parameters]
n = 8

[network]
name = "TemporalNet"
width = 4
dilations = [1, 1]

[train]
window = 4
periodic = ["x"]
steps = 4
batch_size = 4
validate_every = 2
validation_batches = 1
"""


def written(tmp_path, text=SMALL):
    path = tmp_path / "small.toml"
    path.write_text(text)
    return path


def test_a_recipe_does_what_the_same_call_does(tmp_path):
    prior = Recipe.read(written(tmp_path)).cook(tmp_path / "small.safetensors", progress=False)
    ds = xr.open_zarr(tmp_path / "small-data.zarr", consolidated=False).load()
    assert dict(ds.sizes) == {"trajectory": 10, "time": 12, "x": 8}
    options = {"steps": 4, "batch_size": 4, "validate_every": 2, "validation_batches": 1, "progress": False}
    network = {"name": "TemporalNet", "width": 4, "dilations": (1, 1)}
    same = xsda.train(ds, window=4, network=network, periodic=["x"], **options)
    for a, b in zip(prior.denoiser.parameters(), same.denoiser.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    saved = xsda.load_model(tmp_path / "small.safetensors")
    assert saved.hash == prior.hash
    assert saved.name == "small"
    assert "Lorenz96" in saved.info["data"]
    options = {"batch_size": 4, "steps": 4, "validate_every": 2, "validation_batches": 1}
    assert saved.info["options"] == options  # what the recipe says and defaults do not
    assert saved.info["processes"] == 1
    assert torch.__version__.startswith(saved.info["torch"])
    assert (tmp_path / "small.safetensors.csv").is_file()


def test_data_in_memory_or_from_a_file(tmp_path):
    memory = SMALL.replace("trajectories", "members").replace("small", "memory")
    Recipe.read(written(tmp_path, memory)).cook(tmp_path / "memory.safetensors", progress=False)
    assert not (tmp_path / "memory-data.zarr").exists()
    xsda.systems.Lorenz96(n=8).simulate(12, 10, seed=3, burn_in=4).to_netcdf(tmp_path / "mine.nc")
    head, tail = memory.split("[data]")[0], memory.split("[network]")[1]
    text = f'{head}[data]\npath = "mine.nc"\n\n[network]{tail}'
    Recipe.read(written(tmp_path, text)).cook(tmp_path / "file.safetensors", progress=False)
    one, two = (xsda.load_model(tmp_path / f"{n}.safetensors").denoiser.state_dict() for n in ("memory", "file"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[train]", "[trian]", r"unknown key 'trian'; did you mean 'train'"),
        ("steps", "step", r"\[train\] unknown key 'step'; did you mean 'steps'"),
        ("trajectories", "trajektories", r"\[data\] unknown key 'trajektories'; did you mean 'trajectories'"),
        ("lorenz96", "lorenz69", r"unknown system 'lorenz69'; did you mean 'lorenz96'"),
        ("width = 4", "widht = 4", r"TemporalNet has no parameter 'widht'; did you mean 'width'"),
        ("TemporalNet", "TemporallNet", r"network 'TemporallNet' is unknown; did you mean 'TemporalNet'"),
        ("width = 4", "channels = 4", r"no parameter 'channels'"),
        ("trajectories = 10", "", r"members \(in memory\) or trajectories"),
        ('system = "lorenz96"', "", r"either a file \(path\) or a system"),
        ('name = "small"', "", r"lacks 'name'"),
        ("seed = 3", "seed = = 3", r"is not valid TOML.*line"),
        ("n = 8", "sites = 8", r"\[data.parameters\] unknown key 'sites'; "),
        ("n = 8", "n = 8\nforcign = 8.0", r"\[data.parameters\] unknown key 'forcign'; did you mean 'forcing'"),
        ("steps = 4", 'steps = "many"', r"steps='many' must be an integer"),
        ("steps = 4", "steps = true", r"steps=True must be an integer"),
        ("window = 4", "window = 4.5", r"window=4.5 must be an integer"),
        ("width = 4", 'width = "wide"', r"cannot be made"),
        ("length = 12", "", r"must give the length"),
        ("trajectories = 10", 'members = 10\npath = "a.zarr"', r"simulated in memory; omit path"),
        ("[train]", "[[train]]", r"\[train\] must be one table"),
        ('name = "small"', "name = 3", r"name = 3 must be a text"),
        ("[train]", '[schedule]\nname = "vpp"\n\n[train]', r"unknown name 'vpp'"),
        (
            "[train]",
            '[schedule]\nname = "VE"\nsigma_mni = 3\n\n[train]',
            r"\[schedule\] unknown key 'sigma_mni'; did you mean 'sigma_min'",
        ),
        ("[train]", "[train]\nwidth = 8", r"width=8 is for a network given by name"),
        ("periodic", 'context = ["orography"]\nperiodic', r"'orography' is not in the Dataset"),
        ("[train]", '[train]\nparameterization = "edmm"', r"'edmm' is unknown; did you mean 'edm'"),
        ("[train]", "[train]\nshortest = 5", r"shortest=5 must lie between 1 and window=4"),
        ("window = 4", "window = 14", r"window=14 is longer than the trajectories: .*12"),
        ("window = 4", 'window = "8"', r"window='8' must be an integer"),
        ("dilations = [1, 1]", 'dilations = "no"', r"cannot be made|dilations"),
        ("[train]", "[train]\nnoise_center = -1.2", r"noise_center=-1.2 must be positive: .*P_mean"),
        ("[train]", "[train]\nnoise_center = nan", r"noise_center=nan must be a finite number"),
        ("[train]", "[train]\nseed = -1", r"seed=-1 must not be negative"),
        ("trajectories = 10", 'members = "20"', r"\[data\] members='20' must be an integer of at least 1"),
        ("seed = 3", 'variables = ["v"]', r"\[data\] variables: unknown key 'v'; "),
        ("seed = 3", "path = 3", r"\[data\] path = 3 must be a text"),
        ('"lorenz96"', '["lorenz96"]', r"\[data\] system = \['lorenz96'\] must be a text"),
        ("[data.parameters]\nn = 8\n", "parameters = 3\n", r"\[data.parameters\] must be one table, got 3"),
        ('"TemporalNet"', '["TemporalNet"]', r"network \['TemporalNet'\] is unknown"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_named(tmp_path, old, new, message):
    with pytest.raises(ValueError, match=message):  # before the data are made
        Recipe.read(written(tmp_path, SMALL.replace(old, new, 1)))


RECIPES = sorted((Path(__file__).parents[2] / "examples/training").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_the_recipes_of_the_shipped_priors_are_recipes(path):
    recipe = Recipe.read(path)
    assert recipe.name == path.stem
    if recipe.name in xsda.models():
        prior = xsda.load_model(recipe.name)
        config = prior.denoiser.network.config
        for key, value in recipe.network.items():
            if key == "name":
                assert type(prior.denoiser.network).__name__ == value
            else:
                assert (list(config[key]) if isinstance(value, list) else config[key]) == value
        assert prior.info["training_steps"] == recipe.train["steps"]
        assert prior.info["training_window"] == recipe.train["window"]
        assert prior.info["batch_size"] == recipe.train["batch_size"]
        trained = asdict(TrainingOptions()) | recipe.train
        for key, value in prior.info.get("options", {}).items():  # of all processes together: the batch
            assert trained[key] == value or key == "batch_size"
        data = recipe.data
        for key in ("length", "seed"):
            assert f"{key}={data[key]}" in prior.info["data"]


def test_every_embedded_prior_has_its_recipe():
    assert {name for name, where in xsda.models().items() if where == "embedded"} <= {
        *(p.stem for p in RECIPES),
        *(p.stem.replace("_", "-") for p in RECIPES[0].parent.glob("*.py")),
    }
