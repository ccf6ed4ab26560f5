"""One run of a row: pre-training, probe, fine-tuning, each done once and kept."""

import fcntl  # on Linux and macOS only, as are the launchers
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config, ConfigDict
from torch import nn

from randsac_mm.datasets import InMemoryDataset
from randsac_mm.engine import launch
from randsac_mm.engine.origin import describe_origin
from randsac_mm.engine.resources import fit_workers
from randsac_mm.engine.schedule import set_epochs
from randsac_mm.evaluation import LabelledImages, evaluate_backbone, knn_accuracy, ridge_accuracy
from randsac_mm.evaluation.evaluate import build_untrained
from randsac_mm.evaluation.features import normalise
from randsac_mm.files import atomic_write
from randsac_mm.transfer.model_loading import load_model

from .protocols import Protocol, apply_protocol
from .recipes import BASELINES, find_datasets, load_recipe

STAGES = ('pretrain', 'probe', 'finetune')
# By data set and whether the encoder is a ViT-S; those of another size take its schedule.
_FINETUNE = {
    ('PreparedCIFAR10', False): 'finetune_vit-t_cifar10.py',
    ('PreparedCIFAR10', True): 'finetune_vit-s_cifar10.py',
    ('CIFAR100', True): 'finetune_vit-s_cifar100.py',
    ('CIFAR100', False): 'finetune_vit-s_cifar100.py',
}


class Job(NamedTuple):
    """One run of a row.

    Everything of it is kept in ``folder``; ``configs`` is the folder ``configs/``, ``data_root`` that of the data set.
    """

    recipe: str  # key of RECIPES
    seed: int  # of weights, order of images and serializations
    protocol: Protocol
    folder: Path
    configs: Path
    data_root: str | None = None  # None: the config's

    def result(self, stage: str) -> dict[str, Any] | None:
        """Read the result of a stage, or return None if it has not been done."""
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
            for dataset in find_datasets(cfg):
                dataset.data_root = self.data_root
        apply_protocol(cfg, self.protocol, len(load_split(find_datasets(cfg)[0], 'train').labels))
        return self._name_run(cfg, 'pretrain')

    def finetune_config(self) -> Config:
        """Make the config of the fine-tuning: the paper's recipe, with encoder, data and seed of the pre-training.

        Raises:
            FileNotFoundError: If the pre-training is not finished.
            ValueError: If so few images remain that an epoch has no step.
        """
        pretrained, protocol = self.config(), self.protocol
        source, ours = find_datasets(pretrained)[0], pretrained.model.backbone
        cfg = Config.fromfile(self.configs / 'finetune' / _FINETUNE[source.type, ours.arch == 'deit-small'])
        cfg.model.backbone.update(arch=ours.arch, patch_size=ours.patch_size)
        cfg.model.backbone.init_cfg.checkpoint = str(self.checkpoint())
        if pretrained.model.type == 'MAE':
            cfg.model.backbone.update(type='VisionTransformer', out_type='featmap')
        if isinstance(ours.arch, dict):
            cfg.model.head.in_channels = ours.arch['embed_dims']
        images = [protocol.images, protocol.test_images, protocol.test_images]
        for dataset, count in zip(find_datasets(cfg), images, strict=True):
            dataset.data_root = source.get('data_root')
            if count is not None:
                dataset.indices = count
        if protocol.batch_size is not None:  # the recipe's rule: the rate is proportional to the batch
            cfg.optim_wrapper.optimizer.lr *= protocol.batch_size / cfg.batch_size
            cfg.batch_size = cfg.train_dataloader.batch_size = protocol.batch_size
        if protocol.images is not None and protocol.images < cfg.batch_size:
            raise ValueError(
                f'{protocol.images} training images do not fill one step of {cfg.batch_size}: raise --subset'
            )
        if protocol.finetune_epochs is not None:
            set_epochs(cfg, protocol.finetune_epochs)
        cfg.train_cfg.val_interval = cfg.train_cfg.max_epochs  # once, at the end
        fit_workers(cfg, {})
        return self._name_run(cfg, 'finetune')

    def checkpoint(self) -> Path:
        """Find the checkpoint of the finished pre-training.

        Raises:
            FileNotFoundError: If there is none.
        """
        found = launch.find_checkpoint(self.folder / 'pretrain') if self.result('pretrain') is not None else None
        if found is None:
            raise FileNotFoundError(f'{self.folder} has no finished pre-training: run the stage "pretrain" first')
        return found

    def _name_run(self, cfg: Config, stage: str) -> Config:
        cfg.work_dir, cfg.randomness.seed, cfg.launcher = str(self.folder / self.name(stage)), self.seed, 'none'
        # mmengine keeps one object of each name.
        cfg.experiment_name = f'{self.recipe}_seed{self.seed}_{stage}_{time.time_ns()}'
        return cfg


def run_stages(job: Job, stages: tuple[str, ...], log: Callable[[str], None]) -> bool:
    """Run those of some stages that have not been done; one that was interrupted goes on where it stopped.

    Args:
        job: The run.
        stages: Which of :data:`STAGES` are wanted.
        log: Called with a line for people before each stage.

    Returns:
        False if another process is at this run, which then is skipped.
    """
    todo = [stage for stage in STAGES if stage in stages and job.result(stage) is None and _applies(job, stage)]
    if not todo:
        return True
    job.folder.mkdir(parents=True, exist_ok=True)
    with claim(job.folder / '.lock') as claimed:
        if not claimed:
            return False
        for stage in todo:
            if job.result(stage) is not None:  # another process was faster
                continue
            log(f'{job.recipe}, seed {job.seed}: {stage}')
            begin = time.perf_counter()
            result = {'pretrain': _pretrain, 'probe': _probe, 'finetune': _finetune}[stage](job)
            result['seconds'] = round(time.perf_counter() - begin, 1)
            result.update(threads=torch.get_num_threads(), origin=describe_origin())
            with atomic_write(job.folder / f'{job.name(stage)}.json') as path:
                path.write_text(json.dumps(result, indent=2) + '\n')
    return True


def _applies(job: Job, stage: str) -> bool:
    if job.recipe in BASELINES:
        return stage == 'probe'
    return stage != 'finetune' or (job.protocol.finetune_epochs != 0 and 'supervised' not in job.recipe)


def _pretrain(job: Job) -> dict[str, Any]:
    cfg = job.config()
    resumed, runner = _train(cfg)
    parts = {name: getattr(runner.model, name, None) for name in ('backbone', 'neck')}
    return {
        'epochs': runner.max_epochs,
        'images': len(runner.train_dataloader.dataset),
        'steps': runner.max_iters,
        'batch_size': cfg.train_dataloader.batch_size,
        'parameters': {
            name: sum(p.numel() for p in part.parameters() if p.requires_grad)
            for name, part in parts.items()
            if part is not None
        },
        'loss': round(float(runner.message_hub.get_scalar('train/loss').mean(runner.log_processor.window_size)), 6),
        'resumed': resumed,
    }


def _finetune(job: Job) -> dict[str, Any]:
    cfg = job.finetune_config()
    _, runner = _train(cfg)
    with _quiet():
        accuracy = runner.val_loop.run()['accuracy/top1']
    return {
        'accuracy': float(accuracy),
        'epochs': runner.max_epochs,
        'images': len(runner.train_dataloader.dataset),
        'batch_size': cfg.train_dataloader.batch_size,
    }


def _train(cfg: Config) -> tuple[bool, Any]:
    resumed = launch.use_resume(cfg, 'auto')
    with _quiet():
        runner = launch.build_runner(cfg)
        runner.train()
    return resumed, runner


def _probe(job: Job) -> dict[str, Any]:
    cfg = job.config()
    dataset = find_datasets(cfg)[0]
    train = load_split(dataset, 'train', job.protocol.probe_images or job.protocol.images)
    test = load_split(dataset, 'test', job.protocol.test_images)
    sizes = {'train_images': len(train.labels), 'test_images': len(test.labels)}
    if job.recipe == 'raw-pixels':
        train_x, test_x = (part.images.flatten(1).float() / 255 for part in (train, test))
        features = (train_x, train.labels, test_x, test.labels)
        return {
            'knn': knn_accuracy(*features),
            'linear': ridge_accuracy(*features),
            'probe': 'ridge regression',
            **sizes,
        }
    model = build_untrained(cfg.model, job.seed)
    if job.recipe != 'untrained':
        load_model(model, job.checkpoint())
    model.to('cuda' if torch.cuda.is_available() else 'cpu')
    preprocess = partial(normalise, model.data_preprocessor)
    result = {**evaluate_backbone(model.backbone, preprocess, train, test)._asdict(), **sizes}
    if cfg.model.type == 'ImageClassifier':
        result['accuracy'] = _classify(model, test)
    return result


@torch.no_grad()
def _classify(model: nn.Module, test: LabelledImages) -> float:
    """Return a classifier's own accuracy, in percent."""
    model.eval()
    inputs = (normalise(model.data_preprocessor, batch) for batch in test.images.split(256))
    predicted = torch.cat([model(batch).argmax(1).cpu() for batch in inputs])
    return 100 * (predicted == test.labels).double().mean().item()


def load_split(dataset: ConfigDict, split: str, count: int | None = None) -> LabelledImages:
    """Read ``'train'`` or ``'test'`` of a data set, the first ``count`` images; kept for the process's next run."""
    data = _read(dataset.type, dataset.get('data_root'), split)
    return LabelledImages(data.images[:count], data.labels[:count])


@lru_cache(maxsize=4)
def _read(kind: str, root: str | None, split: str) -> InMemoryDataset:
    where = {} if root is None else {'data_root': root}
    return InMemoryDataset(dict(type=kind, split=split, **where), device='cpu')


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Lock a file until the process ends, however that happens; yield False if another process has locked it."""
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
