"""Training on several processes, which communicate through gloo."""

import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
from contextlib import redirect_stdout
from io import StringIO

import pytest
import timm
import torch
from tiny_segmenter import MARKS, SEGMENTER
from torch.testing import assert_close
from torch.utils.data import DataLoader

from attnzoo.tools.data import ValBatches, open_classification
from attnzoo.tools.files import StorageError
from attnzoo.tools.metrics import ClassificationJudge
from attnzoo.tools.segmentation.files import open_segmenter
from attnzoo.tools.train import train
from attnzoo.tools.training import checkpoints, learners, optimization
from attnzoo.tools.training.config import load_config
from attnzoo.tools.training.processes import processes
from tests.tiers import quick

# neither batch norm nor drop path: the output of an image does not depend on the other images of its process
VIT = ("classification/digits", "model.name=test_vit", "model.img_size=32", "epochs=2", "log_interval=1", "augment=[]")
# with batch norm, drop path and an average of the weights
RESNET = ("classification/digits", "model.name=test_resnet", "model.drop_path_rate=0.2", "ema.decay=0.9", "epochs=2")


def config(name, *overrides):
    return load_config(name, overrides)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def on_processes(count, function, seconds=60):
    """Call a function on forked processes, without torchrun; returns what each returned or raised."""
    port, fork = free_port(), multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()

    def child(rank):
        # torch creates its threads again in a forked process, and aborts if two threads do so at once
        torch.set_num_threads(1)
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        said = StringIO()
        try:
            with redirect_stdout(said):
                answer = function()
        except BaseException as error:
            traceback.print_exc()
            answer = f"{type(error).__name__}: {error}"
        answers.put((rank, answer, said.getvalue()))

    started = [fork.Process(target=child, args=(rank,)) for rank in range(count)]
    for process in started:
        process.start()
    deadline = time.monotonic() + seconds
    for process in started:
        process.join(max(0.0, deadline - time.monotonic()))
    hanging = [process for process in started if process.is_alive()]
    for process in hanging:
        process.kill()
    assert not hanging, f"{len(hanging)} of {count} processes still run after {seconds} s"
    # a crashed process has put no result into the queue
    assert [process.exitcode for process in started] == [0] * count
    found = sorted(answers.get() for _ in started)
    assert all(said == "" for rank, _, said in found if rank), "only rank 0 speaks"
    return [answer for _, answer, _ in found]


def train_on(count, overrides, work_dir, resume=False):
    def go():
        return str(train(config(*overrides), work_dir, resume))

    return on_processes(count, go) if count > 1 else [go()]


def name_of(run):
    """The name of a run in those of the tests: its task, and what it sets beside that."""
    return " ".join((run[0].split("/")[0], *(x for x in run[1:] if x not in (*VIT, *SEGMENTER))))


def checkpoint(work_dir):
    return torch.load(work_dir / "last.pth", weights_only=True)


def losses(work_dir):
    return torch.tensor([loss for _, loss, _ in checkpoint(work_dir)["record"]["steps"]])


def is_same(one, other):
    """Compare bit by bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(is_same, one, other))
    return one == other


@pytest.fixture(autouse=True)
def _few_digits(few_digits):
    """Use few digits in all tests of this file."""


def signals_after(monkeypatch, step, on_rank):
    """Send SIGTERM to one process after a step."""
    usual = checkpoints.Checkpoints.after_train_iter

    def after_train_iter(self, runner, batch_idx, **rest):
        usual(self, runner, batch_idx, **rest)
        loop = runner.train_loop
        if loop.step == step and loop.processes.rank == on_rank:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(checkpoints.Checkpoints, "after_train_iter", after_train_iter)


@pytest.mark.forks
@pytest.mark.parametrize(
    "run",
    [
        VIT,
        pytest.param((*VIT, "accumulate=2"), marks=pytest.mark.full),
        pytest.param((*VIT, "parallel=fsdp", "clip_grad=0.5"), marks=pytest.mark.full),
        pytest.param(
            (*VIT, "parallel=fsdp", "accumulate=2", "precision=bfloat16", "clip_grad=0.5"), marks=pytest.mark.full
        ),
        pytest.param((*VIT, "parallel=fsdp", "freeze=backbone"), marks=pytest.mark.slow),
        pytest.param((*VIT, "parallel=fsdp", "grad_checkpointing=True"), marks=pytest.mark.slow),
        pytest.param(SEGMENTER, marks=MARKS),
        pytest.param((*SEGMENTER, "parallel=fsdp"), marks=(*MARKS, pytest.mark.slow)),
    ],
    ids=name_of,
)
def test_two_processes_have_the_loss_curve_of_one(run, runs):
    train_on(1, (*run, "epochs=1"), runs / "one")
    train_on(2, (*run, "epochs=1"), runs / "two")
    one, two = losses(runs / "one"), losses(runs / "two")
    # the order of summation differs, and the optimizer amplifies that; bfloat16 rounds to 8 bits
    tolerance = 2e-2 if "precision=bfloat16" in run else 2e-5
    assert len(one) == 11
    # the curve shows the loss of the last accumulated batch, which has other images
    if "accumulate=2" not in run:
        assert_close(two, one, rtol=tolerance, atol=tolerance)
    epochs = [checkpoint(runs / name)["record"]["epochs"] for name in ("one", "two")]
    for first, second in zip(*epochs, strict=True):
        assert second["loss"] == pytest.approx(first["loss"], rel=tolerance)
        if tolerance < 1e-3:
            assert second["accuracy"] == first["accuracy"]
            assert second.get("mIoU") == first.get("mIoU")
    # full tensors, and a model that opens
    assert_close(
        checkpoint(runs / "two")["state_dict"], checkpoint(runs / "one")["state_dict"], rtol=0, atol=100 * tolerance
    )
    stored = runs / "two" / "model"
    is_segmenter = run[0].startswith("segmentation")
    model = open_segmenter(stored)[0] if is_segmenter else timm.create_model(f"local-dir:{stored}", pretrained=True)
    assert_close(dict(model.state_dict()), checkpoint(runs / "two")["state_dict"], rtol=0, atol=0)


@pytest.mark.forks
@pytest.mark.full
@pytest.mark.parametrize(
    "overrides",
    [RESNET, (*VIT, "parallel=fsdp"), pytest.param((*SEGMENTER, "ema.decay=0.9"), marks=MARKS)],
    ids=["ddp", "fsdp", "segmentation"],
)
def test_a_signal_to_any_process_stops_all_and_the_run_continues_bit_by_bit(overrides, runs, monkeypatch):
    train_on(2, overrides, runs / "whole")
    with monkeypatch.context() as patch:
        signals_after(patch, 5, on_rank=1)
        first, second = train_on(2, overrides, runs / "stopped")
    assert first.startswith("InterruptedTraining: stopped by SIGTERM after step 5 of 22; the run is stored")
    assert second == "LeftToRankZero: 1"
    assert checkpoint(runs / "stopped")["step"] == 5
    train_on(2, overrides, runs / "stopped", resume=True)
    stopped, whole = checkpoint(runs / "stopped"), checkpoint(runs / "whole")
    assert [key for key in whole if not is_same(stopped[key], whole[key])] == []


@pytest.mark.forks
@pytest.mark.full
@pytest.mark.parametrize("before", ["parallel=fsdp", "parallel=ddp"])
def test_a_run_continues_on_another_number_of_processes(before, runs, monkeypatch, capfd):
    train_on(1, VIT, runs / "one")
    with monkeypatch.context() as patch:
        signals_after(patch, 5, on_rank=0)
        train_on(2, (*VIT, before), runs / "changed")
    capfd.readouterr()
    train_on(1, (*VIT, "parallel=ddp"), runs / "changed", resume=True)
    assert "1, previously 2: the steps have the same images" in capfd.readouterr().out
    assert_close(losses(runs / "changed"), losses(runs / "one"), rtol=2e-5, atol=2e-5)


@pytest.mark.forks
@pytest.mark.parametrize("images", quick([1, 7, 8], [7]))
def test_metrics_of_a_shared_validation_are_those_of_one_process(images):
    data = {"name": "digits", "input_size": (1, 32, 32), "mean": (0.5,), "std": (0.5,)}
    samples = open_classification(data, "val")
    model = timm.create_model("test_vit", in_chans=1, img_size=32, num_classes=10)

    def judge():
        with processes() as together:
            batches = ValBatches(images, 2, rank=together.rank, processes=together.count)
            loader = DataLoader(samples, batch_sampler=batches, collate_fn=samples.collate)
            return ClassificationJudge(10, together.device)(model, loader, lambda unreadable: None)

    alone = judge()
    for shared in on_processes(3, judge):
        assert shared.pop("loss") == pytest.approx(alone["loss"], rel=1e-6)
        assert shared == {name: value for name, value in alone.items() if name != "loss"}


def fails_with(monkeypatch, what):
    """Make one process fail at the third step."""
    rank_of = lambda: int(os.environ["RANK"])  # noqa: E731

    def is_loss_not_finite(self, loss, *rest, **more):
        self.asked = getattr(self, "asked", 0) + 1
        if rank_of() == 1 and self.asked == 3:
            loss = loss * torch.nan
        return usual_update(self, loss, *rest, **more)

    usual_update = optimization.Optimization.update_params
    if what == "loss":
        monkeypatch.setattr(optimization.Optimization, "update_params", is_loss_not_finite)

    def is_disk_full(state, path):
        raise StorageError(f"the run could not be saved in {path.parent}: no space left")

    if what == "disk":
        monkeypatch.setattr(checkpoints, "save_checkpoint", is_disk_full)

    usual_forward = learners.Classifier.forward

    def has_defect(self, *rest, **more):
        if rank_of() == 1:
            raise ZeroDivisionError("a defect")
        return usual_forward(self, *rest, **more)

    if what == "defect":
        monkeypatch.setattr(learners.Classifier, "forward", has_defect)


@pytest.mark.forks
@pytest.mark.full
@pytest.mark.parametrize(
    ("what", "first", "second"),
    [
        ("loss", r"TrainingError: step 3 \(epoch 1\): the loss is nan. Images .*: digit \d+.*\(process 1 on ", "Left"),
        ("disk", r"StorageError: the run could not be saved in .*: no space left$", "Left"),
        ("defect", r"RuntimeError: .*", "ZeroDivisionError: a defect"),
    ],
    ids=["a loss that is not finite", "a full disk", "a defect"],
)
def test_what_goes_wrong_on_one_process_ends_all(what, first, second, runs, monkeypatch):
    fails_with(monkeypatch, what)
    answers = train_on(2, VIT, runs)
    assert re.match(first, answers[0], re.DOTALL), answers
    assert answers[1].startswith(second)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("ema.decay=0.9",), "cannot be combined with ema"),
        (("compile=True",), "cannot be combined with compile"),
        (("channels_last=True",), "cannot be combined with channels_last"),
        (("precision=float16",), 'use "bfloat16"'),
        (("clip_grad=0.1", "clip_mode=agc"), 'use "norm" or "value"'),
        (("optimizer.opt=lamb",), "optimizer.opt to be one of sgd, momentum, adam, adamw, got 'lamb'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_sharding_cannot_do_is_refused(overrides, message, runs):
    with pytest.raises(ValueError, match=re.escape(message)):
        train(config(*VIT, "parallel=fsdp", *overrides), runs)


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    return subprocess.Popen(
        [*command, "-m", "attnzoo.tools.train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def children_of(process):
    """Return the process ids of the ranks that a torchrun started."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True)
    return [int(line) for line in found.stdout.split()]


def wait_for(path, seconds=90.0):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path.name} after {seconds} s"
        time.sleep(0.1)


@pytest.mark.slow
def test_torchrun_tells_a_mistake_once(runs):
    started = torchrun("classification/digits", "model.name=nat_pica", "--work-dir", str(runs))
    _, said = started.communicate(timeout=120)
    assert started.returncode == 1
    assert said.count("model.name must be a model known to timm, got 'nat_pica'") == 1, said
    assert not runs.exists()


@pytest.mark.full
def test_a_killed_process_ends_the_job_and_a_signal_to_torchrun_stores_it(runs):
    arguments = (*VIT[:3], "epochs=1000", "save_interval=1", "val_interval=1000", "--work-dir", str(runs))
    started = torchrun(*arguments)
    wait_for(runs / "last.pth")
    os.kill(children_of(started)[-1], signal.SIGKILL)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 1
    assert "Signal 9 (SIGKILL)" in said
    first = checkpoint(runs)["step"]

    started = torchrun(*arguments, "--resume")
    stored = (runs / "last.pth").stat().st_mtime_ns
    while (runs / "last.pth").stat().st_mtime_ns == stored:
        assert started.poll() is None, started.communicate()
        time.sleep(0.1)
    started.send_signal(signal.SIGTERM)
    _, said = started.communicate(timeout=60)
    assert said.count("the run is stored, continue it with --resume") == 1, said
    assert checkpoint(runs)["step"] > first
