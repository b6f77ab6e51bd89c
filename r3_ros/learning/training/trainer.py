"""The optimisation of a training: clips, predictions, losses, gradients, reports and files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import copy
from dataclasses import asdict
from pathlib import Path
import time
from typing import Any

import numpy as np
import torch
from torch import nn, Tensor
from torch.nn.parallel import DistributedDataParallel

from ...core.config import is_image_size
from ...core.errors import CheckpointError, ModelError
from ...model.network import PairNetwork
from ...model.tiny.tiny_network import TinyNetwork
from ...model.weights.checkpoint import IMAGE_SIZE, ORIGIN, save_network
from .cached_clips import CachedClips
from .clips import Clips
from .initial_weights import new_network
from .objective import evaluate, LossResult
from .processes import all_agree, mean_over, TrainingProcess
from .progress import (
    draw_curves,
    draw_examples,
    duration_text,
    PROGRESS,
    ProgressTable,
    table_text,
    VALIDATION,
)
from .recordings import RecordedClips
from .schedule import average_share, learning_rate, parameter_groups
from .tiny_objective import evaluate_tiny, TinyStep
from .training_settings import image_sizes, Stage, TrainingSettings
from .training_state import load_state, save_state
from .validation import (
    evaluate_constant_velocity,
    evaluate_network,
    network_predictor,
    ValidationErrors,
)

STATE = 'state.safetensors'
WEIGHTS = 'weights.safetensors'
#: Steps from one in which the pairs of r3-tiny are solved, for their confidences, to the next.
_SOLVED_EVERY = 3
#: The training ends with an error after this many gradients in a row that are not finite.
_MOST_SKIPPED = 20

LogLine = Callable[[str], None]


class StepLosses(nn.Module):
    """Runs a network on the clips of a step and compares it with the truth.

    :param dtype: of matrix products in the network; float32: no autocast.
    """

    def __init__(
        self,
        network: PairNetwork,
        settings: TrainingSettings,
        process: TrainingProcess,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.network = network
        self._settings = settings
        self._rank = process.rank
        enabled = dtype != torch.float32
        self._autocast = torch.autocast(process.device.type, dtype, enabled=enabled)

    def forward(self, clips: Clips, causal: bool, step: int) -> LossResult:
        """Return the losses of a step; what they draw depends on the seed, step and rank."""
        loss = self._settings.loss
        if isinstance(self.network, TinyNetwork):
            rng = np.random.default_rng((self._settings.seed, step, self._rank, 55))
            alone = self._settings.stage_at(step).name == 'matching'
            solves = step % _SOLVED_EVERY == _SOLVED_EVERY - 1
            plan = TinyStep(causal, alone, solves, rng)
            return evaluate_tiny(self.network, clips, loss, plan, self._autocast)
        with self._autocast:
            prediction = self.network(clips.images, causal=causal)
        return evaluate(prediction, clips, loss)


class Trainer:
    """A training in a folder, continued where the folder's state was written.

    :param network: initial weights; None: new ones.
    :param provenance: origin and licence of the initial weights, for the header of the trained
        ones; a training that continues keeps its own.
    :param log_line: prints one line; called by the main process only.
    :ivar step: steps done so far.
    :ivar average: the moving average of the weights, which is validated and saved.
    :raises CheckpointError: the state is damaged or of another network.
    :raises ConfigError: the state was made with other settings.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        source: CachedClips | RecordedClips,
        process: TrainingProcess,
        folder: Path,
        log_line: LogLine = print,
        network: PairNetwork | None = None,
        provenance: Mapping[str, str] | None = None,
    ) -> None:
        self.settings, self.source, self.process, self.folder = settings, source, process, folder
        self._log_line = log_line if process.is_main else lambda text: None
        self.network = network or new_network(settings.variant, settings.seed)
        self.network.to(process.device).train()
        self.average = copy.deepcopy(self.network).requires_grad_(False).eval()
        optimiser = settings.optimiser
        groups = parameter_groups(self.network, optimiser.weight_decay)
        self._optimiser = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))
        self.step = 0
        self.provenance = dict(provenance or {ORIGIN: 'random weights'})
        if (folder / STATE).exists():
            self.step, self.provenance = load_state(
                folder / STATE, settings, self.network, self.average, self._optimiser
            )
        self._progress = ProgressTable(folder / PROGRESS, self.step)
        self._validation = ProgressTable(folder / VALIDATION, self.step)
        self._dtype = _autocast_dtype(optimiser.precision, process.device)
        self._losses: nn.Module = StepLosses(self.network, settings, process, self._dtype)
        if process.count > 1:
            # Some official parts of the network reach no output.
            self._losses = DistributedDataParallel(self._losses, find_unused_parameters=True)
        self._skipped = 0
        #: For each error, its sum over the steps since the last row, and their number.
        self._sums: dict[str, tuple[Tensor, int]] = {}
        self._means: dict[str, Tensor] = {}
        self._shown: list[str] = []

    def run(self, until: int | None = None, seconds: float | None = None) -> None:
        """Train to the end, to a step, or for a time; then write everything.

        :param until: stop after this many steps in all.
        :param seconds: stop after the step during which this time ends.
        :raises ModelError: the gradient is not finite any more.
        """
        end = self.settings.stages[-1].end
        last = min(until or end, end)
        start = time.monotonic()
        if self.step >= last:
            self._log_line(f'nothing to do: {self.step} steps are taken, of {last}')
            return
        report = self.settings.report
        if self.step == 0 and report.validate_every:
            self._validate()
        begun: Stage | None = None
        while self.step < last:
            stage = self.settings.stage_at(self.step)
            if stage != begun:
                begun = stage
                self._begin_stage(stage, min(stage.end, last))
                since, first, frames = time.monotonic(), self.step, 0
            frames += self._take_step(stage)
            if self.step % report.log_every == 0 or self.step == last:
                elapsed = max(time.monotonic() - since, 1e-9)
                left = (min(stage.end, last) - self.step) * elapsed / (self.step - first)
                self._add_row(frames / elapsed, left)
                since, first, frames = time.monotonic(), self.step, 0
            out_of_time = seconds is not None and time.monotonic() - start > seconds
            # All processes must stop at the same step although their clocks differ.
            stop = self.step == last or (
                seconds is not None and all_agree(self.process, out_of_time)
            )
            # Alone, matching is measured by its own error: the other parts are not trained yet.
            is_whole = stage.name != 'matching'
            if is_whole and report.validate_every and self.step % report.validate_every == 0:
                paused = time.monotonic()
                self._validate()
                since += time.monotonic() - paused
            if stop or self.step % report.save_every == 0:
                self._save()
            if stop:
                break
        self._log_line(f'{self.step} of {end} steps taken: {self.folder}')

    def _take_step(self, stage: Stage) -> int:
        """Take one step; return the number of frames."""
        optimiser = self.settings.optimiser
        if self.step == stage.first:
            self._optimiser.state.clear()  # other losses, other gradients
        result, frames = self._gradients(self.step)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), optimiser.clip)
        if bool(torch.isfinite(norm)):
            self._skipped = 0
            self._add_up({'loss': result.total.detach(), **result.errors})
            self._add_up({f'loss_{name}': value for name, value in result.parts.items()})
            self._add_up({'gradient': norm})
            for group in self._optimiser.param_groups:
                group['lr'] = learning_rate(stage, optimiser, self.step)
            self._optimiser.step()
            kept = average_share(optimiser, self.step)
            with torch.no_grad():
                for own, new in zip(
                    self.average.parameters(), self.network.parameters(), strict=True
                ):
                    own.lerp_(new, 1 - kept)
        else:
            self._skip()
        self._optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return frames

    def _add_up(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value.float(), count + 1)

    def _gradients(self, step: int) -> tuple[LossResult, int]:
        """Compute the gradients of a step's clips; return the losses and the number of frames."""
        plan, clips = self.source.training(step)
        result: LossResult = self._losses(clips, plan.causal, step)
        # A loss that is not finite may have finite gradients; all processes must skip the step.
        bad = torch.where(torch.isfinite(result.total.detach()), 1.0, torch.nan)
        (result.total * bad).backward()
        return result, plan.clips * plan.views * self.process.count

    def _skip(self) -> None:
        self._skipped += 1
        self._log_line(f'step {self.step}: the gradient is not finite, left out')
        if self._skipped >= _MOST_SKIPPED:
            raise ModelError(
                f'{_MOST_SKIPPED} gradients in a row are not finite: take a smaller '
                'learning_rate, or fp32, and go on from the last state'
            )

    def _begin_stage(self, stage: Stage, last: int) -> None:
        """Report what comes, and render what it lacks, so that rates are those of the steps."""
        parameters = sum(p.numel() for p in self.network.parameters())
        self._log_line(
            f'{self.settings.variant}, {parameters / 1e6:.1f} M parameters, on '
            f'{self.process.count} x {self.process.device}, {str(self._dtype)[6:]}: stage '
            f'{stage.name}, steps {self.step} to {last}'
        )
        self.source.training(self.step)

    def _add_row(self, rate: float, left_s: float) -> None:
        """Write a row of means over the steps since the last one.

        Values that none of these steps has, as of solved pairs, are repeated.
        """
        self._means |= {name: total / count for name, (total, count) in self._sums.items()}
        self._sums, values = {}, self._means
        if not values:  # no gradient has been finite yet, which was reported
            return
        mean = mean_over(self.process, torch.stack(list(values.values())))
        if not self.process.is_main:
            return
        stage = self.settings.stage_at(self.step - 1)
        row: dict[str, Any] = {
            'step': self.step,
            **dict(zip(values, mean.tolist(), strict=True)),
            'learning_rate': learning_rate(stage, self.settings.optimiser, self.step - 1),
            'frames_per_s': rate,
        }
        self._progress.add([row])
        shown = {name: row[name] for name in row if not name.startswith('loss_')}
        shown['left'] = duration_text(left_s)
        self._log_line(table_text([shown], header=list(shown) != self._shown))
        self._shown = list(shown)

    def _validate(self) -> None:
        """Evaluate the average on all held-out sets and add the rows."""
        if self.process.is_main:
            rows: list[dict[str, Any]] = []
            examples, predict = [], network_predictor(self.average)
            sets = self.source.validation(self.settings.report.validation_clips)
            for name, clips in sets.items():
                errors = evaluate_network(predict, clips)
                examples.append((clips[0], predict(clips[0])))
                rows.append(_validation_row(self.step, name, errors))
                if self.step == 0:
                    guess = evaluate_constant_velocity(clips)
                    rows.append(_validation_row(0, f'{name}, constant velocity', guess))
            self._validation.add(rows)
            columns = [name for name in rows[0] if not name.endswith('_quintiles')]  # too wide
            self._log_line(table_text([{name: row[name] for name in columns} for row in rows]))
            draw_examples(self.folder, examples)
        all_agree(self.process, True)  # the other processes wait here

    def _save(self) -> None:
        """Write the state, the weights of the average, and the curves."""
        if self.process.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            path, networks = self.folder / STATE, (self.network, self.average)
            progress = self.step, self.provenance
            save_state(path, progress, self.settings, *networks, self._optimiser)
            about = {'variant': self.settings.variant, 'steps': str(self.step), **self.provenance}
            sizes = self.settings.stage_at(self.step - 1).settings.sizes
            largest = max(max(size) for size in image_sizes(sizes))
            if is_image_size(largest):
                about[IMAGE_SIZE] = str(largest)
            save_network(self.average, self.folder / WEIGHTS, about)
            draw_curves(self.folder, (self._progress, self._validation))
        all_agree(self.process, True)


def _validation_row(step: int, name: str, errors: ValidationErrors) -> dict[str, Any]:
    row: dict[str, Any] = {'step': step, 'set': name}
    for key, value in asdict(errors).items():
        row[key] = ' '.join(f'{v:.3g}' for v in value) if isinstance(value, tuple) else value
    return row


def _autocast_dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision == 'auto':
        capable = device.type == 'cuda' and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if capable else torch.float32
    return torch.bfloat16 if precision == 'bf16' else torch.float32


def require_state(folder: Path, resume: bool) -> None:
    """Refuse to overwrite a training, or to continue one that does not exist.

    :raises CheckpointError: with the option that helps.
    """
    exists = (folder / STATE).exists()
    if exists and not resume:
        raise CheckpointError(
            f'{folder} holds a training: go on with --resume, or take another --output'
        )
    if resume and not exists:
        raise CheckpointError(f'{folder} holds no training to go on with: leave out --resume')
