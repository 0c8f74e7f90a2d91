"""Prefect's process worker, which carries out our runs and no others.

Prefect lets whoever creates a run, a deployment or a pool say what its worker executes, where, and with which
variables. Here a run has the command, the folder and the environment of its worker, and a flow of ours; one that asks
for anything else is refused before anything is imported for it, and people are told. The engine reads the deployment
once more after that: who may change deployments at that very moment is kept out by Prefect's password alone.
"""

import ctypes
import gc
import os
import re
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect.workers.process import ProcessJobConfiguration, ProcessWorker

from deployments.system import SYSTEM, refuse_another, system_of
from deployments.warm.run import note_taken
from tasks.core.errors import TradingError
from tasks.settings import load

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.responses import DeploymentResponse

COMMAND = "python -m deployments.warm.run"
# a flow of ours bears its module's name, or is one of those that a person asks for
ASKED_FOR = r"by_hand\.(?:close|move_stop|pause|halt|resume|promote)|export\.train"
FLOW = re.compile(rf"flows\.(?:(\w+)\.\1|{ASKED_FOR})")


class RunRefused(TradingError):
    """A run asked for what its worker does not do: it ends as crashed, nothing was started."""


class Confined(ProcessJobConfiguration):
    """What is started for a run: always the same."""

    def prepare_for_flow_run(
        self, flow_run: "FlowRun", deployment: "DeploymentResponse | None" = None, *rest: Any, **more: Any
    ) -> None:
        if wrong := unlike_its_worker(self, deployment):
            from tasks.alerts import tell_refused

            text = f"run {flow_run.name} was refused: {'; '.join(wrong)}"[:300]
            tell_refused(deployment.name if deployment else "no deployment", text)
            raise RunRefused(text)
        note_taken(str(flow_run.id))
        self.command, self.env, self.working_dir = COMMAND, {}, Path.cwd()
        super().prepare_for_flow_run(flow_run, deployment, *rest, **more)


with warnings.catch_warnings(action="ignore", category=UserWarning):  # it takes the place of Prefect's on purpose

    class ConfinedWorker(ProcessWorker):
        """A worker of the pool's own type."""

        type = "process"
        job_configuration = Confined

        async def sync_with_backend(self) -> None:
            """Learn of the pool twice a minute, and end where it is another system's."""
            await super().sync_with_backend()
            give_back()
            if self._work_pool is not None:
                stay(self._work_pool.description)


def give_back() -> None:
    """Give the machine the 0.4 MB back that each run leaves: in cycles, which Python looks for once in hundreds of
    runs, and between blocks in use, which glibc keeps.
    """
    gc.collect()
    with suppress(AttributeError):  # another library keeps none
        ctypes.CDLL(None).malloc_trim(0)


def stay(description: str | None) -> None:
    """End the process where a pool is another system's, before it takes a run of it.

    At once, as Prefect's command makes a success of any exception on the way.
    """
    try:
        refuse_another(description, os.environ.get(SYSTEM) or system_of(load()))
    except TradingError as e:
        print(e, file=sys.stderr, flush=True)
        os._exit(2)


def unlike_its_worker(job: ProcessJobConfiguration, deployment: "DeploymentResponse | None") -> list[str]:
    """Return what a run asks for that its worker does not do, without a value of it: that may be a secret."""
    other = sorted(name for name, value in job.env.items() if os.environ.get(name) != value)
    wrong = [f"its {name} is not that of its worker" for name in other]
    if job.command not in (None, COMMAND):
        wrong.append("its command is not ours")
    if deployment is None or not FLOW.fullmatch(deployment.entrypoint or ""):
        wrong.append("its flow is not ours")
    if deployment is not None and deployment.pull_steps:
        wrong.append("it has steps to carry out before it")
    return wrong
