import json
import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from scipy import stats

from diffeat.errors import ModelError, SpecError
from diffeat.noise import NO_T, NoiseLevel, format_t, picture_noise, plain_t, shown_t
from diffeat.schedules import Schedule

LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
CONFIGS = {
    "linear": LINEAR,
    "scaled_linear": {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "prediction_type": "v_prediction",
    },
    "squaredcos": {"beta_schedule": "squaredcos_cap_v2"},
    "zero terminal SNR": {**LINEAR, "rescale_betas_zero_snr": True},
    "few steps": {**LINEAR, "num_train_timesteps": 50},
    "trained betas": {"trained_betas": [0.1, 0.2, 0.4], "num_train_timesteps": 3},
}


@pytest.fixture(scope="module")
def adm():
    return Schedule.from_config(LINEAR)


@pytest.fixture(scope="module")
def flow():
    return Schedule.from_config({"_class_name": "FlowMatchEulerDiscreteScheduler"})


# schedules


@pytest.mark.parametrize("scheduler", [DDPMScheduler, DDIMScheduler])
@pytest.mark.parametrize("name", CONFIGS)
def test_noising_is_the_schedulers_own(name, scheduler):
    reference = scheduler(**CONFIGS[name])
    schedule = Schedule.from_config(dict(reference.config))
    steps = reference.config.num_train_timesteps
    assert schedule.steps == steps
    ts = torch.arange(steps)
    one, zero = torch.ones(steps, 1).double(), torch.zeros(steps, 1).double()
    levels = [schedule.at(t) for t in range(steps)]
    alphas = reference.add_noise(one, zero, ts).squeeze(1).numpy()
    sigmas = reference.add_noise(zero, one, ts).squeeze(1).numpy()
    np.testing.assert_allclose([level.alpha for level in levels], alphas, rtol=1e-14)
    np.testing.assert_allclose([level.sigma for level in levels], sigmas, rtol=1e-14)
    assert [level.t for level in levels] == list(range(steps))


def test_levels_keep_the_variance(adm):
    np.testing.assert_allclose(adm.alphas**2 + adm.sigmas**2, 1, rtol=1e-15)


def test_linear_schedule_is_the_closed_form(adm):
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    # diffusers computes abar in fp32: 1000 factors of 6e-8 relative error each, at most
    np.testing.assert_allclose(adm.alphas**2, abar, rtol=6e-5)


@pytest.mark.parametrize(("t", "sigma"), [(50, 0.176), (90, 0.308), (150, 0.522), (250, 0.958)])
def test_published_sigmas_of_the_linear_schedule(adm, t, sigma):
    level = adm.at(t)
    assert round(level.sigma / level.alpha, 3) == sigma


def test_zero_terminal_snr_ends_without_signal():
    last = Schedule.from_config(CONFIGS["zero terminal SNR"]).at(999)
    assert (last.alpha, last.sigma, last.log_snr) == (0, 1, -math.inf)


def test_prediction_type_is_kept(adm):
    assert adm.prediction == "epsilon"
    assert Schedule.from_config(CONFIGS["scaled_linear"]).prediction == "v_prediction"


def test_schedule_without_betas_is_refused():
    with pytest.raises(ModelError, match="KarrasVeScheduler has no beta schedule"):
        Schedule.from_config({"_class_name": "KarrasVeScheduler"})


def test_schedule_with_unknown_betas_is_refused():
    with pytest.raises(ModelError, match="wavy"):
        Schedule.from_config({"beta_schedule": "wavy"})


@pytest.mark.parametrize("t", [1, 20, 250, 999, 1000])
def test_flow_noising_is_the_schedulers_own(flow, t):
    reference = FlowMatchEulerDiscreteScheduler()
    one, zero, time = torch.ones(1, 1), torch.zeros(1, 1), torch.tensor([float(t)])
    level = flow.at(t)
    assert level.alpha == pytest.approx(reference.scale_noise(one, time, zero).item(), abs=6e-8)
    assert level.sigma == pytest.approx(reference.scale_noise(zero, time, one).item(), abs=6e-8)


def test_flow_is_a_straight_line(flow):
    assert flow.prediction == "flow"
    assert [(v.t, v.alpha, v.sigma) for v in map(flow.at, (0, 250, 1000))] == [
        (0, 1, 0),
        (250, 0.75, 0.25),
        (1000, 0, 1),
    ]
    assert flow.at(260.5).sigma == 0.2605


def test_flow_prediction_makes_any_scheduler_a_flow():
    config = {**LINEAR, "prediction_type": "flow_prediction"}
    assert Schedule.from_config(config).at(500).alpha == 0.5


# levels


def test_log_snr_is_the_log_of_the_power_ratio():
    assert NoiseLevel(1, 0.8, 0.6).log_snr == pytest.approx(math.log(0.64 / 0.36), rel=1e-15)
    assert NoiseLevel(0, 1, 0).log_snr == math.inf
    assert NoiseLevel(9, 0, 1).log_snr == -math.inf


@pytest.mark.parametrize(("t", "text"), [(20, "20"), (20.0, "20"), (260.5, "260.5"), (0, "0")])
def test_t_is_written_without_a_needless_fraction(t, text):
    assert format_t(t) == text
    assert NoiseLevel(t, 1, 0).label == "t" + text


@pytest.mark.parametrize("level", [20, 20.0, "20", " 20 ", "2e1", np.int64(20), np.float32(20)])
def test_native_t_in_every_spelling(adm, level):
    assert adm.resolve(level) == adm.at(20)


def ratio(level):
    return level.sigma / level.alpha


@pytest.mark.parametrize("asked", ["sigma=0.3", "sigma = .3", "snr=11.11111111111"])
def test_ratio_gives_the_nearest_t_in_log_snr(adm, asked):
    t = int(adm.resolve(asked).t)
    distance = {k: abs(math.log(ratio(adm.at(k)) / 0.3)) for k in range(1000)}
    assert t == min(distance, key=distance.get)
    assert ratio(adm.at(t)) == pytest.approx(0.3, rel=0.01)


@pytest.mark.parametrize("t", [0, 1, 500, 998, 999])
def test_ratio_of_a_level_gives_that_level_back(adm, t):
    level = adm.at(t)
    assert adm.resolve(f"sigma={ratio(level)!r}").t == t
    assert adm.resolve(f"snr={ratio(level) ** -2!r}").t == t


def test_zero_terminal_snr_resolves_any_large_sigma():
    schedule = Schedule.from_config(CONFIGS["zero terminal SNR"])
    t = schedule.resolve("sigma=1e6").t
    assert t == 998  # the last t with any signal


@pytest.mark.parametrize("asked", ["sigma=0.001", "sigma=1000", "snr=1e7", "snr=1e-9"])
def test_ratio_outside_the_schedule_is_refused(adm, asked):
    with pytest.raises(SpecError, match=f"t='{asked}' is out of range.* from 0.01 .*to 157 "):
        adm.resolve(asked)


def test_flow_ratio_is_solved_exactly(flow):
    level = flow.resolve("sigma=0.25")  # s / (1-s) = 1/4
    assert (level.t, level.sigma) == (200, 0.2)
    assert flow.resolve("snr=16") == level
    assert flow.resolve("snr=1").t == 500


@pytest.mark.parametrize("level", [0.26, "0.26", np.float64(0.26), 260, "260", 260.0])
def test_flow_time_in_every_spelling(flow, level):
    assert flow.resolve(level) == flow.at(260)


def test_flow_time_in_single_precision(flow):
    assert flow.resolve(np.float32(0.25)) == flow.at(250)


def test_flow_time_one_and_native_t_one_differ(flow):
    assert flow.resolve(1.0).t == 1000
    assert flow.resolve(1).t == 1


@pytest.mark.parametrize("thousandth", range(0, 1001, 7))
def test_flow_time_in_thousandths_is_a_whole_t(flow, thousandth):
    assert flow.resolve(thousandth / 1000).label == f"t{thousandth}"


@pytest.mark.parametrize("ratio", ["sigma=0", "sigma=-1", "snr=0", "snr=-3"])
def test_ratio_that_is_not_positive_is_refused(adm, ratio):
    with pytest.raises(SpecError, match="expected a positive, finite number"):
        adm.resolve(ratio)


@pytest.mark.parametrize("level", [-1, 1000, 20.5, "1000", "-1", "0.3"])
def test_t_out_of_range_is_refused(adm, level):
    with pytest.raises(SpecError, match=r"is out of range; expected a whole number in 0 … 999"):
        adm.resolve(level)


@pytest.mark.parametrize("level", [-1, -0.1, 1000.5, "1001"])
def test_flow_t_out_of_range_is_refused(flow, level):
    with pytest.raises(SpecError, match=r"is out of range; expected 0 … 1000"):
        flow.resolve(level)


@pytest.mark.parametrize(
    "level", ["", "soon", "t=20", "sigma=", "sigma=nan", "sigma=x", "1,2", "--", "beta=3", "٣"]
)
def test_nonsense_text_is_refused(adm, level):
    with pytest.raises(SpecError, match="is not understood; expected a native timestep"):
        adm.resolve(level)


@pytest.mark.parametrize("level", [True, False, None, [20], 1j])
def test_what_is_no_number_is_refused(adm, level):
    with pytest.raises(SpecError, match="is not a number"):
        adm.resolve(level)


@pytest.mark.parametrize("level", [math.nan, math.inf, -math.inf, "1e999", "sigma=1e-200"])
@pytest.mark.parametrize("kind", ["adm", "flow"])
def test_numbers_that_no_schedule_has_are_refused(kind, level, request):
    with pytest.raises(SpecError, match="t="):
        request.getfixturevalue(kind).resolve(level)


def test_several_levels_keep_their_order(adm):
    levels = adm.resolve_all([50, "20", "sigma=0.308"])
    assert [level.t for level in levels] == [50, 20, 90]


def test_one_level_given_twice_is_refused(adm, flow):
    with pytest.raises(SpecError, match=r"t=20 is given twice \(as 20 and '20'\)"):
        adm.resolve_all([20, 50, "20"])
    with pytest.raises(SpecError, match=r"t=90 is given twice \(as 'sigma=.308' and 90\)"):
        adm.resolve_all(["sigma=.308", 90])
    with pytest.raises(SpecError, match="given twice"):
        flow.resolve_all([0.26, 260])


def test_no_level_is_refused(adm):
    with pytest.raises(SpecError, match="no noise level given"):
        adm.resolve_all([])


# noise

GOLDEN = {
    (0, "", 0): [1.7653365, 0.6212086, -1.4877006, -0.19246498],
    (0, "cat/1.png", 0): [-0.8260279, 0.014296725, 0.5490154, 0.20243721],
    (7, "猫/ü.png", 3): [-0.56033969, 2.2282476, -1.0554955, 0.60561502],
}


@pytest.mark.parametrize("key", GOLDEN)
def test_noise_is_the_same_on_every_machine_and_for_ever(key):
    noise = picture_noise(*key, (2, 1, 2))
    assert noise.shape == (2, 1, 2)
    assert noise.dtype == np.float32
    np.testing.assert_allclose(noise.ravel(), GOLDEN[key], rtol=1e-6)


def test_noise_leaves_and_reads_no_global_state():
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = picture_noise(0, "a", 0, (8,))
    picture_noise(0, "b", 0, (3,))
    torch.manual_seed(5)
    assert np.array_equal(picture_noise(0, "a", 0, (8,)), first)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_numpy_seeds_and_members_count_like_plain_ones():
    plain = picture_noise(3, "a", 2, (8,))
    assert np.array_equal(picture_noise(np.int64(3), "a", np.int32(2), (8,)), plain)


def test_each_of_seed_picture_and_member_gives_other_noise():
    keys = [(1, "a", 0), (2, "a", 0), (1, "b", 0), (1, "a", 1), (1, "a1", 0), (11, "a", 0)]
    first_values = {picture_noise(*key, (1,)).item() for key in keys}
    assert len(first_values) == len(keys)


@pytest.fixture(scope="module")
def many():
    return np.stack([picture_noise(0, f"p{k}", 0, (4, 8, 8)).ravel() for k in range(1000)])


def test_noise_is_standard_gaussian(many):
    values = many.ravel().astype(np.float64)
    count = values.size
    # five standard errors of each moment; Var z² = 2, Var z³ = 15, Var z⁴ = 96
    assert abs(values.mean()) < 5 / math.sqrt(count)
    assert abs((values**2).mean() - 1) < 5 * math.sqrt(2 / count)
    assert abs((values**3).mean()) < 5 * math.sqrt(15 / count)
    assert abs((values**4).mean() - 3) < 5 * math.sqrt(96 / count)


def test_noise_has_the_gaussian_distribution(many):
    assert stats.kstest(many[:, 0], "norm").pvalue > 1e-4
    assert stats.kstest(many[0], "norm").pvalue > 1e-4


def test_noise_of_different_pictures_is_uncorrelated(many):
    correlation = np.corrcoef(many[:300])[np.triu_indices(300, 1)] * math.sqrt(many.shape[1])
    # 44,850 pairs, each about N(0, 1): none beyond 6, and the mean square is 1
    assert abs(correlation).max() < 6
    assert abs((correlation**2).mean() - 1) < 5 * math.sqrt(2 / correlation.size)


def test_noise_of_members_and_seeds_is_uncorrelated():
    rows = [picture_noise(s, "a", m, (1024,)) for s in range(8) for m in range(8)]
    correlation = np.corrcoef(rows)[np.triu_indices(64, 1)]
    assert abs(correlation).max() < 6 / math.sqrt(1024)


def test_no_level_is_0_for_programs_and_blank_for_people():
    level = NoiseLevel(NO_T, 1.0, 0.0)
    assert {("blocks.5", 0): 1}["blocks.5", NO_T] == 1
    assert (level.label, format_t(NO_T), json.dumps([NO_T])) == ("t0", "0", "[0]")
    assert plain_t(NO_T) is NO_T
    assert (shown_t(NO_T), shown_t(NO_T, " at t=")) == ("", "")
    assert (shown_t(0), shown_t(20.0, " at t="), shown_t(0.5, "t=")) == ("0", " at t=20", "t=0.5")
