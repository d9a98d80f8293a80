"""Schedules of every kind: levels of a trajectory, and what an output says about the picture."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from diffeat.errors import ModelError, SpecError
from diffeat.noise import NoiseLevel, format_t
from diffeat.schedules import DiscreteSchedule, FlowSchedule, Schedule, SigmaSchedule

LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
ZERO_SNR = {**LINEAR, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
EDM = {"_class_name": "EDMEulerScheduler"}
CONFIGS = {
    "discrete": LINEAR,
    "few steps": {**LINEAR, "num_train_timesteps": 70},
    "zero terminal SNR": ZERO_SNR,
    "flow": FLOW,
    "flow of one": {**FLOW, "num_train_timesteps": 1},
    "reversed flow": {**FLOW, "invert_sigmas": True},
    "edm": EDM,
}


@pytest.fixture(params=CONFIGS)
def schedule(request) -> Schedule:
    return Schedule.from_config(CONFIGS[request.param])


@pytest.fixture
def discrete() -> Schedule:
    return Schedule.from_config(LINEAR)


@pytest.fixture
def flow() -> Schedule:
    return Schedule.from_config(FLOW)


@pytest.fixture
def edm() -> Schedule:
    return Schedule.from_config(EDM)


def gaussian(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


def columns(levels) -> tuple[torch.Tensor, ...]:
    """(t, alpha, sigma), each (n, 1, 1, 1), as `split` takes them."""
    return tuple(column(*values) for values in zip(*((v.t, v.alpha, v.sigma) for v in levels),
                                                   strict=True))  # fmt: skip


def noised(levels):
    """A clean picture, noise, and their mixture at each level."""
    x0, eps = (gaussian(len(levels), 3, 4, 4, seed=seed) for seed in (0, 1))
    _, alpha, sigma = columns(levels)
    return x0, eps, alpha * x0 + sigma * eps


# --- kinds ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "kind", "prediction"),
    [
        (LINEAR, DiscreteSchedule, "epsilon"),
        (ZERO_SNR, DiscreteSchedule, "v_prediction"),
        ({**LINEAR, "prediction_type": "sample"}, DiscreteSchedule, "sample"),
        (FLOW, FlowSchedule, "flow"),
        ({**LINEAR, "prediction_type": "flow_prediction"}, FlowSchedule, "flow"),
        (EDM, SigmaSchedule, "edm"),
        ({"_class_name": "EDMDPMSolverMultistepScheduler"}, SigmaSchedule, "edm"),
    ],
)
def test_the_configuration_says_which_kind_it_is(config, kind, prediction):
    schedule = Schedule.from_config(config)
    assert type(schedule) is kind
    assert schedule.prediction == prediction


def test_ends_and_data_of_edm_are_those_of_its_configuration(edm):
    assert (edm.sigma_min, edm.sigma_max, edm.sigma_data) == (0.002, 80.0, 0.5)
    other = EDMEulerScheduler(sigma_min=0.01, sigma_max=120, sigma_data=1.0)
    found = Schedule.from_config(dict(other.config) | EDM)
    assert (found.sigma_min, found.sigma_max, found.sigma_data) == (0.01, 120.0, 1.0)


@pytest.mark.parametrize(("inverted", "reverse"), [(True, True), (False, False)])
def test_a_flow_may_count_from_noise_to_picture(inverted, reverse):
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=inverted)
    assert Schedule.from_config(dict(scheduler.config) | FLOW).reverse is reverse


# --- levels of EDM --------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.002, 0.3, 1.0, 2, 80])
def test_t_of_edm_is_sigma(edm, sigma):
    level = edm.at(sigma)
    assert (level.t, level.alpha, level.sigma) == (sigma, 1.0, sigma)
    assert level.log_snr == pytest.approx(-2 * math.log(sigma))
    for asked in (sigma, str(sigma), f"sigma={sigma}", f"snr={sigma**-2!r}", np.float64(sigma)):
        found = edm.resolve(asked)
        assert found.t == pytest.approx(sigma, rel=1e-8), asked


def test_a_number_of_edm_is_never_a_share(edm):
    assert edm.resolve(1.0) == edm.resolve(1) == edm.at(1)
    assert edm.resolve(0.5).label == "t0.5"


@pytest.mark.parametrize("asked", [0, 0.001, 81, -1, "sigma=0.0001", "sigma=200", "snr=1e9"])
def test_sigma_out_of_range_names_the_range(edm, asked):
    with pytest.raises(SpecError, match=r"out of range; this model counts noise by sigma, from "
                       r"0\.002 to 80"):  # fmt: skip
        edm.resolve(asked)


# --- what the network is told, and gets -----------------------------------------------------


def test_discrete_steps_are_told_as_whole_numbers(discrete):
    told = discrete.network_t(torch.tensor([0.0, 20.0, 999.0], dtype=torch.float64))
    assert told.dtype == torch.int64
    assert told.tolist() == [0, 20, 999]


@pytest.mark.parametrize(
    ("config", "told"), [("flow", [0, 250.5, 1000]), ("reversed flow", [1000, 749.5, 0])]
)
def test_flow_times_are_told_in_their_direction(config, told):
    schedule = Schedule.from_config(CONFIGS[config])
    found = schedule.network_t(torch.tensor([0, 250.5, 1000], dtype=torch.float64))
    assert found.dtype == torch.float32
    assert found.tolist() == told


@pytest.mark.parametrize("data", [0.5, 1.0])
def test_edm_is_told_and_given_what_diffusers_gives(data):
    reference = EDMEulerScheduler(sigma_data=data)
    schedule = Schedule.from_config(dict(reference.config) | EDM)
    sigmas = torch.tensor([0.002, 0.3, 1.0, 80.0], dtype=torch.float64)
    x = gaussian(4, 3, 4, 4, seed=0)
    told = schedule.network_t(sigmas)
    assert told.dtype == torch.float32
    given = schedule.scaled(x, sigmas.view(-1, 1, 1, 1))
    for k, sigma in enumerate(sigmas):
        torch.testing.assert_close(told[k], reference.precondition_noise(sigma).float())
        torch.testing.assert_close(given[k], reference.precondition_inputs(x[k], sigma))


def test_nobody_else_is_given_a_scaled_input(schedule):
    x = gaussian(2, 3, 4, 4, seed=0)
    changed = not torch.equal(schedule.scaled(x, column(0.3, 2.0)), x)
    assert changed == isinstance(schedule, SigmaSchedule)


# --- from the output to picture and noise ---------------------------------------------------


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("t", [0, 20, 500, 999])
def test_the_clean_picture_is_that_of_diffusers(prediction, t):
    config = {**LINEAR, "prediction_type": prediction}
    schedule = Schedule.from_config(config)
    reference = DDIMScheduler(**config, clip_sample=False)
    reference.set_timesteps(1000)
    x, output = gaussian(1, 3, 4, 4, seed=0), gaussian(1, 3, 4, 4, seed=1)
    found, _ = schedule.predict_x0_eps(x, output, *columns([schedule.at(t)]))
    step = reference.step(output, t, x)
    # diffusers' products of alphas are in fp32, and so are its roots
    torch.testing.assert_close(found, step.pred_original_sample, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("prediction", "output_of"),
    [
        ("epsilon", lambda x0, eps, alpha, sigma: eps),
        ("v_prediction", lambda x0, eps, alpha, sigma: alpha * eps - sigma * x0),
        ("sample", lambda x0, eps, alpha, sigma: x0),
    ],
)
def test_a_perfect_output_gives_picture_and_noise_back(prediction, output_of):
    schedule = Schedule.from_config({**LINEAR, "prediction_type": prediction})
    levels = [schedule.at(t) for t in (0, 20, 500, 999)]
    x0, eps, x = noised(levels)
    t, alpha, sigma = columns(levels)
    found = schedule.predict_x0_eps(x, output_of(x0, eps, alpha, sigma), t, alpha, sigma)
    for value, wanted in zip(found, (x0, eps), strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("config", "sign"), [("flow", 1), ("flow of one", 1),
                                              ("reversed flow", -1)])  # fmt: skip
def test_a_velocity_gives_picture_and_noise_back(config, sign):
    schedule = Schedule.from_config(CONFIGS[config])
    levels = [schedule.at(share * schedule.steps) for share in (0, 0.03, 0.5, 1)]
    x0, eps, x = noised(levels)
    found = schedule.predict_x0_eps(x, sign * (eps - x0), *columns(levels))
    for value, wanted in zip(found, (x0, eps), strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-12)


def test_a_step_of_euler_is_that_of_diffusers(flow):
    reference = FlowMatchEulerDiscreteScheduler()
    reference.set_timesteps(10)
    x, output = gaussian(1, 3, 4, 4, seed=0), gaussian(1, 3, 4, 4, seed=1)
    for here, there in zip(reference.sigmas[:-1], reference.sigmas[1:], strict=True):
        levels = [flow.at(1000 * float(s)) for s in (here, there)]
        x0, eps = flow.predict_x0_eps(x, output, *columns(levels[:1]))
        found = levels[1].alpha * x0 + levels[1].sigma * eps
        torch.testing.assert_close(found, x + (there - here).double() * output, rtol=1e-6,
                                   atol=1e-7)  # fmt: skip


@pytest.mark.parametrize("scheduler", [EDMEulerScheduler, EDMDPMSolverMultistepScheduler])
@pytest.mark.parametrize("data", [0.5, 1.0])
def test_the_clean_picture_of_edm_is_that_of_diffusers(scheduler, data):
    reference = scheduler(sigma_data=data)
    schedule = Schedule.from_config(dict(reference.config) | {"_class_name": scheduler.__name__})
    sigmas = (0.002, 0.3, 1.0, 80.0)
    levels = [schedule.at(sigma) for sigma in sigmas]
    x, output = gaussian(4, 3, 4, 4, seed=0), gaussian(4, 3, 4, 4, seed=1)
    x0, eps = schedule.predict_x0_eps(x, output, *columns(levels))
    for k, sigma in enumerate(sigmas):
        wanted = reference.precondition_outputs(
            x[k], output[k], torch.tensor(sigma, dtype=torch.float64)
        )
        torch.testing.assert_close(x0[k], wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(x0 + column(*sigmas) * eps, x, rtol=1e-9, atol=1e-9)


def test_an_edm_schedule_may_predict_velocities():
    reference = EDMEulerScheduler(sigma_data=1.0, prediction_type="v_prediction")
    schedule = Schedule.from_config(dict(reference.config) | EDM)
    x, output = gaussian(1, 3, 4, 4, seed=0), gaussian(1, 3, 4, 4, seed=1)
    x0, _ = schedule.predict_x0_eps(x, output, *columns([schedule.at(0.7)]))
    wanted = reference.precondition_outputs(x, output, torch.tensor(0.7, dtype=torch.float64))
    torch.testing.assert_close(x0, wanted, rtol=1e-6, atol=1e-6)


def test_picture_and_noise_are_finite_at_both_ends(schedule):
    levels = schedule.grid(10)
    first, last = levels[0], levels[-1]
    x = gaussian(2, 3, 4, 4, seed=0)
    found = schedule.predict_x0_eps(x, gaussian(2, 3, 4, 4, seed=1), *columns([first, last]))
    assert all(torch.isfinite(value).all() for value in found)


def test_without_signal_the_velocity_alone_says_what_the_picture_is():
    schedule = Schedule.from_config(ZERO_SNR)
    x, output = gaussian(1, 3, 4, 4, seed=0), gaussian(1, 3, 4, 4, seed=1)
    x0, eps = schedule.predict_x0_eps(x, output, *columns([schedule.at(999)]))
    torch.testing.assert_close(x0, -output)
    torch.testing.assert_close(eps, x)


def test_an_unknown_prediction_is_refused():
    schedule = Schedule.from_config({**LINEAR, "prediction_type": "dreams"})
    x = gaussian(1, 3, 4, 4, seed=0)
    with pytest.raises(ModelError, match="'dreams' is unknown; expected epsilon, v_prediction or "):
        schedule.predict_x0_eps(x, x, *columns([schedule.at(20)]))


# --- trajectories ---------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 10, 30, 50, 600, 1000])
def test_discrete_trajectories_visit_the_steps_of_ddim(discrete, steps):
    reference = DDIMScheduler(**LINEAR)  # spacing "leading", offset 0
    reference.set_timesteps(steps)
    clean, *rest = discrete.grid(steps)
    assert clean == NoiseLevel(-1.0, 1.0, 0.0)
    assert [level.t for level in rest] == reference.timesteps.flip(0).tolist()
    assert all(level == discrete.at(level.t) for level in rest)


@pytest.mark.parametrize("steps", [1, 4, 50])
@pytest.mark.parametrize("config", ["flow", "flow of one", "reversed flow"])
def test_flow_trajectories_are_evenly_spaced(config, steps):
    schedule = Schedule.from_config(CONFIGS[config])
    grid = schedule.grid(steps)
    assert len(grid) == steps + 1
    assert [level.sigma for level in grid] == pytest.approx([k / steps for k in range(steps + 1)])
    assert [level.alpha for level in grid] == pytest.approx([1 - v.sigma for v in grid])
    assert [level.t for level in grid] == pytest.approx(
        [schedule.steps * k / steps for k in range(steps + 1)]
    )
    assert (grid[0].sigma, grid[-1].alpha) == (0, 0)


@pytest.mark.parametrize("steps", [2, 18, 50])
def test_trajectories_of_edm_are_those_of_diffusers(edm, steps):
    reference = EDMEulerScheduler()  # Karras et al.'s sigmas, and a 0 behind them
    reference.set_timesteps(steps)
    found = [level.t for level in edm.grid(steps)]
    np.testing.assert_allclose(found, reference.sigmas[:-1].flip(0), rtol=2e-6)
    assert (found[0], found[-1]) == (0.002, 80.0)


def test_trajectories_grow_noisier(schedule):
    for steps in (2, 7, 50):
        noise = [level.log_snr for level in schedule.grid(steps)]
        assert noise == sorted(noise, reverse=True)
        assert len(set(noise)) == len(noise)


@pytest.mark.parametrize(
    ("config", "steps", "expected"),
    [
        ("discrete", 0, "1 … 1000"),
        ("discrete", 1001, "1 … 1000"),
        ("few steps", 71, "1 … 70"),
        ("flow", 0, "at least 1"),
        ("flow of one", -1, "at least 1"),
        ("edm", 1, "at least 2"),
    ],
)
def test_steps_that_no_trajectory_has(config, steps, expected):
    with pytest.raises(SpecError, match=f"steps={steps}; expected {expected}"):
        Schedule.from_config(CONFIGS[config]).grid(steps)


# --- levels on a trajectory -----------------------------------------------------------------


def test_every_level_of_a_trajectory_can_be_asked_for(schedule):
    grid = schedule.grid(20)
    for written in (float, format_t, np.float64):
        asked = [written(level.t) for level in grid]
        assert schedule.resolve_all(asked, grid) == grid
    backwards = [level.t for level in reversed(grid)]
    assert schedule.resolve_all(backwards, grid) == grid[::-1]


def test_the_clean_picture_is_the_first_level_of_discrete_steps(discrete):
    grid = discrete.grid(50)
    assert discrete.resolve_all([-1, 0, 980], grid) == (grid[0], grid[1], grid[-1])
    assert discrete.resolve_all([" -1 "], grid) == grid[:1]
    with pytest.raises(SpecError, match="t=-1 is out of range"):
        discrete.resolve_all([-1])


@pytest.mark.parametrize("asked", ["sigma=0.3", "snr=2", " sigma = 1 ", "sigma=0.06"])
def test_a_ratio_means_the_nearest_level(schedule, asked):
    grid = schedule.grid(20)
    (found,) = schedule.resolve_all([asked], grid)
    assert found == nearest_to(asked, grid)


def nearest_to(asked, grid):
    kind, value = asked.replace(" ", "").split("=")
    log_snr = math.log(float(value)) if kind == "snr" else -2 * math.log(float(value))
    return min(grid, key=lambda level: abs(level.log_snr - log_snr))


def test_a_ratio_between_coarse_steps_means_the_nearest_level():
    schedule = Schedule.from_config(CONFIGS["few steps"])
    grid = schedule.grid(20)
    assert schedule.resolve_all(["sigma=0.02"], grid) == (nearest_to("sigma=0.02", grid),)


@pytest.mark.parametrize(("share", "k"), [(0.0, 0), ("0.0", 0), (0.02, 1), (0.5, 25), ("0.98", 49)])
def test_flow_times_on_a_trajectory(flow, share, k):
    grid = flow.grid(50)
    assert flow.resolve_all([share], grid) == (grid[k],)


@pytest.mark.parametrize("steps", [50, 1000])
@pytest.mark.parametrize("asked", [1.0, "1.0"])
def test_the_last_flow_time_on_a_trajectory(flow, asked, steps):
    grid = flow.grid(steps)
    assert flow.resolve_all([asked], grid) == (grid[-1],)


@pytest.mark.parametrize(
    ("config", "asked", "near"),
    [
        ("discrete", 21, "20 or 40"),
        ("discrete", "39", "40 or 20"),
        ("discrete", 999, "980 or 960"),
        ("flow", 0.333, "340 or 320"),
        ("flow", 21, "20 or 40"),
        ("flow of one", 0.05, "0.06 or 0.04"),
        ("edm", 1.0, r"[\d.]+ or [\d.]+"),
    ],
)
def test_a_level_between_those_of_a_trajectory_names_the_nearest(config, asked, near):
    schedule = Schedule.from_config(CONFIGS[config])
    grid = schedule.grid(50)
    message = (
        rf"t={asked} is not on the trajectory of {len(grid)} levels; expected one of its levels, "
        rf"such as {near}, or another number of steps"
    )
    with pytest.raises(SpecError, match=message):
        schedule.resolve_all([asked], grid)


@pytest.mark.parametrize("asked", ["soon", "", "t=20", None, True])
def test_nonsense_is_nonsense_on_a_trajectory_too(discrete, asked):
    with pytest.raises(SpecError, match=r"is not understood|is not a number"):
        discrete.resolve_all([asked], discrete.grid(50))


def test_levels_out_of_range_are_so_on_a_trajectory_too(discrete):
    for asked in (1000, 20.5, -2, "1000"):
        with pytest.raises(SpecError, match="out of range"):
            discrete.resolve_all([asked], discrete.grid(50))


def test_one_level_given_twice(discrete):
    grid = discrete.grid(50)
    with pytest.raises(SpecError, match=r"t=80 is given twice \(as 'sigma=0.3' and 80\)"):
        discrete.resolve_all(["sigma=0.3", 80], grid)
    with pytest.raises(
        SpecError, match=r"t=80 is given twice \(as 'sigma=0.3' and 'sigma=0.301'\)"
    ):
        discrete.resolve_all(["sigma=0.3", "sigma=0.301"], grid)
    with pytest.raises(SpecError, match="no noise level given"):
        discrete.resolve_all([], grid)


# --- spelling -------------------------------------------------------------------------------


def test_what_is_spelled_out_means_the_same_level(schedule):
    shares = [0, 0.0005, 0.001, 0.02, 0.25, 0.2605, 1 / 3, 0.9, 1]
    if isinstance(schedule, SigmaSchedule):
        levels = [schedule.at(sigma) for sigma in (0.002, 0.01, 0.5, 1.0, 2.5, 80.0)]
    elif isinstance(schedule, FlowSchedule):
        levels = [schedule.at(round(share * schedule.steps, 9)) for share in shares]
    else:
        levels = [schedule.at(t) for t in range(schedule.steps)]
    for level in levels:
        assert schedule.resolve(schedule.spell(level)) == level
        assert schedule.resolve(str(schedule.spell(level))) == level
