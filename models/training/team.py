"""One training by several processes of a machine, one for each GPU, that share every batch.

The process that asks for the training is no member: it starts the members, hands on what the first one reports, and
ends all of them when one fails. The first member trains as a lone process would, and it alone measures, steps, writes
and reports. The others do what it tells them: take its weights, draw their share of a batch, give their gradient back.
So a batch is as large as one process's, optimiser and state are kept once, and weights cannot drift apart.

A loss may depend on the whole batch: Dice adds up over it, the contrastive term compares its crops. So every member
computes the loss on the answers of all of them, of which its own alone carry a gradient. The sum of the members'
gradients is then that of the whole batch, whatever the loss is.

Members talk by torch.distributed: gloo between CPUs, NCCL between GPUs.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from models.errors import ModelError
from models.training.schedule import Progress, Report

Result = TypeVar("Result")
Told = TypeVar("Told")

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
# The first member measures for as long as it takes, and a paused team goes on: who died is seen by who started it.
PATIENCE = timedelta(days=365)
POLL = 0.5  # seconds between two looks at who lives
GRACE = 1.0  # seconds in which the cause is looked for when a member fails: others see only that it is gone
PR_SET_PDEATHSIG = 1
CPU = torch.device("cpu")


class LostMember(ModelError):
    """A member cannot reach another one: seldom the cause, mostly its consequence."""


class Team:
    """The members of one training, as one of them sees them.

    Args:
        rank: of this member, from 0.
        devices: of all members, as torch names them.
    """

    def __init__(self, rank: int, devices: Sequence[str]) -> None:
        self.rank, self.size, self.device = rank, len(devices), torch.device(devices[rank])

    def share(self, count: int) -> slice:
        """This member's part of `count` rows, as even as can be."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def tell(self, value: Told) -> Told:
        """The first member's value, for all of them."""
        if self.size == 1:
            return value
        box = [value]
        with _reaching():
            dist.broadcast_object_list(box, src=0, device=CPU)
        return box[0]

    def follow(self) -> None:
        """Do what the first member tells, until it tells nothing more."""
        work: Callable[[Team], None] | None = None
        while (work := self.tell(work)) is not None:
            work(self)
            work = None

    def next_step(self, network: nn.Module, go_on: bool) -> bool:
        """Whether another step follows: the first member's `go_on`. If so, all networks get its weights."""
        if self.size == 1:
            return go_on
        said = torch.tensor([go_on])
        parameters = _trained(network)
        with _reaching():
            dist.broadcast(said, src=0)
            if said.item():
                weights = torch.cat([parameter.detach().flatten() for parameter in parameters])
                dist.broadcast(weights, src=0)
                if self.rank:
                    for parameter, value in zip(parameters, _parts(weights, parameters), strict=True):
                        parameter.data.copy_(value)
        return bool(said.item())

    def whole(self, rows: Tensor) -> Tensor:
        """The rows of all members, in their order; only this one's carry a gradient.

        Args:
            rows: shape (n, ...), n may differ between members and be 0.
        """
        if self.size == 1:
            return rows
        if rows.dtype is torch.bool:
            return self.whole(rows.to(torch.uint8)).bool()
        counts = [torch.zeros(1, dtype=torch.long) for _ in range(self.size)]
        with _reaching():
            dist.all_gather(counts, torch.tensor([len(rows)]))
            sizes = [int(count) for count in counts]
            if not any(sizes):
                return rows
            sent = rows.new_zeros((max(sizes), *rows.shape[1:]))  # all send as many
            sent[: len(rows)] = rows.detach()
            parts = [torch.empty_like(sent) for _ in range(self.size)]
            dist.all_gather(parts, sent)
        return torch.cat(
            [
                rows if rank == self.rank else part[:size]
                for rank, (part, size) in enumerate(zip(parts, sizes, strict=True))
            ]
        )

    def sum_gradients(self, network: nn.Module) -> None:
        """Add up the members' gradients of a network, at the first one; where no member has one, none is made."""
        if self.size == 1:
            return
        parameters = _trained(network)
        given = torch.tensor([float(parameter.grad is not None) for parameter in parameters], device=self.device)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        sums = torch.cat([given, *(gradient.flatten() for gradient in gradients)])
        with _reaching():
            dist.reduce(sums, dst=0)
        if self.rank:
            return
        members = sums[: len(parameters)].tolist()
        for parameter, count, total in zip(
            parameters, members, _parts(sums[len(parameters) :], parameters), strict=True
        ):
            parameter.grad = torch.empty_like(parameter).copy_(total) if count else None


ALONE = Team(0, ["cpu"])


def together(work: Callable[[Report, Team], Result], devices: Sequence[str], report: Report) -> Result:
    """What `work` returns in the first of several processes, the members of a team, one on each device.

    Args:
        work: a function that pickle finds by its name, perhaps with arguments (functools.partial). It tells the others
            what to do by `Team.tell`. What it returns holds no tensors, which would end with it.
        devices: as torch names them.
        report: told, in this process, what `work` reports.

    Raises:
        ModelError: a member was killed, or cannot reach the others. All are ended then, as with any other error, which
            is raised as it was in the member.
    """
    context = multiprocessing.get_context("spawn")  # CUDA and OpenMP do not survive a fork
    members: list[BaseProcess] = []
    links: list[Connection] = []
    with tempfile.TemporaryDirectory(prefix="premask-team-", ignore_cleanup_errors=True) as folder:  # nobody else's
        try:
            for rank in range(len(devices)):
                ours, theirs = context.Pipe(duplex=False)
                links.append(ours)
                meeting = Path(folder) / "meeting"
                arguments = (rank, tuple(devices), meeting, os.getpid(), torch.get_num_threads(), work, theirs)
                members.append(context.Process(target=_member, args=arguments, name=f"training-{rank}"))
                members[-1].start()
                theirs.close()
            return _Listener[Result](members, links, report).result()
        finally:
            for member in members:
                member.kill()
            for member in members:
                member.join()
            for link in links:
                link.close()


class _Listener(Generic[Result]):
    """Waits for what the members send, and for their ends."""

    def __init__(self, members: Sequence[BaseProcess], links: Sequence[Connection], report: Report) -> None:
        self._members, self._report = members, report
        self._open = dict(enumerate(links))  # by rank
        self._errors: list[Exception] = []
        self._results: list[Result] = []

    def result(self) -> Result:
        """What the first member returns. Raises what a member raised, or ModelError if one ended by itself."""
        while not self._results:
            self._hear(POLL)
            if self._results:
                break
            if self._errors or not self._open or any(member.exitcode for member in self._members):
                raise self._cause()
        return self._results[0]

    def _hear(self, timeout: float) -> None:
        ready = set(wait(list(self._open.values()), timeout))
        for rank, link in list(self._open.items()):
            if link not in ready:
                continue
            try:
                said = link.recv()
            except EOFError:
                del self._open[rank]
                continue
            if isinstance(said, Progress):
                self._report(said)
            elif isinstance(said, Exception):
                self._errors.append(said)
            else:
                self._results += said

    def _cause(self) -> Exception:
        """The error that the others follow from."""
        until = time.monotonic() + GRACE
        while (left := until - time.monotonic()) > 0 and self._open:
            self._hear(left)
        for error in self._errors:
            if not isinstance(error, LostMember):
                return error
        size = len(self._members)
        for member in self._members:
            if (code := member.exitcode) is not None and code < 0:
                name = signal.Signals(-code).name
                return ModelError(
                    f"one of the {size} processes of the training was killed by signal {-code} ({name}"
                    f"{'; out of memory?' if -code == signal.SIGKILL else ''}), and the others were ended",
                    "start it again, with fewer processes if memory ran out",
                )
        ended = ModelError(f"one of the {size} processes of the training ended by itself", "its output says why")
        return self._errors[0] if self._errors else ended


def _member(
    rank: int,
    devices: Sequence[str],
    meeting: Path,
    parent: int,
    threads: int,
    work: Callable[[Report, Team], Any],
    link: Connection,
) -> None:
    """The life of a member: it sends reports and a result, a tuple of one, or an error."""
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the process that started it, which ends all
    torch.set_num_threads(max(threads // len(devices), 1))
    try:
        team = _join(rank, devices, meeting)
        if rank:
            team.follow()
        else:
            result = work(link.send, team)
            team.tell(None)
            link.send((result,))
    except Exception as error:
        known = isinstance(error, ModelError | ValueError | TypeError | OSError)
        if not known:
            traceback.print_exc()
        link.send(error if known else RuntimeError(f"{type(error).__name__}: {error}"))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # else the threads of torch.distributed would abort it where a collective was left half done


def _join(rank: int, devices: Sequence[str], meeting: Path) -> Team:
    """Meet the others by a file. Raises LostMember if they cannot talk with each other."""
    for library in ("GLOO", "NCCL"):  # what they say to each other is not for the network
        os.putenv(f"{library}_SOCKET_IFNAME", LOOPBACK)
    team = Team(rank, devices)
    if team.device.type == "cuda":
        torch.cuda.set_device(team.device)
    with _reaching():
        store = dist.FileStore(str(meeting), team.size)  # type: ignore[attr-defined]
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if team.device.type == "cuda" else "gloo",
            store=store, rank=rank, world_size=team.size, timeout=PATIENCE,
        )  # fmt: skip
        dist.all_reduce(torch.zeros(1, device=team.device))  # what cannot work is better known now
    return team


@contextmanager
def _reaching() -> Iterator[None]:
    """Errors of torch.distributed in a sentence."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise LostMember(
            f"the processes of the training cannot reach each other: {error}", "train by one: --processes 1"
        ) from error


def _die_with(parent: int) -> None:
    """Have the kernel end this process with the one that started it (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it went while this one was still starting
            os.kill(os.getpid(), signal.SIGKILL)


def _trained(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _parts(values: Tensor, parameters: Sequence[nn.Parameter]) -> Iterator[Tensor]:
    """A vector cut into tensors of the parameters' shapes."""
    parts = torch.split(values, [parameter.numel() for parameter in parameters])
    return (part.view(parameter.shape) for part, parameter in zip(parts, parameters, strict=True))
