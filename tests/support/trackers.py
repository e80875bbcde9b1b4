"""Stand-ins for experiment trackers, with what Trainer calls of them."""

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class Config(dict):
    """Settings of a run, as both W&B and trackio keep them."""

    def update(self, values: dict[str, Any], allow_val_change: bool = False) -> None:
        super().update(values)

    @property
    def __dict__(self) -> dict[str, Any]:
        # Where Trainer looks for the values of a trial.
        return {"_items": dict(self)}


class Run:
    """A run of W&B."""

    def __init__(self, number: int, config: Config) -> None:
        self.id, self.name, self.config, self.url = f"run-{number}", f"name-{number}", config, "https://here"
        self.summary: dict[str, Any] = {}

    def _label(self, **_: str) -> None:
        """Accept any call."""


def wandb(monkeypatch: pytest.MonkeyPatch, trials: tuple[dict[str, Any], ...] = ()) -> ModuleType:
    """Install a W&B whose sweeps try these values; `configs` has the configuration of every run."""
    module = _install(monkeypatch, "wandb")
    module.run, module.config, module.configs = None, Config(), []

    def init(**_: Any) -> Run:
        module.config = Config()
        module.configs.append(module.config)
        module.run = Run(len(module.configs), module.config)
        return module.run

    def finish() -> None:
        module.run = None

    def agent(sweep: str, function: Callable[[], Any], count: int) -> None:
        for values in trials[:count]:
            init()
            module.config.update(values)
            function()

    module.init, module.finish, module.agent, module.log = init, finish, agent, lambda *_, **__: None
    module.sweep = lambda *_, **__: "sweep"
    errors = _install(monkeypatch, "wandb.sdk.lib.config_util")
    errors.ConfigError = type("ConfigError", (Exception,), {})
    return module


def trackio(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = _install(monkeypatch, "trackio")
    module.config, module.init, module.finish = Config(), lambda **_: None, lambda: None
    module.log = lambda _: None
    module.context_vars = SimpleNamespace(current_space_id=SimpleNamespace(get=lambda: None))
    return module


def tensorboard(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Install a TensorBoard; return its texts by their names."""
    texts: dict[str, str] = {}

    class SummaryWriter:
        def __init__(self, log_dir: str) -> None:
            pass

        def add_text(self, tag: str, text: str, step: int | None = None) -> None:
            texts[tag] = text

        def add_scalar(self, *_: Any) -> None:
            pass

        flush = close = lambda self: None

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    _install(monkeypatch, "tensorboardX").SummaryWriter = SummaryWriter
    return texts


def _install(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    monkeypatch.setitem(sys.modules, name, module)
    return module
