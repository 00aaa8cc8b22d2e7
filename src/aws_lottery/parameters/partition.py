"""Which parameters of a model are pruned, which only have their signs taken, and which are normalization."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from ..config import PROTOCOLS, SignedMaskConfig
from ..summaries import some_text
from .classifier import find_classifier
from .kinds import is_norm, kind_of
from .unwrap import class_name, every_name_of, modules_of, parameters_of


@dataclass(frozen=True)
class Part:
    """What becomes of one parameter."""

    name: str
    aliases: tuple[str, ...]  # its other names, if it is tied
    size: int
    kind: str  # as `kind_of`
    spared: str | None  # why it is not pruned: its kind, or classifier, excluded, frozen; None if it is


@dataclass(frozen=True)
class Partition:
    """Every parameter of a model by its part in the search; names as `parameters_of` has them.

    theta = [phi, psi]: `psi` are the parameters of normalization layers, which get neither mask nor sign;
    phi is all the rest: `prunable` get a mask and a sign, `signed_only` (biases, the classifier, excluded, frozen or
    unknown layers) a sign (Section 3.1; Appendix A for psi). docs/partition.md has examples.
    """

    parts: tuple[Part, ...]
    classifier: str | None  # module left out of pruning as the classifier
    doubt: str | None  # why that may be the wrong one

    @property
    def prunable(self) -> tuple[str, ...]:
        return self._named(lambda part: part.spared is None)

    @property
    def signed_only(self) -> tuple[str, ...]:
        return self._named(lambda part: part.spared is not None and part.kind != "norm")

    @property
    def psi(self) -> tuple[str, ...]:
        return self._named(lambda part: part.kind == "norm")

    @property
    def norms(self) -> tuple[str, ...]:
        """Modules that own psi."""
        return tuple(dict.fromkeys(name.rpartition(".")[0] for name in self.psi))

    @property
    def unknown(self) -> tuple[str, ...]:
        """Weights of two or more dimensions in layers of no known kind that are not pruned."""
        return self._named(lambda part: part.spared == "unknown")

    @property
    def frozen(self) -> tuple[str, ...]:
        """Weights that are not pruned only because they are frozen."""
        return self._named(lambda part: part.spared == "frozen")

    @property
    def signed(self) -> tuple[str, ...]:
        return self.prunable + self.signed_only

    def names_of(self, name: str | None) -> str:
        """A module by its name and, where its weight is tied, the parameter's other names."""
        own = [part for part in self.parts if any(n.rpartition(".")[0] == name for n in (part.name, *part.aliases))]
        tied = [n for part in own if part.aliases for n in (part.name, *part.aliases) if n.rpartition(".")[0] != name]
        return f"{name}" + (f" (tied: {', '.join(tied)})" if tied else "")

    def __str__(self) -> str:
        """One line each for prunable, signed-only and psi parameters, with counts by kind or reason."""
        spared = [part for part in self.parts if part.spared and part.kind != "norm"]
        labels = {"classifier": f"classifier {self.names_of(self.classifier)}"}
        lines = [
            _line("prunable", [part for part in self.parts if not part.spared], lambda part: part.kind),
            _line("signed only", spared, lambda part: labels.get(part.spared or "", part.spared)),
            _line("psi", [part for part in self.parts if part.kind == "norm"], lambda part: "normalization"),
        ]
        return "\n".join(line for line in lines if line)

    def _named(self, wanted) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts if wanted(part))


def _line(role: str, parts: list[Part], label) -> str:
    if not parts:
        return ""
    counts: dict[str, int] = {}
    for part in parts:
        counts[label(part)] = counts.get(label(part), 0) + part.size
    shown = ", ".join(f"{what} {count:,}" for what, count in counts.items())
    return f"{role:<12}{sum(counts.values()):>14,} in {len(parts):,} tensors: {shown}"


def partition(model: nn.Module, config: SignedMaskConfig) -> Partition:
    """Sort the parameters of `model` as `config` says.

    A weight is pruned if its kind (`kind_of`) is among `config.prunable` or `config.include` matches it, unless it
    is the classifier's, excluded or frozen. A tied weight is what it is under all its names: it is pruned only if it
    may be under each of them.
    Raises: ValueError if nothing is left to prune, or a name or glob of the configuration matches nothing.
    """
    modules, every = modules_of(model), every_name_of(model)
    classifier, doubt = (None, None) if config.prune_classifier else _classifier(model, modules, config.classifier)
    names: dict[int, list[str]] = {}
    for name, parameter in every.items():
        names.setdefault(id(parameter), []).append(name)
    parts = []
    for name, parameter in parameters_of(model).items():
        aliases = names[id(parameter)]
        kinds = [kind_of(alias, parameter, modules) for alias in aliases]
        spared = _spared(aliases, kinds, parameter, classifier, config)
        others = tuple(alias for alias in aliases if alias != name)
        parts.append(Part(name, others, parameter.numel(), kind_of(name, parameter, modules), spared))
    result = Partition(tuple(parts), classifier, doubt)
    _check(result, every, config, class_name(model))
    return result


def _spared(
    names: list[str], kinds: list[str], parameter: nn.Parameter, classifier: str | None, config: SignedMaskConfig
) -> str | None:
    """Why a parameter of these names and kinds is not pruned; None if it is."""
    if "norm" in kinds:
        return "norm"
    if any(matches(name, config.exclude) for name in names):
        return "excluded"
    if classifier is not None and any(name.startswith(f"{classifier}.") for name in names):
        return "classifier"
    included = parameter.dim() > 1 and any(matches(name, config.include) for name in names)
    if not included and (others := [kind for kind in kinds if kind not in config.prunable]):
        return others[0]
    if parameter.requires_grad or config.prune_frozen or PROTOCOLS[config.protocol].unused_layers:
        return None
    return "frozen"


def norm_parameters(model: nn.Module) -> set[str]:
    """Names of psi, which gets neither mask nor sign."""
    norms = [(name, module) for name, module in modules_of(model).items() if is_norm(module)]
    return {f"{name}.{leaf}".lstrip(".") for name, norm in norms for leaf, _ in norm.named_parameters(recurse=False)}


def _classifier(model: nn.Module, modules: dict[str, nn.Module], named: str | None) -> tuple[str | None, str | None]:
    if named is None:
        return find_classifier(model, modules)
    if named not in modules:
        raise ValueError(f"classifier '{named}' is not a module of the model; its modules: {_quoted(modules)}")
    return named, None


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern matches the parameter or any module that it lies in."""
    parts = name.split(".")
    prefixes = [".".join(parts[: n + 1]) for n in range(len(parts))]
    return any(fnmatchcase(prefix, pattern) for prefix in prefixes for pattern in patterns)


def _check(parts: Partition, every: dict[str, nn.Parameter], config: SignedMaskConfig, model: str) -> None:
    for field in ("exclude", "include"):
        for pattern in getattr(config, field):
            if not any(matches(name, (pattern,)) for name in every):
                raise ValueError(
                    f"{field} pattern '{pattern}' matches no parameter of the model; it has: {_quoted(every)}"
                )
    if not parts.prunable:
        spared = {
            f"without the classifier '{parts.classifier}'": parts.classifier is not None,
            f"without exclude={list(config.exclude)}": config.exclude,
            f"without {len(parts.frozen)} that are frozen (prune_frozen=True prunes them)": parts.frozen,
        }
        pruned = [f"what is of kind {' or '.join(config.prunable)}", *(text for text, there in spared.items() if there)]
        raise ValueError(
            f"nothing to prune in this {model}, whose parameters are {_quoted(every) or 'none'}: pruned is "
            f"{', '.join(pruned)}; include= names weights of other kinds"
        )


def _quoted(names: Iterable[str]) -> str:
    return some_text(map(repr, names))
