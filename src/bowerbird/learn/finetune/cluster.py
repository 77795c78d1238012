"""Several processes on a Ray cluster learn together (the only module of learning that imports ray).

Each worker opens the model by itself and gets its share of every batch; vectors are gathered, so that negatives come
from all of them, and the losses are those of one process (see `bowerbird.learn.processes`). The first worker writes
checkpoints, into a folder that all machines see.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.errors import BowerbirdError, LearnError, MissingExtraError
from bowerbird.learn.finetune.training import Job, Learned, learn, ready
from bowerbird.learn.loop import Epoch, History
from bowerbird.origin.packages import TRAIN, need, quiet

if TYPE_CHECKING:
    from bowerbird.flow.cluster import Ray

_STATE = "learned.pt"
_ERROR = "error.pkl"


def learn_on(ray: Ray, job: Job, *, folder: Path | None = None, resume: bool = False) -> Learned:
    """Let the workers of a cluster learn.

    Args:
        ray: the cluster, with the number of workers and what each of them has.
        job: what is to be learned.
        folder: for checkpoints; every machine has to see it. None: there are none.
        resume: go on from the last checkpoint there.

    Raises:
        LearnError: as of `bowerbird.learn.loop.train`, or a worker died.
        MissingExtraError: Ray, or what its training needs, is not installed.
    """
    ray.connect()
    try:
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
    except ImportError as error:
        raise MissingExtraError("ray[train]", "ray") from error
    torch = need("torch", TRAIN)
    with tempfile.TemporaryDirectory(prefix="bowerbird-") as given:
        shared = folder or Path(given)
        resources = {"CPU": ray.cpus_per_worker}
        if ray.gpus_per_worker:
            resources["GPU"] = ray.gpus_per_worker
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "job": job,
                "folder": None if folder is None else str(folder.resolve()),
                "out": str(shared.resolve()),
                "resume": resume,
                "threads": ray.threads,
            },
            scaling_config=ScalingConfig(
                num_workers=max(1, ray.workers),
                use_gpu=bool(ray.gpus_per_worker),
                resources_per_worker=resources,
            ),
            run_config=RunConfig(storage_path=given),
        )
        try:
            with quiet():
                trainer.fit()
        except Exception as error:
            raise _failed(error, shared) from error
        state = torch.load(shared / _STATE, map_location="cpu", weights_only=True)
        (shared / _STATE).unlink()
    said = state["history"]
    epochs = [Epoch(**one) for one in said["epochs"]]
    return Learned(History(epochs, said["steps"], said["best"], said["stopped"]), state["weights"])


def _work(config: dict[str, Any]) -> None:
    """What each worker does."""
    import torch

    torch.set_num_threads(config["threads"])
    job: Job = config["job"]
    out = Path(config["out"])
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    try:
        made = ready(job)
        folder = config["folder"] and Path(config["folder"])
        history = learn(job, made, folder=folder, resume=config["resume"]).history
    except BowerbirdError as error:
        _tell(error, out)
        raise
    if rank == 0:
        weights = {
            name: {key: value.detach().cpu() for key, value in module.state_dict().items()}
            for name, module in (("network", made.tuning.network), ("loss", made.loss))
        }
        torch.save({"weights": weights, "history": asdict(history)}, out / _STATE)


def _tell(error: BowerbirdError, out: Path) -> None:
    """Leave an error of ours where the one who started this finds it: Ray wraps it in its own."""
    (out / _ERROR).write_text(f"{error.message}\n\0\n{error.hint}", "utf-8")


def _failed(error: Exception, out: Path) -> LearnError:
    if (out / _ERROR).is_file():
        message, _, hint = (out / _ERROR).read_text("utf-8").partition("\n\0\n")
        (out / _ERROR).unlink()
        return LearnError(message, hint=hint)
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return LearnError(f"Learning on the cluster failed: {reason[:300]}", hint="See the logs of Ray.")
