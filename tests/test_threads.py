"""How many CPUs a process may use, how many threads it has, and that those that wait sleep."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

import diffeat
from diffeat import threads
from diffeat.errors import SpecError
from probes.threads import SMALL, sized


def tree(root, groups: str, files: dict[str, str]):
    """A file system with /proc/self/cgroup and some files of control groups."""
    files = {"proc/self/cgroup": groups, **files}
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return root


@pytest.fixture
def wide(monkeypatch):
    """A machine of 64 CPUs, all of which the process may use."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))


V1 = "4:memory:/m\n3:cpu,cpuacct:/docker/abc\n0::/\n"
QUOTAS = {
    "no files at all": ("", {}, 64),
    "v2, no quota": ("0::/a\n", {"sys/fs/cgroup/a/cpu.max": "max 100000\n"}, 64),
    "v2, own": ("0::/a/b\n", {"sys/fs/cgroup/a/b/cpu.max": "300000 100000\n"}, 3),
    "v2, rounded up": ("0::/\n", {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
    "v2, less than one": ("0::/\n", {"sys/fs/cgroup/cpu.max": "10000 100000\n"}, 1),
    "v2, the parent's is less": (
        "0::/a/b\n",
        {
            "sys/fs/cgroup/a/b/cpu.max": "800000 100000\n",
            "sys/fs/cgroup/a/cpu.max": "400000 200000\n",
        },
        2,
    ),
    "v2, the host's path in a container": (
        "0::/../../pods/x\n", {"sys/fs/cgroup/cpu.max": "500000 100000\n"}, 5,
    ),
    "v2 beside v1": ("0::/a\n", {"sys/fs/cgroup/unified/a/cpu.max": "700000 100000\n"}, 7),
    "v1": (
        V1,
        {
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "50000\n",
        },
        5,
    ),
    "v1, the root as a container sees it": (
        V1,
        {
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        4,
    ),
    "v1, no quota": (
        V1,
        {
            "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": "100000\n",
        },
        64,
    ),
    "nonsense": ("0::/\nno line\n", {"sys/fs/cgroup/cpu.max": "many few\n"}, 64),
}  # fmt: skip


@pytest.mark.parametrize("name", QUOTAS)
def test_quotas_count(name, tmp_path, wide):
    groups, files, expected = QUOTAS[name]
    assert threads.usable_cpus(tree(tmp_path, groups, files)) == expected


def test_the_least_of_affinity_quota_and_machine(tmp_path, wide, monkeypatch):
    root = tree(tmp_path, "0::/\n", {"sys/fs/cgroup/cpu.max": "600000 100000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 5, 7})
    assert threads.usable_cpus(root) == 3
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert threads.usable_cpus(root) == 2
    monkeypatch.setattr(os, "cpu_count", lambda: None)  # as it says where it cannot tell
    assert threads.usable_cpus(root) == 1
    monkeypatch.setattr(os, "cpu_count", lambda: 9)
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert threads.usable_cpus(root) == 6


def in_child(program: str, **environment: str) -> dict:
    """What a program prints as JSON, in an environment that says nothing of threads but this."""
    clean = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "DIFFEAT_"))
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env={**clean, **environment},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1]) | {"err": done.stderr}


LOADED = """
import json, os, sys
import diffeat
assert not {"torch", "numpy"} & set(sys.modules)
import torch
names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OPENBLAS_THREAD_TIMEOUT")
print(json.dumps({name: os.environ.get(name) for name in names}))
"""


def test_waiting_threads_soon_sleep_where_torch_is_loaded_after_us():
    found = in_child(LOADED, OMP_DISPLAY_ENV="VERBOSE")
    assert (found["OMP_WAIT_POLICY"], found["OPENBLAS_THREAD_TIMEOUT"]) == ("PASSIVE", "4")
    if "GOMP_SPINCOUNT" not in found["err"]:
        pytest.skip("this torch brings no libgomp")
    # without the variable libgomp says 300000
    assert "GOMP_SPINCOUNT = '10000'" in found["err"]


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_what_the_user_has_set_is_kept(name):
    environment = {name: "ACTIVE" if name == "OMP_WAIT_POLICY" else "7", "A": "b"}
    given = dict(environment)
    threads.let_waiting_sleep(environment)
    assert environment == {**given, "OPENBLAS_THREAD_TIMEOUT": "4"}
    environment = {"OPENBLAS_THREAD_TIMEOUT": "20"}
    threads.let_waiting_sleep(environment)
    assert environment == {
        "OPENBLAS_THREAD_TIMEOUT": "20",
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "10000",
    }


@pytest.fixture
def four(monkeypatch):
    """torch has four threads, eight CPUs may be used, and nobody asked for a number."""
    before = torch.get_num_threads()
    for name in (threads.VARIABLE, *threads.OPENMP):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "usable_cpus", lambda: 8)
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


class TestSetting:
    def test_a_number(self, four):
        assert diffeat.set_threads(3) == torch.get_num_threads() == 3

    def test_no_more_than_the_process_may_use(self, four, monkeypatch):
        assert diffeat.set_threads() == torch.get_num_threads() == 4
        monkeypatch.setattr(threads, "usable_cpus", lambda: 2)
        assert diffeat.set_threads() == torch.get_num_threads() == 2

    def test_the_environment_of_openmp_wins_over_the_quota(self, four, monkeypatch):
        monkeypatch.setattr(threads, "usable_cpus", lambda: 2)
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
        assert diffeat.set_threads() == 4

    def test_workers_share(self, four, monkeypatch):
        assert diffeat.set_threads(workers=2) == 2
        assert diffeat.set_threads(7, workers=3) == 2
        assert diffeat.set_threads(1, workers=3) == 1
        monkeypatch.setenv(threads.VARIABLE, "6")
        assert diffeat.set_threads(workers=2) == torch.get_num_threads() == 3

    def test_blas_gets_no_more(self, four):
        from threadpoolctl import threadpool_info, threadpool_limits

        with threadpool_limits(None):  # puts back what was
            diffeat.set_threads(1)
            blas = [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]
        assert set(blas) <= {1}

    @pytest.mark.parametrize("wrong", ["0", "-1", "many", "1.5", 0, 2.0, True])
    def test_nonsense(self, wrong):
        with pytest.raises(SpecError, match="expected a number of at least 1, or auto"):
            diffeat.set_threads(wrong)

    def test_nonsense_in_the_environment(self, monkeypatch):
        monkeypatch.setenv(threads.VARIABLE, "all")
        with pytest.raises(SpecError, match="DIFFEAT_THREADS 'all'; expected"):
            diffeat.set_threads()


class TestSmallWork:
    CPU = torch.device("cpu")

    def test_one_thread_below_the_bound_and_all_above(self, four):
        with sized(SMALL - 1, self.CPU):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 4
        with sized(SMALL, self.CPU):
            assert torch.get_num_threads() == 4

    def test_put_back_after_an_error(self, four):
        with pytest.raises(ZeroDivisionError), sized(1, self.CPU):
            raise ZeroDivisionError
        assert torch.get_num_threads() == 4

    def test_what_runs_elsewhere_and_what_was_asked_for(self, four, monkeypatch):
        with sized(1, torch.device("meta")):
            assert torch.get_num_threads() == 4
        monkeypatch.setenv(threads.VARIABLE, "4")
        with sized(1, self.CPU):
            assert torch.get_num_threads() == 4
        monkeypatch.setenv(threads.VARIABLE, "auto")
        with sized(1, self.CPU):
            assert torch.get_num_threads() == 1

    def test_a_small_probe_has_one(self, four, monkeypatch):
        from probes import ManyLogistic
        from probes.newton import LogisticPath

        seen = []
        move = LogisticPath._move
        monkeypatch.setattr(
            LogisticPath, "_move",
            lambda self, *given: (seen.append(torch.get_num_threads()), move(self, *given)),
        )  # fmt: skip
        x = torch.randn(1, 60, 8, generator=torch.Generator().manual_seed(0))
        y = [0, 1, 2] * 20
        ManyLogistic((1.0,)).fit(x, y, x, y)
        assert set(seen) == {1}
        assert torch.get_num_threads() == 4


VERBS = {
    "extract": ("diffeat.cli", ("m", "p", "-o", "f.h5")),
    "search": ("diffeat.cli", ("f.h5",)),
    "probe": ("diffeat.cli", ("f.h5",)),
    "align": ("diffeat.cli", ("f.h5",)),
    "channels": ("diffeat.cli", ("m", "p", "-t", "1", "-b", "mid")),
    "run": ("benchmarks.__main__", ("digits",)),
}


class TestOption:
    @pytest.mark.parametrize("verb", VERBS)
    def test_of_every_verb_that_computes(self, verb, monkeypatch):
        module, arguments = VERBS[verb]
        asked = []

        class Enough(Exception):
            pass

        def noted(*given):
            asked.append((given, os.environ[threads.VARIABLE]))
            raise Enough  # before anything is computed

        monkeypatch.setenv(threads.VARIABLE, "auto")  # put back afterwards
        monkeypatch.setattr(threads, "set_threads", noted)
        cli = sys.modules.get(module) or __import__(module, fromlist=["cli"])
        shown = CliRunner().invoke(cli.cli, [verb, *arguments, "--threads", "3"])
        assert isinstance(shown.exception, Enough), shown.output
        assert asked == [((), "3")]

    @pytest.mark.parametrize("wrong", ["0", "two", "-4"])
    def test_nonsense(self, wrong):
        from diffeat.cli import cli

        shown = CliRunner().invoke(cli, ["probe", "f.h5", "--threads", wrong])
        assert shown.exit_code == 2
        assert f"threads '{wrong}'; expected a number of at least 1, or auto" in shown.output
