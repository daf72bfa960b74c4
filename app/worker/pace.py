"""How fast a sequence model is, learned while it runs, and how much of its work makes a tick."""

from app.worker.pieces import CHUNK

STEPS = 8  # steps of one tick: one copy and one wake-up for all of them
SAMPLE_STEPS = 256  # the same where nobody reads single tokens: codes of pictures, samples of sound
HURRIED_STEPS = 2  # while somebody waits for a first token
TICK_SECONDS = 0.03  # what a tick should stay under
LONE_TICK_SECONDS = 0.25  # of prompts, while nobody's tokens wait for its end
TICK_TOKENS = 512  # of prompts, at most
CALL_TOKENS = 256  # of several prompts in one call, however short the tick should be: together they cost half as much
LEARNING = 0.2  # weight of the last measurement


class Pace:
    """Seconds of a step and of a prompt's token.

    Attributes:
        step_seconds: of one step of the rows that ran lately.
        token_seconds: of one token, in calls that read as many as a piece at least.
    """

    def __init__(self, step_seconds: float, token_seconds: float, most_steps: int = STEPS) -> None:
        """As measured at warm-up; a tick has `most_steps` at most."""
        self.step_seconds, self.token_seconds = step_seconds, token_seconds
        self._most_steps = most_steps

    def steps(self, longest: int, *, hurried: bool) -> int:
        """Steps of a tick: so many that it stays short, and no more than the longest sequence still needs."""
        fitting = int(TICK_SECONDS / max(self.step_seconds, 1e-6))
        return max(1, min(HURRIED_STEPS if hurried else self._most_steps, longest, fitting))

    def tokens(self, *, alone: bool) -> int:
        """Tokens of prompts that a tick reads: a piece at least; more when nobody waits for its end."""
        seconds = LONE_TICK_SECONDS if alone else TICK_SECONDS
        return max(CHUNK, min(TICK_TOKENS, int(seconds / max(self.token_seconds, 1e-6))))

    def learn_steps(self, seconds: float, steps: int) -> None:
        """So many steps took so long."""
        self.step_seconds += LEARNING * (seconds / steps - self.step_seconds)

    def learn_tokens(self, seconds: float, tokens: int) -> None:
        """So many tokens took so long; few of them cost more each, and say little about many."""
        if tokens >= CHUNK:
            self.token_seconds += LEARNING * (seconds / tokens - self.token_seconds)
