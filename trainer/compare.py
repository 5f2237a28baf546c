"""Two versions side by side on the same test rows, and whether one may replace the other."""

from dataclasses import dataclass
from pathlib import Path

from trainer import evaluate, modelconfig, scores, store
from trainer.errors import Refused, UsageError
from trainer.examples import Examples

HEADLINE = "accuracy"


@dataclass(frozen=True)
class Comparison:
    """What two versions make of the same rows.

    Attributes:
        first: figures of the first version by name.
        second: figures of the second.
        only_first: rows only the first got right.
        only_second: rows only the second got right.
        p_value: McNemar's exact two-sided test.
    """

    first: dict[str, float]
    second: dict[str, float]
    only_first: int
    only_second: int
    p_value: float

    def table(self, first: str, second: str) -> str:
        """The comparison as aligned text."""
        lines = [f"{'':20}{first:>12}{second:>12}{'difference':>12}"]
        lines += [
            f"{name:20}{value:12.4f}{self.second[name]:12.4f}{self.second[name] - value:+12.4f}"
            for name, value in self.first.items()
        ]
        verdict = "may be chance" if self.p_value > 0.05 else "unlikely to be chance"
        lines.append(
            f"right where the other errs: {self.only_first} rows against {self.only_second}; "
            f"McNemar p = {self.p_value:.4f}, {verdict}"
        )
        return "\n".join(lines)


def compare(first: Path, second: Path, test: Examples) -> Comparison:
    """Run both version directories on the test rows."""
    one, two = evaluate.answers(first, test), evaluate.answers(second, test)
    right = [answer.argmax(axis=1) == test.labels for answer in (one, two)]
    only_first, only_second, p_value = scores.mcnemar(right[0], right[1])
    return Comparison(
        scores.measure(one, test.labels), scores.measure(two, test.labels), only_first, only_second, p_value
    )


def promote(model_store: Path, model: str, version: int, test: Examples, because: str | None) -> str:
    """Make `version` the one that serves, if it is what its card says and no worse than the one that serves now.

    Args:
        model_store: the store.
        model: the model's name.
        version: the candidate.
        test: the test rows both are measured on.
        because: why a worse version is wanted all the same; kept in `promotions.log` beside the configuration.

    Returns:
        What was done, in a sentence.

    Raises:
        UsageError: it serves already, or there is no such version.
        CardMismatch: it is not what its card says.
        Refused: it is worse and no reason is given.
    """
    candidate = store.version_directory(model_store, model, version)
    serving = modelconfig.serving_version(model_store, model)
    if serving == version:
        raise UsageError(f"{model} version {version} serves already")
    evaluate.verify(candidate, test)
    gained = 0.0
    if serving is not None and serving in store.versions(model_store, model):
        found = compare(store.version_directory(model_store, model, serving), candidate, test)
        gained = found.second[HEADLINE] - found.first[HEADLINE]
        if gained < 0 and not because:
            raise Refused(
                f"{model} version {version} has {HEADLINE} {found.second[HEADLINE]:.4f}, the serving version {serving} "
                f"{found.first[HEADLINE]:.4f} (McNemar p = {found.p_value:.4f}); --because REASON promotes it anyway"
            )
    modelconfig.pin(model_store, model, version)
    note = f"{serving} -> {version}, {HEADLINE} {gained:+.4f}: {because or 'no worse'}"
    modelconfig.note_promotion(model_store, model, note)
    return f"{model}: version {version} serves now, before it {serving}"
