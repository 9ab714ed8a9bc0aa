"""The training loop: the same sums however it is cut up, by a kill or over processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import nn

from scorefusion.errors import Cancelled, RequestError
from scorefusion.progress import Reporter
from scorefusion.training.packed import PackedData, pack
from scorefusion.training.recipe import Stage
from scorefusion.training.trainer import Trainer, TrainingError, generator_for, load_average
from scorefusion.training.volumes import TrainingVolume

STEPS = 12


class Toy(nn.Module):
    """A regression with every source of randomness that the real losses have: data, noise, dropout."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(4, width), nn.SiLU(), nn.Dropout(0.2), nn.Linear(width, 1))

    def forward(self, x, generator):
        noise = torch.randn(x.shape, generator=generator)
        return (self.net(x + 0.1 * noise) - x.sum(dim=1, keepdim=True)).square().mean()


def feed(step, stream):
    return torch.randn(6, 4, generator=generator_for(5, step, stream))


def make(folder, *, reporter=None, width=8, loss=None, **options):
    stage = Stage(**{"steps": STEPS, "accumulate": 2, "learning_rate": 1e-2, "warmup_steps": 3, **options})
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    return Trainer(fabric, loss or Toy(width), stage, folder, seed=3, name="toy", reporter=reporter or Reporter())


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.parameters])


class TestResume:
    @pytest.mark.parametrize("kill_at", [1, 5, 11])
    def test_goes_on_to_the_bit_after_a_stop(self, tmp_path, kill_at):
        whole = make(tmp_path / "whole")
        whole.run(feed)
        calls = 0

        def stop():
            nonlocal calls
            calls += 1
            return calls == kill_at

        broken = make(tmp_path / "broken", reporter=Reporter(cancelled=stop))
        with pytest.raises(Cancelled):
            broken.run(feed)
        assert broken.step == kill_at
        torch.manual_seed(99)  # the global generator must not matter
        resumed = make(tmp_path / "broken")
        resumed.run(feed)
        assert torch.equal(weights(resumed), weights(whole))
        averages = [load_file(tmp_path / name / "average.safetensors") for name in ("whole", "broken")]
        assert all(torch.equal(averages[0][key], averages[1][key]) for key in averages[0])

    def test_a_signal_in_the_middle_of_an_update_costs_no_bit(self, tmp_path, monkeypatch):
        whole = make(tmp_path / "whole")
        whole.run(feed)
        broken = make(tmp_path / "broken", reporter=Reporter(cancelled=lambda: broken.step == 3 and broken.save()))
        update = broken.optimizer.step

        def interrupted(*arguments, **keywords):
            update(*arguments, **keywords)
            if broken.step == 4:
                raise Cancelled

        monkeypatch.setattr(broken.optimizer, "step", interrupted)
        with pytest.raises(Cancelled, match=r"at step 4.*same command goes on"):
            broken.run(feed)
        resumed = make(tmp_path / "broken")
        resumed.run(feed)
        assert torch.equal(weights(resumed), weights(whole))

    def test_a_finished_run_is_left_as_it_is(self, tmp_path):
        first = make(tmp_path)
        first.run(feed)
        again = make(tmp_path)
        again.run(feed)
        assert again.step == STEPS
        assert torch.equal(weights(first), weights(again))

    def test_refuses_the_checkpoint_of_other_sizes(self, tmp_path):
        make(tmp_path).run(feed)
        with pytest.raises(RequestError, match="other sizes"):
            make(tmp_path, width=9).run(feed)

    def test_log_has_no_step_twice(self, tmp_path):
        def examine(step):
            return {"gain": float(step)}

        trainer = make(tmp_path)
        trainer.examine = examine
        trainer.run(feed)
        trainer.log({"written": 1.0})
        trainer.step = STEPS + 5
        trainer.log({"after the checkpoint": 1.0})
        make(tmp_path).resume()
        text = (tmp_path / "log.csv").read_text()
        assert "gain" in text
        assert "after the checkpoint" not in text


class TestLoop:
    def test_learns(self, tmp_path):
        trainer = make(tmp_path, steps=150)
        before = trainer.loss(feed(0, 0), generator_for(0))
        trainer.run(feed)
        trainer.loss.eval()
        assert trainer.loss(feed(0, 0), generator_for(0)) < 0.5 * before

    def test_keeps_an_average_of_the_weights(self, tmp_path):
        trainer = make(tmp_path, steps=30, ema_decay=0.9)
        expected = [p.detach().clone() for p in trainer.parameters]
        for step in range(30):
            trainer.take_step(feed)
            decay = min(0.9, (1 + step) / (10 + step))
            expected = [decay * e + (1 - decay) * p.detach() for e, p in zip(expected, trainer.parameters, strict=True)]
        for average, value in zip(trainer.average, expected, strict=True):
            torch.testing.assert_close(average, value)

    def test_learning_rate_rises_then_falls_along_a_cosine(self, tmp_path):
        trainer = make(tmp_path, steps=100, warmup_steps=10)
        rates = []
        for trainer.step in range(100):
            rates.append(trainer.learning_rate())
        assert rates[0] == pytest.approx(1e-3, rel=0.01)
        assert max(rates) == pytest.approx(1e-2, rel=0.03)
        assert rates[55] == pytest.approx(1e-2 * (0.02 + 0.98 * 0.5 * (1 + torch.tensor(torch.pi * 0.55).cos().item())))
        assert rates[-1] < 4e-4

    def test_says_so_when_the_loss_is_lost(self, tmp_path):
        class Broken(Toy):
            def forward(self, x, generator):
                return super().forward(x, generator) * float("nan")

        with pytest.raises(TrainingError, match="loss was no number.*learning_rate"):
            make(tmp_path, loss=Broken()).run(feed)

    def test_examine_sees_the_average_and_training_goes_on_with_its_own_weights(self, tmp_path):
        trainer = make(tmp_path, steps=5)
        seen = []
        trainer.examine = lambda step: {"sum": seen.append(weights(trainer).clone()) or 0.0}
        for _ in range(5):
            trainer.take_step(feed)
        own = weights(trainer).clone()
        trainer.look()
        assert torch.equal(seen[0], torch.cat([a.flatten() for a in trainer.average]))
        assert torch.equal(weights(trainer), own)
        assert not torch.equal(seen[0], own)

    def test_average_can_be_loaded_into_a_fresh_module(self, tmp_path):
        trainer = make(tmp_path)
        trainer.run(feed)
        fresh = Toy()
        assert load_average(fresh, tmp_path)
        assert torch.equal(fresh.net[0].weight, trainer.average[0])
        assert not load_average(fresh, tmp_path / "nowhere")


@pytest.mark.slow
def test_two_processes_with_optional_conditions_get_the_weights_of_one_with_twice_the_accumulation(tmp_path):
    """A missing condition leaves networks out of a step, in one process not in the other; and the run is resumed."""
    noise = torch.rand(3, 3, 28, 28, 28, generator=torch.Generator().manual_seed(1)) * 2 - 1
    noise[1, 1] = -1.0  # one person has no t2
    people = tuple(
        TrainingVolume(f"p{n}/flair", f"p{n}", ("t1", "t2", "flair"), data.half().numpy())
        for n, data in enumerate(noise)
    )
    script = Path(__file__).with_name("two_processes.py")
    for folder, accumulate, devices in (("one", 2, 1), ("two", 1, 2)):
        (tmp_path / folder).mkdir()
        pack(PackedData(people[:2], people[2:], (), (None, None, None)), tmp_path / folder / "scans.safetensors")
        command = [sys.executable, str(script), str(tmp_path / folder), str(accumulate), str(devices)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert not list(tmp_path.rglob("*.partial"))
        assert (tmp_path / folder / "run" / "bundle" / "tiny" / "configs" / "metadata.json").is_file()
    for stage, steps in (("planes", 5), ("joint", 2)):
        folders = [tmp_path / name / "run" / stage for name in ("one", "two")]
        assert all(torch.load(f / "state.ckpt", weights_only=True)["step"] == steps for f in folders)
        one, two = (load_file(folder / "average.safetensors") for folder in folders)
        assert max(float((one[key] - two[key]).abs().max()) for key in one) < 1e-5
        assert any(float(value.abs().max()) > 0.1 for value in one.values())
