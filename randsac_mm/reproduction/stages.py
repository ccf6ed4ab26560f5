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
from mmengine.runner import Runner

from randsac_mm.complexity import count_executed
from randsac_mm.datasets import InMemoryDataset
from randsac_mm.engine import launch
from randsac_mm.engine.origin import describe_origin
from randsac_mm.engine.resources import ending_workers, fit_workers
from randsac_mm.engine.schedule import set_epochs
from randsac_mm.engine.work_dir import find_checkpoint, use_resume
from randsac_mm.evaluation import LabelledImages, evaluate_backbone, knn_accuracy, ridge_accuracy
from randsac_mm.evaluation.features import normalise
from randsac_mm.evaluation.frozen_encoder import build_untrained
from randsac_mm.files import write_json
from randsac_mm.transfer.model_loading import load_model

from .protocols import Protocol, apply_protocol
from .recipes import BASELINES, RECIPES, SAME_COMPUTE, find_datasets, load_recipe

STAGES = ('pretrain', 'probe', 'finetune')


class Job(NamedTuple):
    """One run of a row."""

    recipe: str  # key of RECIPES
    seed: int  # of weights, order of images and serializations
    protocol: Protocol
    folder: Path  # of everything that the run writes
    configs: Path  # the folder configs/
    data_root: str | None = None  # of the data set; None: the config's

    def name(self, stage: str) -> str:
        """Name a stage's file: runs of one pre-training may be fine-tuned for several numbers of epochs."""
        epochs = self.protocol.finetune_epochs
        return f'finetune-{epochs}e' if stage == 'finetune' and epochs is not None else stage

    def result(self, stage: str) -> dict[str, Any] | None:
        """Read the result of a stage, or return None if it has not been done."""
        path = self.folder / f'{self.name(stage)}.json'
        return json.loads(path.read_text()) if path.is_file() else None

    def config(self) -> Config:
        """Make the config of the pre-training."""
        cfg = load_recipe(self.recipe, self.configs)
        if self.data_root is not None:
            for dataset in find_datasets(cfg):
                dataset.data_root = self.data_root
        images = len(load_split(find_datasets(cfg)[0], 'train').labels)
        other = SAME_COMPUTE.get(self.recipe)
        like = None if other is None else load_recipe(other, self.configs).model
        apply_protocol(cfg, self.protocol, images, like)
        return self._name_run(cfg, 'pretrain')

    def finetune_config(self) -> Config:
        """Make the config of the fine-tuning: the paper's recipe, with encoder, data and seed of the pre-training."""
        pretrained, protocol = self.config(), self.protocol
        source, ours = find_datasets(pretrained)[0], pretrained.model.backbone
        size = 'vit-s' if 'vit-s' in RECIPES[self.recipe][0] else 'vit-t'
        data = 'cifar100' if source.type == 'CIFAR100' else 'cifar10'
        cfg = Config.fromfile(self.configs / 'finetune' / f'finetune_{size}_{data}.py')
        cfg.model.backbone.update(arch=ours.arch, patch_size=ours.patch_size)
        cfg.model.backbone.init_cfg.checkpoint = str(self.checkpoint())
        if pretrained.model.type == 'MAE':
            cfg.model.backbone.update(type='VisionTransformer', out_type='featmap')
        if isinstance(ours.arch, dict):
            cfg.model.head.in_channels = ours.arch['embed_dims']
        images = [protocol.images, protocol.test_images, protocol.test_images]
        for dataset, count in zip(find_datasets(cfg), images, strict=True):
            dataset.data_root = source.data_root
            if count is not None:
                dataset.indices = count
        if protocol.batch_size is not None:  # the recipe's rule: the rate is proportional to the batch
            cfg.optim_wrapper.optimizer.lr *= protocol.batch_size / cfg.batch_size
            cfg.batch_size = cfg.train_dataloader.batch_size = protocol.batch_size
        if protocol.finetune_epochs is not None:
            set_epochs(cfg, protocol.finetune_epochs)
        cfg.train_cfg.val_interval = cfg.train_cfg.max_epochs  # once, at the end
        fit_workers(cfg, {})
        return self._name_run(cfg, 'finetune')

    def checkpoint(self) -> Path | None:
        """Find the checkpoint of the pre-training."""
        return find_checkpoint(self.folder / 'pretrain')

    def _name_run(self, cfg: Config, stage: str) -> Config:
        cfg.work_dir, cfg.randomness.seed, cfg.launcher = str(self.folder / self.name(stage)), self.seed, 'none'
        # mmengine keeps one object of each name.
        cfg.experiment_name = f'{self.recipe}_seed{self.seed}_{stage}_{time.time_ns()}'
        return cfg


def run_stages(job: Job, report: Callable[[Job, str], None] = lambda job, stage: None) -> bool:
    """Run the stages that have not been done; one that was interrupted continues where it stopped.

    Args:
        job: The run.
        report: Called with it and the name of a stage when its result has been written.

    Returns:
        False if another process is at this run, which then is skipped.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    with claim(job.folder / '.lock') as claimed:
        for stage in STAGES:
            if job.result(stage) is not None or not applies(job, stage):
                continue
            if not claimed:
                return False
            print(f'{job.recipe}, seed {job.seed}: {stage}', flush=True)
            begin = time.perf_counter()
            result = {'pretrain': _pretrain, 'probe': _probe, 'finetune': _finetune}[stage](job)
            result.setdefault('seconds', round(time.perf_counter() - begin, 1))
            result.update(threads=torch.get_num_threads(), origin=describe_origin())
            write_json(job.folder / f'{job.name(stage)}.json', result)
            report(job, stage)
    return True


def applies(job: Job, stage: str) -> bool:
    """Return whether a run has a stage."""
    if job.recipe in BASELINES:
        return stage == 'probe'
    return stage != 'finetune' or (job.protocol.finetune_epochs != 0 and 'supervised' not in job.recipe)


def _pretrain(job: Job) -> dict[str, Any]:
    runner = _train(job.config())
    loss = runner.message_hub.get_scalar('train/loss').mean(runner.log_processor.window_size)
    multiply_adds = count_executed(runner.model)
    return {**_describe(runner), 'loss': round(float(loss), 6), 'multiply_adds': multiply_adds}


def _finetune(job: Job) -> dict[str, Any]:
    runner = _train(job.finetune_config())
    with _quiet():
        accuracy = runner.val_loop.run()['accuracy/top1']
    return {**_describe(runner), 'accuracy': float(accuracy)}


def _train(cfg: Config) -> Runner:
    use_resume(cfg, 'auto')
    with _quiet():
        runner = launch.build_runner(cfg)
        with ending_workers(runner):
            runner.train()
    return runner


def _describe(runner: Runner) -> dict[str, Any]:
    images = len(runner.train_dataloader.dataset)
    # Of all steps, also those before an interruption.
    seconds = float(runner.message_hub.get_scalar('train/time').mean()) * runner.max_iters
    return {'epochs': runner.max_epochs, 'images': images, 'steps': runner.max_iters, 'seconds': round(seconds, 1)}


def _probe(job: Job) -> dict[str, Any]:
    cfg = job.config()
    dataset = find_datasets(cfg)[0]
    train = load_split(dataset, 'train', job.protocol.probe_images or job.protocol.images)
    test = load_split(dataset, 'test', job.protocol.test_images)
    sizes = dict(train_images=len(train.labels), test_images=len(test.labels))
    if job.recipe == 'raw-pixels':
        train_x, test_x = (part.images.flatten(1).float() / 255 for part in (train, test))
        features = (train_x, train.labels, test_x, test.labels)
        return dict(knn=knn_accuracy(*features), linear=ridge_accuracy(*features), probe='ridge regression', **sizes)
    model = build_untrained(cfg.model, job.seed)
    if job.recipe != 'untrained':
        load_model(model, job.checkpoint())
    model.to('cuda' if torch.cuda.is_available() else 'cpu').eval()
    preprocess = partial(normalise, model.data_preprocessor)
    result = {**evaluate_backbone(model.backbone, preprocess, train, test)._asdict(), **sizes}
    if cfg.model.type == 'ImageClassifier':
        with torch.no_grad():  # the classifier's own accuracy
            inputs = (preprocess(batch) for batch in test.images.split(256))
            predicted = torch.cat([model(batch).argmax(1).cpu() for batch in inputs])
        result['accuracy'] = 100 * (predicted == test.labels).double().mean().item()
    return result


def load_split(dataset: ConfigDict, split: str, count: int | None = None) -> LabelledImages:
    """Read ``'train'`` or ``'test'`` of a data set, the first ``count`` images; kept for the process's next run."""
    data = _read(dataset.type, dataset.data_root, split)
    return LabelledImages(data.images[:count], data.labels[:count])


@lru_cache(maxsize=4)
def _read(kind: str, root: str, split: str) -> InMemoryDataset:
    return InMemoryDataset(dict(type=kind, data_root=root, split=split), device='cpu')


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
