"""A recurrent network over the hours of a stay: how it reads them, how it is trained, how it scores.

Belongs here: everything that is torch; it is imported only where a network is fitted, applied or loaded. Does not
belong here: which columns it reads, how scores become risks, files.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from clinical_assets.learning.hourly_alarm import AlarmHours, FloatArray, IntArray
from clinical_assets.learning.sequence_settings import SequenceAlarmSettings

HEADS = 2
OUTERMOST_QUANTILE = 0.005
QUANTILE_HOURS = 100_000
LEAST_WIDTH = 1e-6
SCORED_BATCH_HOURS = 20_000
WARM_UP_STEPS = 100
AVERAGE_DECAY = 0.998
LARGEST_GRADIENT = 1.0


class StayNetwork(nn.Module):
    """A gated recurrent network (Cho 2014) whose numbers enter in pieces between quantiles (Gorishniy 2022).

    Its input is stays x hours x columns: `numbers` columns, NaN where unknown, then `recencies` columns between 0 and
    1. Its output is stays x hours x 2: the log odds of the label, and those of a gain by an alarm. An hour's output
    depends on no later hour.
    """

    def __init__(self, numbers: int, recencies: int, settings: SequenceAlarmSettings) -> None:
        super().__init__()
        self.numbers = numbers
        self.low = nn.Buffer(torch.zeros(numbers, settings.segments))
        self.width = nn.Buffer(torch.ones(numbers, settings.segments))
        self.embedding = nn.Sequential(
            nn.Dropout(settings.dropout / 3),
            nn.Linear(numbers * settings.segments + recencies, settings.embedding),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
        )
        self.memory = nn.GRU(settings.embedding, settings.hidden, batch_first=True)
        self.heads = nn.Sequential(
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden + settings.embedding, settings.hidden),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
        )
        self.out = nn.Linear(settings.hidden, HEADS)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The log odds of both heads in every hour."""
        numbers, recency = values[..., : self.numbers], values[..., self.numbers :]
        pieces = ((numbers[..., None] - self.low) / self.width).clamp(0.0, 1.0).nan_to_num(0.0).flatten(-2)
        embedded = self.embedding(torch.cat([pieces, recency], dim=-1))
        remembered, _ = self.memory(embedded)
        return self.out(self.heads(torch.cat([remembered, embedded], dim=-1)))

    def set_quantiles(self, values: FloatArray) -> None:
        """Cut each number (hours x numbers) between its outermost quantiles into pieces of equally many hours."""
        sample = values[:: max(1, len(values) // QUANTILE_HOURS)]
        levels = np.linspace(OUTERMOST_QUANTILE, 1 - OUTERMOST_QUANTILE, self.low.shape[1] + 1)
        # A number that was never measured in training says nothing when it appears later.
        measured = np.isfinite(sample).any(axis=0)
        quantiles = np.full((len(levels), self.numbers), np.inf)
        quantiles[:, measured] = np.nanquantile(sample[:, measured], levels, axis=0)
        width = np.diff(np.where(measured, quantiles, 0.0), axis=0)
        self.low.copy_(torch.from_numpy(quantiles[:-1].T))
        self.width.copy_(torch.from_numpy(np.maximum(width, LEAST_WIDTH).T))


@dataclass(frozen=True, slots=True)
class Stays:
    """The stays of patients: where each begins in `values`, and how many hours it has.

    `values` is hours x columns, as `StayNetwork` reads them, in the order of patient and time.
    """

    start: IntArray
    length: IntArray
    values: torch.Tensor

    @classmethod
    def of(cls, patient: IntArray, values: npt.NDArray[np.float32]) -> Self:
        """The stays of hours whose patients follow each other."""
        start = np.flatnonzero(np.diff(patient, prepend=-1))
        return cls(start, np.diff(np.r_[start, len(patient)]), torch.from_numpy(values))

    def batches(self, stay: IntArray, hours: int) -> "Iterator[_Batch]":
        """Batches of stays of like length, of about as many hours."""
        stay = stay[np.argsort(self.length[stay], kind="stable")]
        number = np.cumsum(self.length[stay]) // hours
        for members in np.split(stay, np.flatnonzero(np.diff(number)) + 1):
            length = self.length[members][:, None]
            step = np.arange(length.max())
            yield _Batch(members, self.start[members][:, None] + np.minimum(step, length - 1), step < length)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some stays, the positions of their hours (stays x hours), and which of these are theirs.

    Where a stay is shorter than the longest, its last hour stands, marked as not its own.
    """

    stay: IntArray
    hour: IntArray
    own: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Targets:
    """What the heads learn (hours x 2: the label; whether an alarm gains), and how much each hour weighs in it.

    `base_log_odds` and `base_loss` (2 each) are the log odds and the loss of a network that knows the base rates alone.
    """

    outcome: torch.Tensor
    weight: torch.Tensor
    base_log_odds: FloatArray
    base_loss: FloatArray

    @classmethod
    def of(cls, hours: AlarmHours, learnt: npt.NDArray[np.bool_]) -> Self:
        """The targets of all hours, whose weights have mean 1 over those that are learnt."""
        outcome = np.stack([hours.outcome, (hours.gain > 0).astype(np.float64)], axis=1)
        weight = np.stack([np.ones(len(hours.gain)), np.abs(hours.gain)], axis=1)
        weight = weight / weight[learnt].mean(axis=0)
        base = np.clip((outcome * weight)[learnt].mean(axis=0), 1e-6, 1 - 1e-6)
        base_loss = -base * np.log(base) - (1 - base) * np.log(1 - base)
        return cls(
            torch.from_numpy(outcome).float(), torch.from_numpy(weight).float(), np.log(base / (1 - base)), base_loss
        )

    def loss(self, log_odds: torch.Tensor, hour: IntArray, weight: FloatArray) -> torch.Tensor:
        """The logistic loss of both heads, each relative to that of the base rates, and of these the mean."""
        share = torch.from_numpy(weight / weight.sum()).float()[..., None] * self.weight[hour]
        relative = share / torch.from_numpy(self.base_loss * HEADS).float()
        device = log_odds.device
        return binary_cross_entropy_with_logits(
            log_odds, self.outcome[hour].to(device), weight=relative.to(device), reduction="sum"
        )


def score_stays(network: StayNetwork, stays: Stays) -> FloatArray:
    """The log odds of the two heads, 2 x hours, in the order of the hours."""
    device = _device()
    network.to(device).eval()
    scores = np.empty((HEADS, len(stays.values)))
    with torch.inference_mode():
        for batch in stays.batches(np.arange(len(stays.start)), SCORED_BATCH_HOURS):
            log_odds = network(stays.values[batch.hour].to(device)).cpu().double().numpy()
            scores[:, batch.hour[batch.own]] = log_odds[batch.own].T
    return scores


def train_network(stays: Stays, hours: AlarmHours, numbers: int, settings: SequenceAlarmSettings) -> StayNetwork:
    """The network as it was after the epoch with the least loss on the patients set aside."""
    device = _device()
    random = np.random.default_rng(settings.seed)
    septic = hours.septic[stays.start]
    aside = random.permutation(len(stays.start)) < settings.stopping_share * len(stays.start)
    learnt_hours = np.repeat(~aside, stays.length)
    targets = _Targets.of(hours, learnt_hours)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        network = StayNetwork(numbers, stays.values.shape[1] - numbers, settings)
        network.set_quantiles(stays.values[torch.from_numpy(learnt_hours), :numbers].double().numpy())
        network.out.bias.data = torch.from_numpy(targets.base_log_odds).float()
        network.to(device)
        average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE_DECAY))
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        best, best_loss, best_epoch = deepcopy(network), np.inf, 0
        for epoch in range(settings.epochs):
            seen = np.flatnonzero(~aside & (septic | (random.random(len(septic)) < settings.other_share)))
            batches = list(stays.batches(random.permutation(seen), settings.batch_hours))
            network.train()
            for place, number in enumerate(random.permutation(len(batches))):
                batch = batches[number]
                progress = (epoch + place / len(batches)) / settings.epochs
                warm = min(1.0, (epoch * len(batches) + place + 1) / WARM_UP_STEPS)
                optimizer.param_groups[0]["lr"] = settings.learning_rate * warm * np.cos(np.pi / 2 * progress) ** 2
                weight = np.where(septic[batch.stay], 1.0, 1 / settings.other_share)[:, None] * batch.own
                loss = targets.loss(network(stays.values[batch.hour].to(device)), batch.hour, weight)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
                optimizer.step()
                average.update_parameters(network)
            candidate = deepcopy(network)
            candidate.load_state_dict(average.module.state_dict())
            loss_aside = _loss_aside(candidate, stays, targets, np.flatnonzero(aside))
            if loss_aside < best_loss:
                best, best_loss, best_epoch = candidate, loss_aside, epoch
            elif epoch - best_epoch >= settings.patience:
                break
    return best.eval()


def _loss_aside(network: StayNetwork, stays: Stays, targets: _Targets, aside: IntArray) -> float:
    """The mean loss over the hours of the stays set aside."""
    device = _device()
    network.eval()
    total = 0.0
    with torch.inference_mode():
        for batch in stays.batches(aside, SCORED_BATCH_HOURS):
            log_odds = network(stays.values[batch.hour].to(device))
            total += targets.loss(log_odds, batch.hour, batch.own.astype(np.float64)).item() * batch.own.sum()
    return total / stays.length[aside].sum()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
