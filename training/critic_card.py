"""What the card of a model with a critic says about it; measures nothing itself."""

from collections.abc import Mapping
from typing import Any

from models.critic import CriticFile

COLUMNS = {
    "steps": "steps",
    "fd_clf": "fd_clf",
    "precision": "precision",
    "recall": "recall",
    "class_accuracy": "class accuracy",
    "diversity": "diversity",
    "milliseconds": "ms a picture",
}


def section(critic: CriticFile) -> str:
    """Where the critic comes from, how well it knows real pictures, and what sampling by it gains."""
    card = critic.card
    parts = [_origin(critic)]
    if "sampling" in card:
        parts += [_table(card["sampling"]), _how(card["sampling"], critic)]
    return "\n\n".join(parts)


def _origin(critic: CriticFile) -> str:
    step = critic.card.get("step")
    when = f" as it was at step {step:,}" if isinstance(step, int) else ""
    known = critic.card.get("nll")
    said = f"; with it, held-out pictures are told apart at {known:.4g} nats each (a guess: 0.6931)" if known else ""
    return (
        f'`critic.safetensors` holds the discriminator of the same run{when}, for `sampler`: "mcmc". Pictures of seeds '
        f"do not depend on it. Its logits are multiplied by {critic.scale:g}, found by logistic regression on half of "
        f"the test split{said}."
    )


def _table(sampling: Mapping[str, Any]) -> str:
    rows = ["| " + " | ".join(COLUMNS.values()) + " |", "|" + "---|" * len(COLUMNS)]
    rows += ["| " + " | ".join(f"{row[name]:.4g}" for name in COLUMNS) + " |" for row in sampling["table"]]
    return "\n".join(rows)


def _how(sampling: Mapping[str, Any], critic: CriticFile) -> str:
    threads = sampling["threads"]
    return (
        f"Langevin steps of size {critic.step_size:g}; {sampling['count']:,} pictures of the same first latents in "
        f"each row, every class equally often, on the judge `{sampling['judge']}`: fewer than above, so that these "
        f"distances compare with each other alone. The time is the processor's, with {threads} "
        f"thread{'s' if threads > 1 else ''}, beyond that of the picture itself."
    )
