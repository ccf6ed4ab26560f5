"""One run of a row: pre-training, probe, fine-tuning, each done once and kept."""

import copy
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from randsac_mm.engine import launch
from randsac_mm.engine.origin import describe_origin
from randsac_mm.evaluation import LabelledImages, evaluate_backbone, knn_accuracy, ridge_accuracy
from randsac_mm.evaluation.online_features import ProbedEncoder
from randsac_mm.evaluation.protocol import without_log
from randsac_mm.transfer.model_loading import load_model

from .data import count_images, labelled_images, pixels
from .finetune import finetune_config, run_finetune
from .protocols import Protocol, apply_protocol
from .recipes import BASELINES, data_sets, load_recipe

STAGES = ('pretrain', 'probe', 'finetune')


class Job(NamedTuple):
    """One run of a row.

    Attributes:
        recipe: Key of ``RECIPES``.
        seed: Of weights, order of images and serializations.
        protocol: Its scale.
        folder: Where everything of this run is kept.
        configs: The folder ``configs/``.
        data_root: Folder of the data set; None: the config's.
    """

    recipe: str
    seed: int
    protocol: Protocol
    folder: Path
    configs: Path
    data_root: str | None = None

    def result(self, stage: str) -> dict[str, Any] | None:
        """Read what a stage has found, or None if it has not been done."""
        path = self.folder / f'{self.name(stage)}.json'
        return json.loads(path.read_text()) if path.is_file() else None

    def name(self, stage: str) -> str:
        """Name a stage's file: runs of one pre-training may be fine-tuned for several numbers of epochs."""
        epochs = self.protocol.finetune_epochs
        return f'finetune-{epochs}e' if stage == 'finetune' and epochs is not None else stage

    def config(self) -> Config:
        """Make the config of the pre-training."""
        cfg = load_recipe(self.recipe, self.configs)
        if self.data_root is not None:
            for dataset in data_sets(cfg):
                dataset.data_root = self.data_root
        apply_protocol(cfg, self.protocol, count_images(data_sets(cfg)[0]))
        cfg.work_dir = str(self.folder / 'pretrain')
        cfg.randomness.seed = self.seed
        cfg.launcher = 'none'
        return cfg


def run_stages(job: Job, stages: tuple[str, ...], say: Callable[[str], None]) -> bool:
    """Do what is left of a run.

    Args:
        job: The run.
        stages: Which of :data:`STAGES` are wanted.
        say: Called with a line for people before each stage.

    Returns:
        False if another process is at this run, which then was left alone.
    """
    todo = [stage for stage in STAGES if stage in stages and job.result(stage) is None and _applies(job, stage)]
    if not todo:
        return True
    job.folder.mkdir(parents=True, exist_ok=True)
    with _claim(job.folder / '.lock') as mine:
        if not mine:
            return False
        for stage in todo:
            if job.result(stage) is not None:  # another process was faster
                continue
            say(f'{job.recipe}, seed {job.seed}: {stage}')
            begin = time.perf_counter()
            found = {'pretrain': _pretrain, 'probe': _probe, 'finetune': _finetune}[stage](job)
            found['seconds'] = round(time.perf_counter() - begin, 1)
            _write(
                job.folder / f'{job.name(stage)}.json',
                {**found, 'threads': torch.get_num_threads(), 'origin': describe_origin()},
            )
    return True


def _applies(job: Job, stage: str) -> bool:
    if job.recipe in BASELINES:
        return stage == 'probe'
    return stage != 'finetune' or (job.protocol.finetune_epochs != 0 and 'supervised' not in job.recipe)


def _pretrain(job: Job) -> dict[str, Any]:
    cfg = job.config()
    cfg.experiment_name = f'{job.recipe}_seed{job.seed}_{time.time_ns()}'  # mmengine keeps one object of each name
    resumed = launch.use_resume(cfg, 'auto')
    with _quiet():
        runner = launch.build_runner(cfg)
        runner.train()
    images = len(runner.train_dataloader.dataset)
    parts = {name: getattr(runner.model, name, None) for name in ('backbone', 'neck')}
    found: dict[str, Any] = {
        'epochs': runner.max_epochs,
        'images': images,
        'steps': runner.max_iters,
        'batch_size': cfg.train_dataloader.batch_size,
        'parameters': {name: _parameters(part) for name, part in parts.items() if part is not None},
        'loss': round(_last_loss(runner), 6),
        'resumed': resumed,
    }
    return found


def _last_loss(runner: Runner) -> float:
    return float(runner.message_hub.get_scalar('train/loss').mean(runner.log_processor.window_size))


def _parameters(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters() if parameter.requires_grad)


def _probe(job: Job) -> dict[str, Any]:
    cfg = job.config()
    dataset = data_sets(cfg)[0]
    count = job.protocol.probe_images or job.protocol.images
    train, test = labelled_images(dataset, 'train', count), labelled_images(dataset, 'test', job.protocol.test_images)
    sizes = {'train_images': len(train.labels), 'test_images': len(test.labels)}
    if job.recipe == 'raw-pixels':
        seen, unseen = pixels(train.images), pixels(test.images)
        return {
            'knn': knn_accuracy(seen, train.labels, unseen, test.labels),
            'linear': ridge_accuracy(seen, train.labels, unseen, test.labels),
            'probe': 'ridge regression',
            **sizes,
        }
    model = build_model(cfg, job.seed)
    if job.recipe != 'untrained':
        load_model(model, last_checkpoint(job))
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model.to(device)
    found = {**judge_model(model, train, test), **sizes}
    if hasattr(model, 'head') and cfg.model.type == 'ImageClassifier':
        found['accuracy'] = _classify(model, test.images, test.labels)
    return found


def _finetune(job: Job) -> dict[str, Any]:
    cfg = finetune_config(
        job.config(), last_checkpoint(job), job.protocol, job.configs, job.folder / job.name('finetune')
    )
    with _quiet():
        return run_finetune(cfg)


def judge_model(model: nn.Module, train: LabelledImages, test: LabelledImages, k: int = 20) -> dict[str, float]:
    """Judge the averaged tokens of any model's encoder: no mask, no class token.

    Args:
        model: RandSAC, one of mmpretrain's algorithms, or a classifier.
        train: Images to learn from.
        test: Images to classify.
        k: Number of neighbours.

    Returns:
        Accuracies in percent, ``knn`` and ``linear``.
    """
    encoder = ProbedEncoder(model)
    return evaluate_backbone(encoder, encoder.normalise, train, test, k=k)


def build_model(cfg: Config, seed: int) -> nn.Module:
    """Build the model of a pre-training run with the weights that its seed gives; random states are put back."""
    with torch.random.fork_rng(devices=[]), without_log():
        torch.manual_seed(seed)
        model = MODELS.build(copy.deepcopy(cfg.model))
        model.init_weights()
    return model


def last_checkpoint(job: Job) -> Path:
    """Find the checkpoint of a finished pre-training.

    Raises:
        FileNotFoundError: If there is none.
    """
    found = launch.find_checkpoint(job.folder / 'pretrain') if job.result('pretrain') is not None else None
    if found is None:
        raise FileNotFoundError(f'{job.folder} holds no finished pre-training: run the stage "pretrain" first')
    return found


@torch.no_grad()
def _classify(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Measure a classifier's own accuracy on images (n, C, H, W) with labels (n,), percent."""
    model.eval()
    right = 0
    for batch, truth in zip(images.split(256), labels.split(256), strict=True):
        inputs = model.data_preprocessor({'inputs': batch})['inputs']
        logits = model.head(model.extract_feat(inputs.to(next(model.parameters()).device)))
        right += int((logits.argmax(1).cpu() == truth).sum())
    return 100 * right / len(labels)


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write a result under its name only when it is complete."""
    partial = path.with_name(f'{path.name}.{os.getpid()}')
    partial.write_text(json.dumps(content, indent=2) + '\n')
    partial.replace(path)


@contextmanager
def _claim(path: Path) -> Iterator[bool]:
    """Hold a lock that ends with the process, however that ends; False if another process holds it."""
    import fcntl  # on Linux and macOS only, as are the launchers

    with open(path, 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep mmengine's log out of the terminal; that of a training is in the run's folder all the same."""
    with open(os.devnull, 'w') as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
