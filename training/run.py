"""A run of a stage: the methods that the loops of all stages call.

    run = Run(args, fingerprints(args))
    ...                                                  # model, tokenizer, data
    wrapped = run.distribute(model)
    run.begin(model, tokenizer, stream, evaluate)        # optimisers; the saved state; the log
    while run.going():
        batches = run.next_batches()
        if batches is None:                              # capped data is used up
            break
        loss = run.backward(wrapped, batches, loss_of)   # gradient over micro-batches and ranks
        run.update(loss)                                 # clip, guard, step
        run.end_of_step()                                # progress, goals; log, evaluate, save when it is time
    run.finish()                                         # save, evaluate, the result as the last line
    run.close()                                          # all ranks end together

A step may have several pairs of backward and update, and its batches may come from elsewhere (grpo.py).

A run folder is a Hugging Face folder (config.json, model.safetensors, tokenizer) with three more files: log.jsonl
(training/log.py), train_state.pt (training/checkpoint.py), and ledger.json, the cost of the run (training/ledger.py).
"""

import contextlib
import copy
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from torch import nn

from training import checkpoint, cli, gradient, metrics, optim
from training.goals import Until
from training.guard import Guard
from training.ledger import Costs, Ledger, summary
from training.log import Log
from training.machine import commit, device_name, versions
from training.progress import Progress, Unbroken
from training.ranks import Ranks
from training.resume import find_state
from training.weights import gathered

# names of other fields of the log and of the result: no metric may have one of these names
RESERVED = ("step", "loss", "eval", "result", "resumed_at", "flags", "out", "steps", "seconds", "ended_by")


class Run(Ranks):
    """One run on one or many ranks: where it computes (training/ranks.py), what it writes, how it stops.

    args: the flags. inputs: {name: fingerprint} of the files that decide what is learned (data.fingerprints).

    Attributes that scripts read and write:
    step: the number of steps made.  began: how many of them were made when this process began.
    metrics: {name: (sum, divisor)} of this step (training/metrics.py); any code may add to it.
    extra_state: what a script adds to the checkpoint; a dict that torch.save can store.
    state: the saved state of a resumed run, or None.
    ledger: the cost of the run, and of what came before it. costs: FLOPs of the model that is trained; None until `begin`.
    stopping: True after an interrupt.  agreed: True when all ranks know this.
    ended: the flag that ended the run before --steps, or "".
    logged: the record with the result of a run that was finished before; None while there are steps to make.
    loss, weight, grad_norm, lr: of the last update.  means: {name: mean} of the metrics of the last step.
    """

    def __init__(self, args: Namespace, inputs: dict):
        super().__init__(args)
        self.folder, self.flags, self.inputs = Path(args.out), copy.deepcopy(vars(args)), inputs
        self.log_file = Log(self.folder, args.wandb)
        self.state = find_state(self.folder, self.flags, inputs, getattr(args, "defaults", {}))
        self.wait_for_all()                               # no rank writes to the folder before all have checked it
        checkpoint.seed_everything(args.seed)
        self.extra_state = dict(self.state["more"]) if self.state else {}
        self.ledger, self.costs, self.spent = self.open_ledger(), None, {}
        memory = {name: self.extra_state.pop(name) for name in ("recent", "measured", "reached") if name in self.extra_state}
        self.until = Until(getattr(args, "until_loss", 0.0), getattr(args, "until_accuracy", 0.0), **memory)
        self.step, self.began, self.stopping, self.agreed, self.ended, self.skipped = 0, 0, False, False, self.until.reached, ""
        self.logged = self.log_file.result() if self.state else None          # read by all ranks, before any of them writes
        self.metrics, self.means = {}, {}
        self.loss = self.grad_norm = self.lr = float("nan")
        self.weight, self.micro_rows, self.evaluate = 0.0, None, None

    def open_ledger(self) -> Ledger:
        """The ledger of the saved state; or a new one, with the cost of --init, and of every file of data that was made and every
        checkpoint that a SPEC names."""
        ledger = Ledger(self.folder, {"flags": self.flags, "inputs": self.inputs})
        if self.state and "ledger" in self.state:
            ledger.restore(self.state["ledger"], sums=self.main)
            return ledger
        if init := self.flags.get("init"):
            ledger.inherit(init, checkpoint=True)
        for flag, _, name in (what.partition(" ") for what in self.inputs):
            if flag in ("--data", "--sft-data"):
                ledger.inherit(name)
        return ledger

    def count(self, kind: str, batches: list, passes: int = 1) -> None:
        """Enters forward passes over these batches into the ledger, so many over each. A model without a Config has no costs."""
        if self.costs is not None:
            tokens = sum(b.filled for b in batches)
            self.ledger.add(kind, passes * sum(map(self.costs.forward_batch, batches)), tokens)

    def plan_micro_batches(self, stream: Any) -> None:
        """Finds how many rows of a Stream go into a micro-batch. ValueError if the rows cannot be divided among the ranks."""
        args = self.args
        if args.micro_tokens:
            self.micro_rows = args.micro_tokens // args.seq_len
        if stream.rows % self.ranks or self.micro_rows == 0:
            raise ValueError(f"--batch-tokens {args.batch_tokens} must be a multiple of --seq-len x ranks "
                             f"(= {args.seq_len * self.ranks}), and --micro-tokens at least --seq-len")
        self.micro_rows = self.micro_rows or stream.rows // self.ranks

    def begin(self, model: nn.Module, tokenizer: Any, data: Any, evaluate: Callable | None = None,
              guard: Guard | None = None, **about) -> None:
        """Makes the optimisers, restores the saved state if there is one, opens the log and shows the progress bar.

        - model: the module that is trained and saved (not the wrapped one).
        - data: the source of the batches; it has state() and restore().
        - evaluate(autocast=...): measures the model on --eval-data and returns {spec: result}.
        - about: more fields for the first record of the log.
        """
        args = self.args
        self.model, self.tokenizer, self.data, self.evaluate = model, tokenizer, data, evaluate
        self.guard = guard or Guard()
        self.costs = Costs.of(model) if hasattr(getattr(model, "model", model), "config") else None
        self.optimizers = optim.build(model, args.optimizer, args.lr, args.adam_lr, args.weight_decay)
        if self.state is not None:
            with cli.bad_input():
                checkpoint.restore(self.state, model, self.optimizers, data, self.guard)
            self.step = self.began = self.state["step"]
        if self.logged and self.logged["step"] == self.step:                  # data that was used up still is
            self.ended = self.ended or self.logged["result"].get("ended_by", "")
        if self.logged and (self.logged["step"] != self.step or self.step < args.steps and not self.ended):
            self.logged = None                            # there are steps to make
        if self.state is not None and not self.logged:    # it may have been killed behind its last step, before its result
            self.loss, self.means = self.log_file.of_step(self.step)
        with cli.bad_input():
            self.open_log(about)
        self.catch_interrupts()
        self.progress = Progress(Path(sys.argv[0]).stem, self.step, args.steps, shown=self.main)

    def open_log(self, about: dict) -> None:
        if not self.main:
            return
        if self.state is not None and self.log_file.reopen(self.flags, self.step):
            if not self.logged:
                self.log({"resumed_at": self.step, "steps": self.args.steps, "commit": commit()})
        else:
            if self.args.resume and (self.folder / "log.jsonl").exists():
                print("--resume: there is no checkpoint yet (--save-every writes them on the way), so the run begins again",
                      file=sys.stderr)
            self.log_file.open(self.flags)
            self.log({"flags": self.flags, "script": Path(sys.argv[0]).name, "versions": versions(), "commit": commit(),
                      "ranks": self.ranks, "device": device_name(self.device)} | about)

    def log(self, record: dict) -> None:
        """Writes a record. If the disk is full, the run saves and ends after this step."""
        try:
            self.log_file.write(record)
        except OSError as e:
            if not self.stopping:
                self.say(f"{self.folder / 'log.jsonl'}: cannot be written ({e.strerror}); the run stops after this step")
            self.stopping = True

    def say(self, text: str) -> None:
        """Prints a line on standard error, only on the first rank."""
        if self.main:
            self.progress.say(text)

    def catch_interrupts(self) -> None:
        """Ctrl-C, SIGTERM or a closed terminal: the run saves and ends after the current step. A second one ends it at once."""
        def note(signum, frame):
            if self.stopping:
                raise KeyboardInterrupt
            self.stopping = True
            if self.main:
                print("stopping after this step ...", file=sys.stderr, flush=True)
        if not isinstance(sys.stderr, Unbroken):
            sys.stderr = Unbroken(sys.stderr)
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) != signal.SIG_IGN:         # nohup ignores SIGHUP
                signal.signal(number, note)

    # the methods of the loop, in their order

    def going(self) -> bool:
        """True while there are steps to make. Clears the metrics of the last step."""
        self.metrics, self.skipped = {}, ""
        stop = self.stopping if self.ranks == 1 else self.agreed              # all ranks leave the loop together
        return self.step < self.args.steps and not stop and not self.ended

    def next_batches(self) -> list | None:
        """This rank's micro-batches of the next global batch of a Stream; None if the data is used up (--max-epochs)."""
        try:
            batches = self.data.next(self.rank, self.ranks, self.micro_rows)
        except StopIteration:
            self.ended = "--max-epochs"
            self.say(f"the data is used up after {self.step} steps (--max-epochs {self.args.max_epochs:g})")
            return None
        except (ValueError, OSError) as e:                # from a source that reads its rows only now
            self.give_up(e)
        self.progress.tokens += self.args.batch_tokens
        return batches

    def backward(self, wrapped: nn.Module, batches: list, loss_of: Callable, weight: float | None = None) -> float:
        """Computes the gradient of the mean loss over all micro-batches and ranks; returns the mean loss.

        loss_of(batch) returns the sum of weighted losses, and metrics {name: (sum, divisor)}, which are added to those of the
        step. weight: the sum of the weights in this rank's batches; by default the sum of their loss masks.
        """
        if weight is None:
            weight = sum(float(b.loss_mask.double().sum()) for b in batches)
        self.weight, wants_stop = self.sum(weight, self.stopping)
        self.stopping = self.agreed = wants_stop > 0                          # all ranks stop at the same step
        self.count("training", batches, passes=3)         # the backward pass takes two forward passes
        self.ledger.usual += sum(b.documents.numel() * self.costs.usual(b.documents.shape[1]) for b in batches if self.costs)
        return gradient.accumulate(self, wrapped, batches, loss_of, self.weight, self.metrics)

    def update(self, loss: float) -> None:
        """One step of the optimisers, with the learning rate of this step and a clipped gradient. If the guard finds a broken
        loss, the step is skipped. After several skipped steps the run ends; the weights are those before them."""
        args, self.loss = self.args, loss
        share = optim.schedule(self.step, args.steps, args.schedule, args.warmup, args.decay, args.floor)
        self.lr = optim.set_lr(self.optimizers, share)
        self.grad_norm = gradient.clip_gradients(self.model, args.clip)
        try:
            why = self.guard.check(loss, self.grad_norm)
        except ValueError as e:
            self.give_up(e)
        if why:
            self.skipped = why
            self.say(f"step {self.step} skipped: {why}")
        else:
            for optimizer in self.optimizers:
                optimizer.step()
        self.model.zero_grad(set_to_none=True)

    def end_of_step(self, record: dict | None = None, show: tuple = ("loss",)) -> None:
        """Counts the step and computes the means of its metrics; logs, evaluates and saves if it is time.

        record: fields that the script adds to the log. show: names of the values after the progress bar.
        """
        args = self.args
        self.step += 1
        own = {"grad_norm": self.grad_norm, "lr": self.lr, "weight": self.weight, "skipped": self.skipped,
               "tokens_per_second": round(self.progress.rate(), 1)} | (record or {})
        last = self.step >= args.steps
        self.ended = self.ended or self.until.low(self.loss)
        try:
            self.means = metrics.means(self.metrics, self)
            metrics.check_names(self.means, [*own, *RESERVED])
        except ValueError as e:                           # the same on all ranks
            self.give_up(e)
        known = {"loss": self.loss} | self.means
        self.progress.step(**{name: f"{known[name]:.3f}" for name in show if name in known})
        if self.step % args.log_every == 0 or last or self.ended or self.skipped:
            self.log({"step": self.step} | known | own)
        if args.eval_every and self.step % args.eval_every == 0 and not last:
            found = self.measure()
            spent = sum(self.ledger.found(self)["own"].values())              # FLOPs of this run until now
            self.log({"step": self.step, "eval": found, "flops": spent})
            self.ended = self.ended or self.until.accurate(found)
        if args.save_every and self.step % args.save_every == 0 and not last:
            self.save()

    def finish(self, result: dict | None = None, show: Callable | None = None) -> None:
        """Saves, evaluates if the run is complete, and prints the result as one JSON line.

        result: fields that the script adds to it. show(result) prints tables for people. If the run was finished before, its
        result is printed again as the log has it, and measured anew only on other --eval-data.
        """
        if self.logged:
            return self.repeat(show)
        seconds, rate = self.progress.seconds(), self.progress.rate()
        self.progress.bar.close()
        self.save()
        found = {"out": self.args.out, "steps": self.step, "loss": round(self.loss, 4)}
        found |= {name: float(f"{mean:.6g}") for name, mean in self.means.items()}
        found |= {"seconds": round(seconds, 1), "tokens_per_second": round(rate, 1), "skipped": self.guard.skipped}
        found |= result or {}
        found["flops"] = summary(self.spent)
        if (self.step >= self.args.steps or self.ended) and self.args.eval_data:
            found["eval"] = self.measure()
        if self.ended:                                    # report.py tells such a stage from one that was interrupted
            found["ended_by"] = self.ended
        self.log({"result": found, "step": self.step})
        self.report(found, show)

    def repeat(self, show: Callable | None) -> None:
        """What `finish` does where there was nothing to do."""
        self.progress.bar.close()
        found, then = self.logged["result"] | {"out": self.args.out}, self.state["args"]
        same = all(then.get(name) == self.flags[name] for name in ("eval_data", "eval_problems") if name in self.flags)
        if self.args.eval_data and not (same and "eval" in found):
            found["eval"] = self.measure()
            self.log({"result": found, "step": self.step})
        self.report(found, show)

    def report(self, found: dict, show: Callable | None) -> None:
        if self.main:
            with cli.reader_may_leave():
                if show:
                    show(found)
            cli.finish(found)

    def close(self) -> None:
        """Ends the program, all ranks together; with exit code 130 if the run was interrupted."""
        self.log_file.close()
        self.leave(130 if self.learns and self.stopping and self.step < self.args.steps else 0)

    # used by the methods above

    def measure(self) -> dict:
        with self.bad_input(), gathered(self.model):      # of a task of the user's
            return self.evaluate(autocast=self.autocast())

    def save(self) -> None:
        """Writes a checkpoint of the state after self.step steps. If the disk is full, the old one is kept and the run ends."""
        self.spent = self.ledger.found(self)
        state = {"step": self.step, "args": self.flags, "inputs": self.inputs, "more": self.extra_state | self.until.memory(),
                 "ledger": self.spent}
        state |= checkpoint.state_of(self.model, self.optimizers, self.data, self.guard)
        trouble = checkpoint.write(self.folder, self.model, self.tokenizer, state) if self.main else ""
        if self.sum(bool(trouble))[0]:
            cli.fail(trouble or "rank 0 could not write the checkpoint")

    def give_up(self, error: object) -> NoReturn:
        """Saves the steps that were made, if there are any, then ends the program with one line. All ranks must call this
        together."""
        self.progress.bar.close()
        if self.step > self.began:
            self.save()
        cli.fail(error)

    @contextlib.contextmanager
    def bad_input(self) -> Iterator[None]:
        """Like cli.bad_input, for a step: an error of one rank ends all, and the steps before it are saved. All ranks must come
        here together, and inside only do what one that fails may leave to the others."""
        error = ""
        try:
            yield
        except (ValueError, OSError) as e:
            error = str(e) or type(e).__name__
        if self.max(int(bool(error))):
            self.give_up(next(filter(None, self.gather(error))))
