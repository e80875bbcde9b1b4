"""Those that compete, and why others cannot."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Running:
    """A model made ready to run: `call` returns its first output, for inputs that it has been given.

    `weight_bytes` is what its weights take as they are held, embeddings included; `note` what else there is
    to know of how it was made.
    """

    call: Callable[[], Tensor]
    weight_bytes: int
    note: str = ""


@dataclass(frozen=True, eq=False)
class Contender:
    """A way to compute the model under the name it is listed by; `ours` if it is this runtime."""

    name: str
    ours: bool
    running: Running


@dataclass(frozen=True, eq=False)
class Maker:
    """How a contender is made: where it cannot be, `make` raises one of `errors` with the reason."""

    name: str
    make: Callable[[], Running]
    errors: tuple[type[Exception], ...] = ()
    ours: bool = False

    def contender(self) -> Contender:
        """Make it, and call it once: some fail only then."""
        running = self.make()
        running.call()
        return Contender(self.name, self.ours, running)


@dataclass(frozen=True, eq=False)
class Field:
    """The contenders that could be made, and why the others could not, by name."""

    contenders: list[Contender] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def output(self, name: str) -> Tensor:
        """Return what the contender of a name computes."""
        return next(one for one in self.contenders if one.name == name).running.call()


def prepare(makers: Iterable[Maker]) -> Field:
    """Make the contenders that can be made here."""
    found = Field()
    for maker in makers:
        try:
            found.contenders.append(maker.contender())
        except maker.errors as error:
            found.missing[maker.name] = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return found
