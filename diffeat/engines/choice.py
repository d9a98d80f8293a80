"""Which engine does a job."""

from __future__ import annotations

from diffeat.backbones import Backbone
from diffeat.engines.base import JobResult
from diffeat.errors import SpecError
from diffeat.work import Job

ENGINES = ("auto", "local", "torchrun", "ray")


def run_job(
    job: Job,
    backbone: Backbone | None = None,
    engine: str = "auto",
    processes: int | None = None,
    address: str | None = None,
) -> JobResult | None:
    """Do a job where the user wants it done.

    Args:
        job: what to do.
        backbone: its model, where it is loaded already; used by the engine of one process.
        engine: "local" (this machine), "torchrun" (this process is one of its ranks), "ray",
            or "auto": torchrun's where torchrun started us, else local.
        processes: copies of the model. Local: 1 runs in this process. Ray: by default one per
            accelerator of the cluster, or one per node where there is none.
        address: of the Ray cluster; None starts one on this machine.

    Returns:
        The result; None in the ranks of torchrun but the first.

    Raises:
        SpecError: options that do not belong to the engine.
    """
    from diffeat.engines import ranks

    if engine not in ENGINES:
        raise SpecError(f"engine {engine!r}; expected one of {', '.join(ENGINES)}")
    if processes is not None and processes < 1:
        raise SpecError(f"processes={processes}; expected at least 1")
    if engine == "auto":
        engine = "torchrun" if ranks.is_rank() else "local"
    if address is not None and engine != "ray":
        raise SpecError("an address is for engine ray; leave it out, or choose that engine")
    if engine == "ray":
        from diffeat.engines.on_ray import run_ray

        return run_ray(job, processes, address)
    if engine == "torchrun":
        if not ranks.is_rank(least=1):
            raise SpecError(
                "engine torchrun, but no torchrun started this process; run `torchrun "
                "--nproc-per-node 2 -m diffeat extract …`"
            )
        if processes is not None:
            raise SpecError("the number of ranks is torchrun's; leave processes out")
        return ranks.run_ranks(job)
    if processes is not None and processes > 1:
        from diffeat.engines.processes import run_processes

        return run_processes(job, processes)
    from diffeat.engines.local import run_local

    return run_local(job, backbone)
