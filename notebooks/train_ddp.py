"""Train one network on several devices, or machines, at once.

Each process learns from its share of every batch, and the gradients are averaged over all of them before each step. So
all hold the same weights all the time, and they are those that a single process would have reached.

One process; two on this machine, one for each GPU, say; one on each of two machines (the same line on both):

    python train_ddp.py --epochs 2
    torchrun --standalone --nproc-per-node=2 train_ddp.py --epochs 2
    torchrun --nnodes=2 --nproc-per-node=1 --rdzv-backend=c10d --rdzv-endpoint=HOST:29400 train_ddp.py --epochs 2

several_devices.ipynb starts it from a notebook. Where there is not a GPU for each process, all share the CPUs, which is
no faster, but shows how it works. https://pytorch.org/docs/stable/elastic/run.html
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.nn  # before there is a group, which it would keep to the end, with its threads
from lesson import images, machine
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, join the other processes, train, and let the first one test and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="auto", help="auto, cifar10, folder or drawn, as in the lesson")
    parser.add_argument("--data-folder", default="", help="your own images: train/<class>/* and test/<class>/*")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128, help="images in a batch, over all processes together")
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--train-images", type=int, default=0, help="how many training images to use; 0 takes all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpu", action="store_true", help="compute on the CPU, whatever GPUs there are")
    parser.add_argument("--output-folder", type=Path, default=Path("ddp"), help="for weights.pt and metrics.json")
    given = parser.parse_args(arguments)
    # torchrun tells each process which one it is; without torchrun there is only one.
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if given.batch_size % world:
        parser.error(f"a batch of {given.batch_size} cannot be shared evenly by {world} processes")
    if world > 1:
        dist.init_process_group("gloo")
    try:
        device, group = choose_device(world, cpu=given.cpu)
        _train(given, rank, world, device, group)
    finally:
        if world > 1:
            dist.destroy_process_group()


def choose_device(world: int, *, cpu: bool) -> tuple[torch.device, dist.ProcessGroup | None]:
    """Where this process computes, and the group by which all average their gradients.

    A GPU each, and NCCL; or all on the CPU, by gloo, as soon as one process of any machine has no GPU to itself.
    """
    mine, of_this_machine = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, machine.threads(os.cpu_count() or 1) // of_this_machine))
    gpus = torch.cuda.device_count() if not cpu and machine.gpu_works() else 0
    a_gpu_each = torch.tensor(int(gpus >= of_this_machine))
    if world > 1:
        dist.all_reduce(a_gpu_each, dist.ReduceOp.MIN)
    device = torch.device("cuda", mine) if a_gpu_each else torch.device("cpu")
    if a_gpu_each:
        torch.cuda.set_device(device)
    if mine == 0:
        how = "a GPU each, by NCCL" if a_gpu_each else f"all on the CPU, by gloo (GPUs to be used here: {gpus})"
        print(f"{world} processes, {how}" if world > 1 else f"1 process, on {device.type}", flush=True)
    return device, dist.new_group(backend="nccl") if a_gpu_each and world > 1 else None


def _train(
    given: argparse.Namespace, rank: int, world: int, device: torch.device, group: dist.ProcessGroup | None
) -> None:
    data = images.load(given.dataset, given.data_folder)
    torch.manual_seed(given.seed)
    net = network(len(data.classes)).to(device)
    together = DistributedDataParallel(net, process_group=group) if world > 1 else net
    chosen = np.random.default_rng(given.seed).permutation(len(data.train_images))[: given.train_images or None]
    inputs, labels = (torch.from_numpy(part[chosen]).to(device) for part in (data.train_images, data.train_labels))
    sampler = DistributedSampler(inputs, world, rank, shuffle=True, seed=given.seed, drop_last=True)
    share = given.batch_size // world
    if len(sampler) < share:
        raise SystemExit(
            f"{len(inputs)} training images do not fill one batch of {given.batch_size}: lower --batch-size"
        )
    optimizer = torch.optim.SGD(net.parameters(), lr=given.learning_rate, momentum=0.9)
    started = machine.clock(device.type)
    for epoch in range(given.epochs):
        sampler.set_epoch(epoch)  # another order in each epoch, the same one for all processes
        for batch in torch.tensor(list(sampler)).to(device).split(share):
            if len(batch) < share:
                break
            loss = nn.functional.cross_entropy(together(prepare(inputs[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()  # this is where the processes average their gradients
            optimizer.step()
        if rank == 0:
            print(f"epoch {epoch + 1}/{given.epochs}: loss {loss.item():.3f}", flush=True)
    seconds = machine.clock(device.type) - started
    if rank == 0:
        accuracy = test(net, torch.tensor(data.test_images), torch.tensor(data.test_labels), device)
        substitute = " on drawn shapes" if data.source == "drawn" else ""
        print(f"Accuracy{substitute}: {accuracy:.0%}, after {seconds:.1f} s with {world} process(es) on {device.type}")
        given.output_folder.mkdir(parents=True, exist_ok=True)
        torch.save(net.state_dict(), given.output_folder / "weights.pt")
        metrics = {"accuracy": accuracy, "train_seconds": round(seconds, 2), "processes": world, "device": device.type}
        seen = given.epochs * (len(sampler) // share) * given.batch_size
        metrics["images_per_second"] = round(seen / seconds, 1)
        metrics |= {"seed": given.seed, "dataset": data.source, "dataset_digest": data.digest, "notice": data.notice}
        (given.output_folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")


def network(classes: int) -> nn.Module:
    """A small network without batch norm, whose averages would be those of a process's share, not of the batch."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 24, 3, stride=2, padding=1), nn.GELU()),
        nn.Sequential(nn.Conv2d(24, 48, 3, padding=1), nn.GELU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(48, 96, 3, padding=1), nn.GELU(), nn.AdaptiveMaxPool2d(1), nn.Flatten()),
        nn.Linear(96, classes),
    )


def prepare(batch: torch.Tensor) -> torch.Tensor:
    """From bytes (N, 32, 32, 3) to numbers around zero (N, 3, 32, 32)."""
    return batch.permute(0, 3, 1, 2) / 64.0 - 2.0


@torch.inference_mode()
def test(net: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, device: torch.device) -> float:
    """The share of `inputs` (N, 32, 32, 3) that is recognised, 0 to 1."""
    guesses = [net(prepare(part.to(device))).argmax(1).cpu() for part in inputs.split(1000)]
    return (torch.cat(guesses) == labels).double().mean().item()


if __name__ == "__main__":
    main()
