"""Training: it learns what is known, streams what is large, and resumes exactly."""

import csv
import errno
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import dask
import numpy as np
import pytest
import torch
import xarray as xr
from lazy import computes_nothing

import xsda
from xsda.diffusion import VE, Preconditioned, denoising_loss
from xsda.diffusion.balance import power
from xsda.labels.grid import Grid
from xsda.labels.layout import Layout
from xsda.nn import MarkovNet, TemporalNet
from xsda.priors.normals import fit_normals
from xsda.training.balancing import InParts
from xsda.training.loop import Trainer, _cut
from xsda.training.networks import make_network
from xsda.training.objective import Objective
from xsda.training.parallel import Team
from xsda.training.prefetch import Prefetched
from xsda.training.train import _areas
from xsda.training.training_options import TrainingOptions
from xsda.training.windows import Windows, fit_scaling, split

QUICK = {
    "batch_size": 16,
    "warmup": 5,
    "validate_every": 20,
    "checkpoint_every": 10,
    "validation_batches": 2,
    "progress": False,
}


@pytest.fixture(scope="module")
def spring():
    return xsda.systems.DampedSpring().simulate(80, 20, seed=0).rename(member="trajectory")


def network():
    return TemporalNet(2, width=12, dilations=(1, 2), features=16)


def test_learns_the_best_denoiser_of_a_linear_gaussian_chain():
    """After a little training the loss is near the exact one, and far from that of knowing nothing."""
    system = xsda.systems.DampedSpring()
    data = system.simulate(64, 200, seed=1)
    prior = xsda.train(
        data, window=16, network=TemporalNet(2, width=24, dilations=(1, 2, 4, 1), features=32), steps=500, learning_rate=5e-3,
        **{**QUICK, "batch_size": 32, "validate_every": 250},
    )  # fmt: skip
    test = system.simulate(16, 400, seed=2)
    x = Grid.match(Layout.of(test).scaled(prior.layout.mean, prior.layout.std), test).to_tensor(test)
    cov = np.cov(prior.bind(test).to_tensor(system.simulate(16, 20_000, seed=3)).flatten(1).T.numpy())
    exact = xsda.priors.exact.GaussianDenoiser.of(
        torch.zeros(1, 32), torch.as_tensor(cov)[None], torch.ones(1), (16, 2), prior.schedule
    )
    generator = torch.Generator().manual_seed(0)
    for s in (0.1, 0.5, 2.0):
        t = prior.schedule.time(torch.tensor(s)).expand(len(x))
        noise = torch.randn(x.shape, generator=generator)
        learned, best = (float(denoising_loss(d, x, t, noise, weighting="eps")) for d in (prior.denoiser, exact))
        linear = 1 / (1 + s**2)  # each number on its own
        assert learned - best < 0.15 * (linear - best)
        # and the stored error curve says the same
        stored = prior.error(torch.tensor(s)).square().mean() / s**2
        assert float(stored) == pytest.approx(learned, rel=0.1)


@pytest.mark.parametrize(("precision", "optimizer"), [("float32", "adamw"), ("bf16", "adamw"), ("float32", "muon")])
def test_a_resumed_run_equals_an_uninterrupted_one(spring, tmp_path, precision, optimizer):
    class Stop(Exception):
        pass

    def interrupt(step, values):
        if step == 40:
            raise Stop

    torch.manual_seed(0)
    start = network().state_dict()

    def train(**options):
        net = network()
        net.load_state_dict(start)
        return xsda.train(
            spring,
            window=8,
            network=net,
            steps=60,
            shortest=4,
            accumulate=2,
            learning_rate=5e-3,
            precision=precision,
            optimizer=optimizer,
            **QUICK,
            **options,
        )

    whole = train(checkpoint=tmp_path / "whole.checkpoint", log=tmp_path / "whole.csv")
    with pytest.raises(Stop):
        train(checkpoint=tmp_path / "part.checkpoint", callback=interrupt)
    resumed = train(checkpoint=tmp_path / "part.checkpoint")
    assert resumed.hash == whole.hash
    rows = list(csv.DictReader((tmp_path / "whole.csv").open()))
    assert [r["step"] for r in rows] == ["20", "40", "60"]
    assert float(rows[-1]["validation_loss"]) < float(rows[0]["validation_loss"])


def test_compiled_training_gives_the_same_prior(spring, tmp_path, monkeypatch):
    """With a compiler that changes nothing; weights, checkpoints and files have no trace of it."""
    compile_ = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: compile_(self, backend="eager", **how))
    torch.manual_seed(0)
    start = network().state_dict()

    def train(**options):
        net = network()
        net.load_state_dict(start)
        return xsda.train(spring, window=8, shortest=4, network=net, steps=40, **QUICK, **options)

    def interrupt(step, values):
        if step == 20:
            raise KeyboardInterrupt

    usual, path = train(), tmp_path / "run.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        train(compile=True, checkpoint=path, callback=interrupt)
    resumed = train(compile=True, checkpoint=path)
    assert resumed.denoiser.state_dict().keys() == usual.denoiser.state_dict().keys()
    for key, value in usual.denoiser.state_dict().items():
        torch.testing.assert_close(resumed.denoiser.state_dict()[key], value)
    assert xsda.load_model(resumed.save(tmp_path / "compiled.safetensors")).hash == resumed.hash


def test_a_log_is_continued_and_never_overwritten(spring, tmp_path):
    log, options = tmp_path / "log.csv", {**QUICK, "validate_every": 4, "checkpoint_every": 4}

    def train(steps, **more):
        return xsda.train(spring, window=8, network=network(), steps=steps, log=log, **options, **more)

    train(8, checkpoint=tmp_path / "a.checkpoint")
    log.write_text(log.read_text() + "12,0.3")  # killed while it wrote
    train(12, checkpoint=tmp_path / "a.checkpoint")
    assert [r["step"] for r in csv.DictReader(log.open())] == ["4", "8", "12"]
    with pytest.raises(FileExistsError, match="another training, up to step 12"):
        train(4)
    log.write_text("")  # killed before it wrote
    train(4)
    assert [r["step"] for r in csv.DictReader(log.open())] == ["4"]
    log.write_text("year,height\n1990,94\n")
    with pytest.raises(FileExistsError, match="not the log of a training"):
        train(4)
    assert log.read_text() == "year,height\n1990,94\n"


def test_a_batch_that_does_not_fit_is_taken_in_parts(spring, monkeypatch):
    options = {**QUICK, "steps": 6, "accumulate": 2, "shortest": 4}
    whole = xsda.train(spring, window=8, network=network(), **options)
    enough = Objective.forward

    def forward(self, x0, *rest):
        if len(x0) > 5:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")
        return enough(self, x0, *rest)

    monkeypatch.setattr(Objective, "forward", forward)
    with pytest.warns(RuntimeWarning, match="each batch is processed in parts") as caught:
        parts = xsda.train(spring, window=8, network=network(), **options)
    assert len(caught) == 1
    assert parts.info["validation_loss"] == pytest.approx(
        whole.info["validation_loss"], rel=2e-3
    )  # rounding, magnified
    monkeypatch.setattr(Objective, "forward", lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
    with pytest.raises(MemoryError, match="a smaller batch_size"), pytest.warns(RuntimeWarning):
        xsda.train(spring, window=8, network=network(), **options)


@pytest.mark.parametrize("parts", [2, 5, 64])
def test_gradients_of_the_parts_of_a_batch_add_up(spring, parts):
    layout = fit_scaling(spring, Layout.of(spring))
    denoiser = Preconditioned(network().double(), VE(sigma_min=2e-3, sigma_max=80.0))
    trainer = Trainer(denoiser, TrainingOptions(batch_size=7, accumulate=2, shortest=4), Team())
    samples = trainer.samples(Windows(spring, layout, 8))
    batches = [next(samples).each(torch.Tensor.double) for _ in range(2)]
    gradients = []
    for trainer.parts in (1, parts):
        trainer.optimizer.zero_grad()
        trainer._gradients(batches)
        gradients.append([p.grad for p in denoiser.parameters() if p.grad is not None])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-12, atol=1e-14)


def test_a_checkpoint_of_another_training_is_refused(spring, tmp_path):
    path = tmp_path / "a.checkpoint"
    xsda.train(spring, window=8, network=network(), steps=10, checkpoint=path, **QUICK)
    with pytest.raises(ValueError, match=r"learning_rate: 0\.005 then, 0\.1 now"):
        xsda.train(spring, window=8, network=network(), steps=10, learning_rate=0.1, checkpoint=path, **QUICK)
    with pytest.raises(ValueError, match=r"is at step 10, beyond steps=9"):
        xsda.train(spring, window=8, network=network(), steps=9, checkpoint=path, **QUICK)
    same_shapes = TemporalNet(2, width=12, dilations=(4, 8), features=16)
    only = r"options or data \(network\.dilations\[0\]: 1 then, 4 now, network\.dilations\[1\]: 2 then, 8 now\); remove"
    with pytest.raises(ValueError, match=only):
        xsda.train(spring, window=8, network=same_shapes, steps=10, checkpoint=path, **QUICK)
    with pytest.raises(ValueError, match=r"data \(network\.width: 12 then, 9 now, "):
        xsda.train(spring, window=8, network=TemporalNet(2, width=9), steps=10, checkpoint=path, **QUICK)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="damaged"):
        xsda.train(spring, window=8, network=network(), steps=10, checkpoint=path, **QUICK)


def test_two_trainings_on_one_checkpoint_are_refused(spring, tmp_path):
    options = {"window": 8, "steps": 20, "checkpoint": tmp_path / "a.checkpoint", **QUICK}
    refused = []

    def meanwhile(step, values):
        with pytest.raises(RuntimeError, match=rf"at work on .*a\.checkpoint \(process {os.getpid()} on .* since "):
            xsda.train(spring, network=network(), **options)
        refused.append(step)

    xsda.train(spring, network=network(), callback=meanwhile, **options)
    assert refused == [20]
    assert [p.name for p in tmp_path.iterdir()] == ["a.checkpoint"]


def test_a_full_disk_leaves_the_last_checkpoint(spring, tmp_path, monkeypatch):
    path = tmp_path / "a.checkpoint"
    import xsda.training.checkpoint as module

    save, calls = module.save_file, []

    def full(tensors, name, meta):
        calls.append(name)
        if len(calls) == 2:
            with open(name, "wb") as file:
                file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(tensors, name, meta)

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        xsda.train(spring, window=8, network=network(), steps=30, checkpoint=path, **QUICK)
    assert module.load_checkpoint(path)[1]["step"] == 10
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_non_finite_loss_stops_with_the_step(spring, tmp_path, monkeypatch):
    path = tmp_path / "a.checkpoint"
    original, calls = Objective.forward, itertools.count(1)

    def spoiled(self, *sample):
        return original(self, *sample) * (float("nan") if self.training and next(calls) == 16 else 1)

    monkeypatch.setattr(Objective, "forward", spoiled)
    with pytest.raises(xsda.TrainingError, match=r"step 15.*last good checkpoint is .*a\.checkpoint"):
        xsda.train(spring, window=8, network=network(), steps=30, checkpoint=path, **QUICK)


def test_patience_stops_early(spring):
    seen = []
    xsda.train(
        spring, window=8, network=network(), steps=500, patience=2, learning_rate=1e-12, decay="constant",
        callback=lambda step, values: seen.append(step), **QUICK,
    )  # fmt: skip
    assert seen[-1] <= 80


def test_windows_cover_everything_once_and_skip_exactly(spring):
    layout = fit_scaling(spring, Layout.of(spring))
    windows = Windows(spring, layout, 8, piece_bytes=8 * 30 * 3, held=3)  # forced into small pieces
    assert len(windows.pieces) > 5
    assert len(windows) == 20 * 73
    number = len(windows) // 16
    first = [b[0] for _, b in zip(range(number + 5), windows.batches(16, seed=4), strict=False)]
    again = [b[0] for _, b in zip(range(3), windows.batches(16, seed=4, skip=number + 2), strict=False)]
    for a, b in zip(first[number + 2 :], again, strict=False):
        assert torch.equal(a, b)
    heads = torch.cat(first[: number - 20])[:, 0, 0]
    assert len(torch.unique(heads)) == len(heads)


@pytest.mark.parametrize("kind", ["netcdf", "zarr", "h5", "dask"])
def test_files_are_read_in_pieces_and_give_the_same_batches(spring, tmp_path, kind):
    if kind == "dask":
        data = spring.chunk({"trajectory": 3, "time": 17})
    elif kind == "zarr":
        spring.to_zarr(tmp_path / "s.zarr", consolidated=False)
        data = xr.open_zarr(tmp_path / "s.zarr", consolidated=False)
    else:
        spring.to_netcdf(tmp_path / "s.nc", engine="h5netcdf" if kind == "h5" else "netcdf4")
        data = xr.open_dataset(tmp_path / "s.nc", engine="h5netcdf" if kind == "h5" else "netcdf4")
    layout = fit_scaling(data, Layout.of(data))
    assert np.allclose(layout.mean, [float(spring[v].mean()) for v in layout.names])
    assert np.allclose(layout.std, [float(spring[v].std()) for v in layout.names])
    a, b = (next(Windows(d, layout, 8, piece_bytes=4000).batches(8, seed=0))[0] for d in (data, spring))
    torch.testing.assert_close(a, b)
    if kind == "dask":
        read = []
        with computes_nothing():  # nothing is read to plan
            windows = Windows(data, layout, 8, piece_bytes=4000)
        with dask.config.set(scheduler=lambda dsk, keys, **k: read.append(1) or dask.get(dsk, keys, **k)):
            next(windows.batches(8, seed=0))
        assert 0 < len(read) <= 2 * windows.held  # one read a piece and variable


def test_split():
    data = xsda.systems.DampedSpring().simulate(100, 30, seed=0)
    parts = split(data, Layout.of(data), 5)
    assert [p.sizes["member"] for p in parts] == [24, 3, 3]
    alone = data.isel(member=0, drop=True)
    assert [p.sizes["time"] for p in split(alone, Layout.of(alone), 5)] == [80, 10, 10]
    with pytest.raises(ValueError, match="too few"):
        split(alone, Layout.of(alone), 11)


def test_fields_with_context_and_dates():
    """A field whose mean follows a static map and the hour of the day is learnt from them."""
    rng = np.random.default_rng(0)
    time = np.datetime64("2020-01-01", "ns") + np.arange(240) * np.timedelta64(3600 * 10**9, "ns")
    mask = np.indices((6, 6)).sum(0) % 2
    day = np.sin(2 * np.pi * np.arange(240) / 24)[:, None, None]
    values = 280 + 3 * mask * day + 0.1 * rng.standard_normal((240, 6, 6))
    data = xr.Dataset(
        {"T": (("time", "lat", "lon"), values, {"units": "K"}), "mask": (("lat", "lon"), mask.astype(float))},
        {"time": time, "lat": np.linspace(55, 50, 6), "lon": np.arange(6.0)},
    )
    prior = xsda.train(
        data,
        window=3,
        network="temporal",
        context=["mask"],
        time_features=["hour_of_day"],
        width=16,
        steps=150,
        learning_rate=5e-3,
        **QUICK,
    )
    assert prior.layout.context_channels == 3
    grid = data.isel(time=slice(0, 24))
    sample = xsda.sample(grid, prior, members=4, steps=12, progress=False)
    assert sample["T"].attrs["units"] == "K"
    expected = 280 + 3 * mask * day[:24]
    error = float(((sample["T"].mean("member") - expected) ** 2).mean() ** 0.5)
    assert error < 0.5 * float((3 * mask * day[:24]).std())
    with pytest.raises(KeyError, match="static field 'mask'"):
        xsda.sample(grid.drop_vars("mask"), prior)


def test_markov_network():
    data = xsda.systems.DampedSpring().simulate(60, 12, seed=0)
    prior = xsda.train(data, window=3, network="markov", width=16, steps=20, **QUICK)
    assert isinstance(prior.denoiser.network, MarkovNet)
    assert prior.window == 3
    with pytest.raises(ValueError, match="must be odd"):
        xsda.train(data, window=4, network="markov", steps=2, **QUICK)


ERRORS = {
    "option": ({"step": 3}, TypeError, "did you mean 'steps'"),
    "network": ({"network": "temporl"}, ValueError, "did you mean 'temporal'"),
    "window": ({"window": 100}, ValueError, "100"),
    "context": ({"context": ["mask"]}, KeyError, "mask"),
    "features": ({"time_features": ["hour_of_day"]}, ValueError, "dates"),
    "rate": ({"learning_rate": 0}, ValueError, "positive"),
    "schedule": ({"schedule": VE(), "precision": "half"}, ValueError, "float32"),
    "periodic": ({"periodic": ["x"]}, ValueError, "no dimension 'x'"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(spring, name):
    options, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message):
        xsda.train(spring, **options)


@pytest.mark.parametrize("dim", ["trajectory", "time"])
def test_data_without_anything_in_them(spring, dim):
    nothing = spring.isel({dim: slice(0)})
    with pytest.raises(ValueError, match=f"the training data are empty along '{dim}'; give"):
        xsda.train(nothing, window=4, steps=2, progress=False)
    with pytest.raises(ValueError, match=f"the validation data are empty along '{dim}'; give"):
        xsda.train(spring, validation=nothing, window=4, steps=2, progress=False)


def test_nan_in_the_data(spring):
    broken = spring.where(spring.time != spring.time[7])
    with pytest.raises(ValueError, match="NaN or infinite"):
        xsda.train(broken, window=4, steps=2, **QUICK)


def test_schedule_and_parameterization(spring):
    schedule = xsda.diffusion.VP(eta=1e-2)
    prior = xsda.train(spring, window=4, network=network(), steps=5, parameterization="v", **QUICK, width=None)
    assert prior.denoiser.parameterization == "v"
    again = Preconditioned(network(), schedule)
    assert again.schedule == schedule


@pytest.mark.parametrize("window", [1, 3, 5, 8, 24, 96, 500])
def test_the_reach_of_the_default_network_is_half_its_window(window):
    data = xsda.systems.DampedSpring().simulate(window + 1, seed=0)
    net = make_network("temporal", Layout.of(data), window, 8)
    assert net.reach <= (window - 1) // 2
    assert net.reach >= min((window - 1) // 2, 60) - 1
    assert 6 <= len(net.blocks) <= 12


def test_a_checkpoint_of_other_data_is_refused(spring, tmp_path):
    path = tmp_path / "a.checkpoint"
    xsda.train(spring, window=8, network=network(), steps=10, checkpoint=path, **QUICK)
    names = (rf"data\.variables\[{i}\]\.{k}\[0\]: [\d.e-]+ then, [\d.]+ now" for i in (0, 1) for k in ("mean", "std"))
    with pytest.raises(ValueError, match=rf"\({', '.join(names)}\); remove"):
        xsda.train(spring * 3 + 100, window=8, network=network(), steps=10, checkpoint=path, **QUICK)


def test_training_leaves_the_global_random_numbers_alone(spring):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    xsda.train(spring, window=4, width=4, steps=2, **QUICK)
    assert torch.equal(torch.rand(3), expected)


def test_segments_are_cut_from_windows_without_loss():
    x = torch.arange(2 * 7 * 3.0).reshape(2, 7, 3)
    for pieces, length in ((1, 7), (2, 3), (3, 2)):
        cut = _cut(x, pieces)
        assert cut.shape == (2 * pieces, length, 3)
        torch.testing.assert_close(cut.reshape(2, -1), x[:, : pieces * length].reshape(2, -1))
    static = _cut(x[:, :1], 3)  # a field without time goes with each segment of its window
    assert static[:, 0, 0].tolist() == [0, 0, 0, 21, 21, 21]


TRAIN = """
import os, xsda
def spring(seed):
    return xsda.systems.DampedSpring().simulate(40, 20, seed=seed).rename(member="trajectory")
def train(name, batch):
    return xsda.train(spring(0), window=8, width=8, steps=12, accumulate=2, shortest=4, warmup=2, validate_every=4,
        validation_batches=3, batch_size=batch, progress=False, log=f"{name}.csv", checkpoint=f"{name}.checkpoint")
"""


def test_two_processes_do_what_one_does_with_the_doubled_batch(tmp_path, monkeypatch):
    """torchrun with gloo, two processes with batches of 8 and one with 16: the same losses, and the same prior.

    Then the two have different data. Each would learn its own channels: say so instead of averaging them.
    """
    monkeypatch.chdir(tmp_path)
    Path("script.py").write_text(
        f"{TRAIN}\nrank = int(os.environ['RANK'])\nprior = train('two', 8)\n"
        "if rank == 0:\n    prior.save('two.safetensors')\n"
        "xsda.train(spring(rank), window=8, width=8, steps=1, batch_size=8, progress=False)\n"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    root = str(Path(xsda.__file__).parents[1])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    done = subprocess.run([*launcher, "script.py"], env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode != 0
    assert "different data" in done.stderr
    here = {}
    exec(TRAIN, here)
    one_prior, two_prior = here["train"]("one", 16), xsda.load_model("two.safetensors")
    logs = [list(csv.DictReader(Path(f"{name}.csv").read_text().splitlines())) for name in ("one", "two")]
    assert [r["step"] for r in logs[1]] == ["4", "8", "12"]
    for column in ("loss", "validation_loss"):
        losses = [[float(r[column]) for r in log] for log in logs]
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    for a, b in zip(one_prior.denoiser.parameters(), two_prior.denoiser.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-5)


def test_the_order_of_the_variables_is_of_no_consequence(spring):
    priors = [
        xsda.train(ds, window=8, width=8, steps=3, progress=False, batch_size=8)
        for ds in (spring, spring[list(spring.data_vars)[::-1]])
    ]
    assert priors[0].hash == priors[1].hash


def test_batches_have_a_multiple_of_the_processes(spring):
    windows = Windows(spring, fit_scaling(spring, Layout.of(spring)), 8, piece_bytes=8 * 30 * 3, held=1)
    sizes = {len(x) for x, _ in itertools.islice(windows.batches(40, seed=0, multiple=7), 200)}
    assert all(n % 7 == 0 for n in sizes)
    with pytest.raises(ValueError, match="too few windows"):
        next(
            Windows(spring.isel(time=slice(0, 8), trajectory=slice(0, 3)), windows.grid.layout, 8).batches(
                4, 0, multiple=5
            )
        )


def test_a_prior_takes_the_lengths_it_was_trained_with(spring):
    for shortest, taken in (
        (3, 4),
        (5, 8),
        (8, 8),
    ):  # of windows of 8: halves are the shortest segments that are long enough
        prior = xsda.train(spring, window=8, network=network(), steps=2, shortest=shortest, **QUICK)
        assert prior.window == taken


def test_data_are_prepared_ahead_and_errors_come_through():
    made = []

    def source():
        for k in range(5):
            made.append(k)
            yield k
        raise OSError("the disk is gone")

    with Prefetched(source(), depth=2) as items:
        assert next(items) == 0
        deadline = time.monotonic() + 10
        while len(made) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(made) == 4  # one used, two ready, one in hand
        assert [next(items) for _ in range(4)] == [1, 2, 3, 4]
        with pytest.raises(OSError, match="disk is gone"):
            next(items)
    assert items.waited > 0
    with Prefetched(itertools.count()) as items:  # leaving does not wait for an endless source
        next(items)


@pytest.fixture(scope="module")
def waves():
    """Two channels of periodic fields that are smooth in space and keep their values in time."""
    rng = np.random.default_rng(0)
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(16, 1 / 16), np.fft.fftfreq(16, 1 / 16)))
    white = np.fft.fft2(rng.standard_normal((40, 1, 2, 16, 16)))
    fields = np.fft.ifft2(white / (1 + (k / 2) ** 4)).real.repeat(6, 1)
    x = np.arange(16.0)
    dims = ("trajectory", "time", "y", "x")
    return xr.Dataset(
        {name: (dims, fields[:, :, c]) for c, name in enumerate("uv")}, {"time": np.arange(6.0), "y": x, "x": x}
    )


def test_a_balanced_prior_has_the_spectrum_of_its_data(waves, tmp_path):
    """The same weights, nearer samples; trained so or balanced later, kept in the file, and undone by ``unbalanced`` alone."""
    options = {**QUICK, "window": 4, "network": "spacetime", "width": 8, "periodic": ["y", "x"], "steps": 60,
               "learning_rate": 5e-3, "validate_every": 60}  # fmt: skip
    plain, trained = (xsda.train(waves, balance=n, **options) for n in (0, 24))
    training = waves.isel(trajectory=slice(0, 32))
    later = xsda.balance(plain, training, members=24, progress=False)
    assert trained.hash == later.hash != plain.hash
    assert trained.unbalanced().hash == plain.unbalanced().hash == plain.hash
    read = xsda.load_model(later.save(tmp_path / "balanced.safetensors"))
    like = waves.isel(trajectory=0, time=slice(0, 4))
    data = power(plain.bind(like).to_tensor(training.isel(time=slice(0, 4))))[:, 1:6]

    def off(prior):
        free = xsda.sample(like, prior, members=24, seed=1, progress=False)
        return float((power(prior.bind(like).to_tensor(free))[:, 1:6] / data - 1).abs().mean())

    assert off(read) < 0.5 * off(plain)


@pytest.mark.parametrize("contexts", [None, 1, 7])
def test_members_are_balanced_in_parts(contexts):
    """Each with its own context, or all with one: parts give what all at once do."""

    class Network(torch.nn.Module):
        def forward(self, x, log_noise, context=0.0):
            return x.square() * log_noise + context

    denoiser = Preconditioned(Network(), VE())
    x, c = torch.randn(7, 3, 1, 4), None if contexts is None else torch.randn(contexts, 1, 1, 4)
    whole = denoiser.conditioned(c)(x, torch.tensor(0.5))
    for size in (1, 3, 7, 100):
        torch.testing.assert_close(InParts(denoiser, c, size)(x, torch.tensor(0.5)), whole)


def test_what_cannot_be_balanced(waves, spring):
    with pytest.raises(ValueError, match="periodic along all space axes, and these have ends: y, x"):
        xsda.train(waves, window=4, balance=8, **QUICK)
    with pytest.raises(ValueError, match="balance=-1 must be an integer of at least 0"):
        xsda.train(waves, window=4, balance=-1, **QUICK)
    prior = xsda.load_model("lorenz63")
    with pytest.raises(ValueError, match="this prior has no space axes"):
        xsda.balance(prior, xsda.systems.Lorenz63().simulate(64, 2, seed=0))
    for d in "yx":
        waves[d].attrs["period"] = 16.0
    exact = xsda.GaussianPrior.fit(waves, length=3)
    with pytest.raises(ValueError, match="only trained priors are balanced"):
        xsda.balance(exact, waves)


@pytest.mark.parametrize("mean", [0.0, 1e8, 1e9])
def test_scaling_of_numbers_far_from_zero(mean):
    """Statistics are those of double precision: single precision knows 1e8 to the nearest 8."""
    values = mean + np.random.default_rng(0).standard_normal((4, 500))
    ds = xr.Dataset({"u": (("trajectory", "time"), values)}, {"time": np.arange(500.0)})
    layout = fit_scaling(ds, Layout.of(ds))
    assert layout.mean[0] == pytest.approx(values.mean(), abs=1e-6)
    assert layout.std[0] == pytest.approx(values.std(), rel=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("train.nc", "must be an xarray.Dataset, got str; open it with xr.open_dataset"),
        (Path("train.nc"), "open it with xr.open_dataset"),
        (xr.DataArray([0.0], dims="time", name="x"), r"got DataArray; use .to_dataset\(\)"),
    ],
)
def test_data_that_are_no_dataset(spring, wrong, message):
    with pytest.raises(TypeError, match=f"^the training data .*{message}"):
        xsda.train(wrong)
    with pytest.raises(TypeError, match=f"^the validation data .*{message}"):
        xsda.train(spring, validation=wrong)


def coast(states=60):
    """A series on a grid with land, a daily cycle and a missing hour."""
    rng = np.random.default_rng(0)
    time = xr.date_range("2020-01-01", periods=states + 1, freq="6h").delete(25)
    values = 280 + rng.standard_normal((states, 5, 7))
    values[:, 1:3, 2:4] = np.nan
    coords = {"time": time, "lat": np.linspace(50, 54, 5), "lon": np.linspace(0, 6, 7)}
    return xr.Dataset({"sst": (("time", "lat", "lon"), values, {"units": "K"})}, coords)


LITTLE = {
    "network": "temporal",
    "window": 4,
    "steps": 3,
    "batch_size": 4,
    "width": 8,
    "progress": False,
    "validate_every": 3,
}


def test_land_and_gaps_do_not_teach():
    """Other numbers on land and in gaps train the same weights; results are NaN on land."""
    ds = coast()
    hole = xr.DataArray(np.random.default_rng(1).random(ds.sst.shape) < 0.2, dims=ds.sst.dims)
    priors = []
    for fill in (np.nan, 1e4):
        data = ds.where(~hole)
        land = data.sst.isnull().all("time")
        with pytest.warns(UserWarning, match="the record has 1 gap"):
            priors.append(
                xsda.train(data.where(~land, fill), validation=data.isel(time=slice(0, 20)), mask=~land, **LITTLE)
            )
    assert priors[0].hash == priors[1].hash
    assert priors[0].layout.context_channels == 1
    day = ds.isel(time=slice(0, 6))
    free = day.sda.sample(priors[0], members=2, steps=4, progress=False)
    assert bool((free.sst.isnull() == day.sst.isnull()).all())


def test_windows_stop_at_a_gap():
    ds = coast()
    layout = fit_normals(ds, Layout.of(ds))
    windows = Windows(ds, layout, 4)
    assert len(windows) == (25 - 3) + (35 - 3)
    with pytest.raises(ValueError, match=r"has 1 gaps, and no stretch between them has window=40 states"):
        Windows(ds, layout, 40)


def test_areas_follow_the_latitudes():
    ds = coast()
    areas = _areas(ds, Layout.of(ds))
    np.testing.assert_allclose(
        areas[:, 0] / areas[0, 0], np.cos(np.radians(ds.lat)) / np.cos(np.radians(50)), rtol=1e-3
    )
    turned = ds.isel(lat=slice(None, None, -1))
    torch.testing.assert_close(_areas(turned, Layout.of(turned)), areas)
    flat = ds.rename(lat="y", lon="x")
    assert _areas(flat, Layout.of(flat)) is None
