"""Kills trainings at random times and reports whether each continued to the weights of an uninterrupted one.

Usage: kill_points.py DIRECTORY COUNT SEED. Every training is a fork of this process, so that no time is spent on
imports. Every third one is killed while it stores a checkpoint, between two of its system calls.
"""

import itertools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

torch.set_num_threads(1)

from attnzoo.tools import data  # noqa: E402
from attnzoo.tools.train import train  # noqa: E402
from attnzoo.tools.training.config import load_config  # noqa: E402
from attnzoo.tools.training.session import run  # noqa: E402, F401  not in every fork

OPTIONS = (
    "model.name=test_resnet",
    "model.drop_rate=0.1",
    "epochs=3",
    "batch_size=60",
    "save_interval=2",
    "ema.decay=0.9",
    "mixup.mixup_alpha=0.2",
)


def few(split):
    """A quarter of the digits."""
    images = data.digits(split)
    images.pixels, images.labels = images.pixels[::4], images.labels[::4]
    return images


data.DATASETS["digits"] = few


def forked(work_dir, before=lambda: None):
    """Fork a process that starts or resumes a training."""
    process = os.fork()
    if process:
        return process
    try:
        # torch creates its threads again in a forked process, and aborts if two threads do so at once
        torch.set_num_threads(1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        before()
        train(load_config("classification/digits", OPTIONS), work_dir, resume=True)
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)


def finish(work_dir):
    assert os.waitpid(forked(work_dir), 0)[1] == 0, "the training failed"
    return (
        torch.load(work_dir / "last.pth", weights_only=True),
        (work_dir / "model" / "model.safetensors").read_bytes(),
    )


def kill_at(work_dir, seconds):
    process = forked(work_dir)
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    return os.waitpid(process, 0)[1] == signal.SIGKILL


def kill_in_save(work_dir, count, call):
    """Kill a training just before the `count`-th call of a function of `os` that storing uses."""
    reader, writer = os.pipe()
    original = getattr(os, call)

    def stop_in_front():
        calls = itertools.count(1)

        def announced(*arguments, **options):
            if next(calls) == count:
                os.write(writer, b"x")
                time.sleep(60)
            return original(*arguments, **options)

        setattr(os, call, announced)

    process = forked(work_dir, stop_in_front)
    os.close(writer)
    # returns without a byte if there are fewer calls
    os.read(reader, 1)
    os.close(reader)
    os.kill(process, signal.SIGKILL)
    return os.waitpid(process, 0)[1] == signal.SIGKILL


def main(directory, count, seed):
    rng, report = random.Random(seed), []
    started = time.perf_counter()
    expected = finish(directory / "whole")
    seconds = time.perf_counter() - started
    for number in range(count):
        work_dir = directory / str(number)
        if number % 3 == 2:
            call, when = rng.choice(["fsync", "replace", "rename", "unlink"]), rng.randint(1, 6)
            killed, point = kill_in_save(work_dir, when, call), f"in front of {call} {when}"
        else:
            moment = rng.uniform(0, seconds)
            killed, point = kill_at(work_dir, moment), f"after {moment:.2f} s of {seconds:.2f} s"
        last = work_dir / "last.pth"
        step = torch.load(last, weights_only=True)["step"] if last.exists() else 0
        state, model = finish(work_dir)
        same = all(torch.equal(state["state_dict"][name], x) for name, x in expected[0]["state_dict"].items())
        same &= all(torch.equal(state["state_dict_ema"][name], x) for name, x in expected[0]["state_dict_ema"].items())
        same &= model == expected[1] and state["record"] == expected[0]["record"]
        left = sorted(path.name for path in work_dir.iterdir() if path.name.endswith((".new", ".old")))
        report.append({"point": point, "killed": killed, "step": step, "same": same, "left": left})
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
