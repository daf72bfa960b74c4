"""The errors of the training program: one class, so that the command line can print one line and exit 1."""


class TrainingError(Exception):
    """Something that a person must mend: a recipe, a data folder, a run that diverged. The message names it."""
