"""The origin of a run is written beside its log."""

import json
import subprocess
import sys

from randsac_mm.engine import origin


def test_a_record_is_written_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tools/train.py', 'a b.py', '--resume'])
    monkeypatch.setenv('RANDSAC_COMMIT', 'abc')
    path = origin.write_origin(tmp_path)
    record = json.loads(path.read_text())
    assert list(tmp_path.iterdir()) == [path]
    assert record['command'].endswith("tools/train.py 'a b.py' --resume")
    assert (record['commit'], record['processes']) == ('abc', 1)
    assert all(record[key] for key in record if key != 'gpus')


def test_commit_of_this_clone_and_of_none(tmp_path, monkeypatch):
    def git(*command):
        named = ['git', '-C', str(tmp_path), '-c', 'user.name=a', '-c', 'user.email=a@b', *command]
        return subprocess.run(named, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.delenv('RANDSAC_COMMIT', raising=False)
    monkeypatch.setattr(origin, '_ROOT', tmp_path)
    assert origin.find_commit() == 'unknown'
    (tmp_path / 'a').write_text('1')
    git('init', '-q')
    git('add', 'a')
    git('commit', '-qm', 'a')
    (tmp_path / 'new').write_text('untracked files change nothing')
    assert origin.find_commit() == git('rev-parse', '--short', 'HEAD')
    (tmp_path / 'a').write_text('2')
    assert origin.find_commit() == git('rev-parse', '--short', 'HEAD') + '+changes'
